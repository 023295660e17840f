"""Packing of Q4_K, which gguf only unpacks: super-blocks of 256 values in 8 blocks of 32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUPER, BLOCK = 256, 32
N_BYTES = 2 + 2 + 12 + SUPER // 2
"""Of a super-block: two scales of scales, 8 scales and 8 minima of 6 bits, values of 4 bits."""


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise rows whose length divides into super-blocks: a value is ``scale * q - minimum``."""
    blocks = values.astype(np.float32).reshape(-1, SUPER // BLOCK, BLOCK)
    minimum = np.maximum(-blocks.min(-1), 0)
    scale = (blocks.max(-1) + minimum) / 15
    d, scales = _six_bits(scale)
    d_min, minima = _six_bits(minimum)
    step = (d * scales)[..., None]
    lifted = blocks + (d_min * minima)[..., None]
    q = np.divide(lifted, step, out=np.zeros_like(blocks), where=step > 0)
    packed = np.concatenate(
        [
            d.astype(np.float16).view(np.uint8),
            d_min.astype(np.float16).view(np.uint8),
            _joined_scales(scales.astype(np.uint8), minima.astype(np.uint8)),
            _joined_values(np.clip(np.rint(q), 0, 15).astype(np.uint8)),
        ],
        axis=-1,
    )
    return packed.reshape(*values.shape[:-1], values.shape[-1] // SUPER * N_BYTES)


def _six_bits(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A factor of half precision for each super-block, and its blocks' multiples of it."""
    d = (values.max(-1, keepdims=True) / 63).astype(np.float16).astype(np.float32)
    multiples = np.divide(values, d, out=np.zeros_like(values), where=d > 0)
    return d, np.clip(np.rint(multiples), 0, 63)


def _joined_scales(scales: NDArray[np.uint8], minima: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """4 scales and 4 minima in 6 bits of a byte; the other 8 in 4 bits, and in the free 2 bits."""
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    third = scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], axis=-1)


def _joined_values(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two blocks share 32 bytes: the first has the low halves."""
    pairs = q.reshape(-1, SUPER // BLOCK // 2, 2, BLOCK)
    joined: NDArray[np.uint8] = pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)
    return joined.reshape(len(q), SUPER // 2)
