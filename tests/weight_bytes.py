"""Stored weights of every type: what a quantiser gives, and bytes that it never would."""

from __future__ import annotations

import numpy as np

from pytreellama.testing.products import Bytes, WeightType, block_size, encode_weights, row_bytes

PLAIN_TYPES = ("f32", "f16", "bf16")

SLOW_TYPES = ("iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")
"""To round to these takes seconds or an importance matrix."""

EXTREMES: dict[str, tuple[int, ...]] = {
    "zeros": (0x00,),
    "ones": (0xFF,),
    "lowest": (0x80,),
    "highest": (0x7F,),
    "all of them": (0x00, 0x7F, 0x80, 0xFF),
}
"""Bytes of which `any_weights` can fill quantised values: -128 is 0x80, and -8 a nibble of 0."""

# where a block keeps its scales and minima in F16 (ggml-common.h)
_SCALES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("q8_0", "q5_0", "q4_0", "q2_0", "q1_0", "iq4_nl", "iq4_xs"), (0,)),
    **dict.fromkeys(("iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_s"), (0,)),
    **dict.fromkeys(("q5_1", "q4_1", "q5_k", "q4_k"), (0, 2)),
    "q6_k": (208,),
    "q3_k": (108,),
    "q2_k": (80, 82),
    "tq2_0": (64,),
    "tq1_0": (52,),
}
_IQ1_M_SCALES = slice(48, 56)
_MXFP4_EXPONENT = 0
_NVFP4_SCALES = slice(0, 4)


def rounded_weights(kind: WeightType, rng: np.random.Generator, n_out: int, n_in: int) -> Bytes:
    """Normal weights as a file has them, uint8 (n_out, bytes of a row); of `SLOW_TYPES`, any."""
    if kind in SLOW_TYPES:
        return any_weights(kind, rng, n_out, n_in)
    return encode_weights(rng.normal(size=(n_out, n_in)).astype(np.float32), kind)


def any_weights(
    kind: WeightType,
    rng: np.random.Generator,
    n_out: int,
    n_in: int,
    n_experts: int | None = None,
    fill: str | None = None,
) -> Bytes:
    """Weights of any bytes, or of some of `EXTREMES`, with finite scales.

    Types without quantised values get normal weights. uint8, (n_out, bytes of a row), or
    (n_experts, n_out, bytes of a row).
    """
    n_rows, n_blocks = (n_experts or 1) * n_out, n_in // block_size(kind)
    if kind in PLAIN_TYPES:
        data = encode_weights(rng.normal(size=(n_rows, n_in)).astype(np.float32), kind)
    else:
        shape = (n_rows, n_blocks, row_bytes(kind, block_size(kind)))
        bytes_ = np.array(EXTREMES[fill] if fill else range(256), dtype=np.uint8)
        blocks = rng.choice(bytes_, size=shape)
        _set_scales(kind, blocks, rng)
        data = blocks.reshape(n_rows, -1)
    return data if n_experts is None else data.reshape(n_experts, n_out, -1)


def _set_scales(kind: WeightType, blocks: Bytes, rng: np.random.Generator) -> None:
    n_rows, n_blocks = blocks.shape[:2]
    if kind == "mxfp4":
        blocks[..., _MXFP4_EXPONENT] = rng.integers(118, 126, (n_rows, n_blocks))
    elif kind == "nvfp4":
        blocks[..., _NVFP4_SCALES] = rng.integers(0x28, 0x40, (n_rows, n_blocks, 4))
    elif kind == "iq1_m":
        _set_nibbles(blocks[..., _IQ1_M_SCALES], _f16_scales(rng, n_rows, n_blocks))
    else:
        for offset in _SCALES[kind]:
            scales = _f16_scales(rng, n_rows, n_blocks)
            blocks[..., offset : offset + 2] = scales.view(np.uint8)


def _f16_scales(rng: np.random.Generator, n_rows: int, n_blocks: int) -> np.ndarray:
    """float16 (n_rows, n_blocks, 1), of both signs: a quantiser gives the extreme the sign."""
    scales = rng.uniform(0.002, 0.02, (n_rows, n_blocks, 1)) * rng.choice([-1, 1], (n_rows, 1, 1))
    halves: np.ndarray = scales.astype(np.float16)
    return halves


def _set_nibbles(fields: Bytes, scales: np.ndarray) -> None:
    """A block of iq1_m has a nibble of its scale at the top of each of four 16-bit numbers."""
    words = np.ascontiguousarray(fields).view(np.uint16)
    nibbles = scales.view(np.uint16) >> np.array([0, 4, 8, 12], dtype=np.uint16) & 0xF
    fields[...] = (words & 0x0FFF | nibbles << 12).astype(np.uint16).view(np.uint8)
