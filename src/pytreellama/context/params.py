"""What a user sets when making a context."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, TypeGuard

from pytreellama.errors import ContextError, shown
from pytreellama.known_names import suggests_names
from pytreellama.native.limits import N_SEQ_MAX, N_THREADS_MAX

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]

_MAX_N_CTX = 2**31 - 1
N_RS_SEQ_MAX = 64

MAX_SEQUENCES = N_SEQ_MAX
"""Largest ``n_seq_max``: llama.cpp's number of sequence ids."""


def default_n_threads() -> int:
    """Threads that this process may run on: physical cores where that is known."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, psutil.cpu_count(logical=False) or allowed or 1))


@suggests_names(ContextError)
@dataclass(frozen=True, slots=True)
class ContextParams:
    """Sizes and types of a context; the names are llama.h's.

    Attributes:
        n_ctx: tokens that the KV cache holds, for all sequences together; 0 means what the model
            was trained for.
        n_batch: most tokens in one ``decode``.
        n_ubatch: most tokens in one pass over the weights.
        n_seq_max: sequences that a user works with at once; the ids are 0 to n_seq_max - 1.
        n_rs_seq: most tokens of a chain that a recurrent state can be rolled back over, each at the
            memory of a state for each sequence; 0 for none, None for 8 where trees do not reach.
        n_threads: threads of a pass over one token; None means the cores of this machine.
        n_threads_batch: threads of a pass over more; None means ``n_threads``, because a tree
            is many small passes and should cost what plain decoding costs.
        type_k, type_v: types of the cached keys and values; a quantised ``type_v`` needs flash
            attention.
        flash_attention: True, False, or None where llama.cpp decides.
        kv_unified: one cache for all sequences. Without it each sequence has an equal part, and
            trees are limited to chains.
        offload_kv: keep the cache on the GPU, if there is one.
        swa_full: give sliding-window layers a cache of full size, so that a text can be rolled
            back by more than the window; trees need it.
        embeddings: put out hidden states; every token of a batch is then an output.
        rope_freq_base, rope_freq_scale: 0 means what the model says.
    """

    n_ctx: int = 4096
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_rs_seq: int | None = None
    n_threads: int | None = None
    n_threads_batch: int | None = None
    type_k: CacheType = "f16"
    type_v: CacheType = "f16"
    flash_attention: bool | None = None
    kv_unified: bool = True
    offload_kv: bool = True
    swa_full: bool = True
    embeddings: bool = False
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0

    def __post_init__(self) -> None:
        self._check_types()
        _require(
            0 <= self.n_ctx <= _MAX_N_CTX, "n_ctx", self.n_ctx, f"0 (the model's) to {_MAX_N_CTX}"
        )
        _require(1 <= self.n_batch <= _MAX_N_CTX, "n_batch", self.n_batch, f"1 to {_MAX_N_CTX}")
        _require(1 <= self.n_ubatch <= _MAX_N_CTX, "n_ubatch", self.n_ubatch, f"1 to {_MAX_N_CTX}")
        _require(1 <= self.n_seq_max <= N_SEQ_MAX, "n_seq_max", self.n_seq_max, f"1 to {N_SEQ_MAX}")
        if self.n_seq_max > min(self.n_batch, self.n_ctx or self.n_batch):
            raise ContextError(
                f"n_seq_max = {self.n_seq_max} was asked for with n_ctx = {self.n_ctx}, n_batch = "
                f"{self.n_batch}; both must have room for a token of each sequence"
            )
        n = self.n_rs_seq
        _require(n is None or 0 <= n <= N_RS_SEQ_MAX, "n_rs_seq", n, f"None or 0 to {N_RS_SEQ_MAX}")
        if n is not None and n >= min(self.n_ubatch, self.n_batch):
            raise ContextError(
                f"n_rs_seq = {n} was asked for with n_batch = {self.n_batch} and n_ubatch = "
                f"{self.n_ubatch}; a pass must take more tokens than the longest chain has"
            )
        for name in ("n_threads", "n_threads_batch"):
            value = getattr(self, name)
            allowed = f"None or 1 to {N_THREADS_MAX}"
            _require(value is None or 1 <= value <= N_THREADS_MAX, name, value, allowed)
        for name in ("type_k", "type_v"):
            _require(
                getattr(self, name) in CACHE_TYPES,
                name,
                getattr(self, name),
                ", ".join(CACHE_TYPES),
            )
        if self.type_v not in _PLAIN_TYPES and self.flash_attention is False:
            raise ContextError(
                f"type_v = {self.type_v} was asked for without flash attention, which it needs; "
                "leave flash_attention at None, or use f16"
            )

    def _check_types(self) -> None:
        for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max"):
            value = getattr(self, name)
            _require(is_integer(value), name, value, "a whole number")
        for name in ("n_rs_seq", "n_threads", "n_threads_batch"):
            value = getattr(self, name)
            _require(value is None or is_integer(value), name, value, "None or a whole number")
        for name in ("kv_unified", "offload_kv", "swa_full", "embeddings"):
            value = getattr(self, name)
            _require(isinstance(value, bool), name, value, "True or False")
        flash = self.flash_attention
        is_flag = flash is None or isinstance(flash, bool)
        _require(is_flag, "flash_attention", flash, "None, True or False")
        for name in ("rope_freq_base", "rope_freq_scale"):
            value = getattr(self, name)
            fits = isinstance(value, (int, float)) and 0.0 <= value <= _MAX_F32
            _require(fits, name, value, "0 (the model's), or a positive number of 32 bits")


CACHE_TYPES: tuple[str, ...] = CacheType.__args__  # type: ignore[attr-defined]
_PLAIN_TYPES = ("f32", "f16", "bf16")


_MAX_F32 = 3.4028234e38


def is_integer(value: object) -> TypeGuard[int]:
    """A whole number, of Python's or NumPy's types; True and False are none."""
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ContextError(f"invalid {name}={shown(value)}: expected {allowed}")
