"""Chains of samplers: the stages that choose a token from a row of logits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import SamplerError
from pytreellama.native.checks import check, check_pointer
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.sampler import NativeSampler, drawn_token, mask_pointer
from pytreellama.native.vocab import vocab_pointer
from pytreellama.process import awaited_calls

Int32 = NDArray[np.int32]

_FAILED = "llama.cpp's sampler failed"


class SamplerChain(NativeSampler):
    """Stages in the order in which they are added; the last one chooses.

    Methods raise ``SamplerError`` once it is closed. Rows of logits are those of ``native.logits``.

    Args:
        n_vocab: length of a row.
    """

    __slots__ = ()

    def __init__(self, n_vocab: int) -> None:
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._n_vocab = n_vocab
        self._handle = _owned(lib.llama_sampler_chain_init(params))

    def clone(self) -> SamplerChain:
        """An independent chain in the same state."""
        pointer = lib.treellama_sampler_clone(self._handle.pointer)
        check_pointer(pointer, SamplerError, "this sampler could not be cloned")
        other: SamplerChain = object.__new__(SamplerChain)
        other._handle, other._n_vocab = _owned(pointer), self._n_vocab
        return other

    def reset(self) -> None:
        """Forget what was accepted and drawn."""
        check(lib.treellama_sampler_reset(self._handle.pointer), SamplerError, _FAILED)

    def accept(self, token: int) -> None:
        """Take a token that exists as the next of the text."""
        check(lib.treellama_accept(self._handle.pointer, token), SamplerError, _FAILED)

    def accept_all(self, tokens: Int32) -> None:
        """Take tokens that exist, int32, shape (n,), contiguous."""
        pointer = ffi.from_buffer("llama_token[]", tokens)
        status = lib.treellama_accept_all(self._handle.pointer, pointer, len(tokens))
        check(status, SamplerError, _FAILED)

    # -- choosing

    def draw(self, row: Any, allowed: NDArray[np.uint32] | None = None) -> int | None:
        """Draw a token without accepting it; None where there is none to choose.

        Args:
            allowed: one bit a token, bit i % 32 of word i // 32; None allows all.
        """
        scratch = _scratch(self._n_vocab)
        status = lib.treellama_draw(
            self._handle.pointer,
            row,
            self._n_vocab,
            mask_pointer(allowed),
            scratch.rows,
            scratch.token,
        )
        return drawn_token(status, scratch.token, "llama.cpp could not draw a token")

    def distribution(
        self, row: Any, allowed: NDArray[np.uint32] | None = None, *, greedy: bool = False
    ) -> NDArray[np.float64] | None:
        """What ``draw`` draws from, float64, shape (n_vocab,); None where there is no token.

        Args:
            allowed: as for ``draw``.
            greedy: the chain takes the likeliest token.
        """
        scratch = _scratch(self._n_vocab)
        p = np.empty(self._n_vocab)
        status = lib.treellama_distribution(
            self._handle.pointer,
            row,
            self._n_vocab,
            mask_pointer(allowed),
            scratch.rows,
            greedy,
            ffi.from_buffer("double[]", p),
        )
        if status == lib.TREELLAMA_NO_CANDIDATE:
            return None
        check(status, SamplerError, _FAILED)
        return p

    # -- stages, by the names of llama.h

    def add_logit_bias(self, biases: Mapping[int, float]) -> None:
        pairs = ffi.new("llama_logit_bias[]", list(biases.items()))
        self._add(lib.llama_sampler_init_logit_bias(self._n_vocab, len(biases), pairs))

    def add_penalties(self, last_n: int, repeat: float, frequency: float, presence: float) -> None:
        stage = lib.llama_sampler_init_penalties(self._n_vocab, last_n, repeat, frequency, presence)
        self._add(stage)

    def add_dry(
        self,
        model: Handle,
        multiplier: float,
        base: float,
        allowed_length: int,
        last_n: int,
        breakers: Sequence[str],
    ) -> None:
        texts = [ffi.new("char[]", text.encode()) for text in breakers]
        with awaited_calls:  # it asks for the text of each token
            stage = lib.treellama_dry_init(
                vocab_pointer(model),
                multiplier,
                base,
                allowed_length,
                last_n,
                ffi.new("const char *[]", texts),
                len(texts),
            )
        self._add(stage)

    def add_mirostat(self, seed: int, tau: float, eta: float, m: int) -> None:
        self._add(lib.llama_sampler_init_mirostat(self._n_vocab, seed, tau, eta, m))

    def add_mirostat_v2(self, seed: int, tau: float, eta: float) -> None:
        self._add(lib.llama_sampler_init_mirostat_v2(seed, tau, eta))

    def add_top_n_sigma(self, n: float) -> None:
        self._add(lib.llama_sampler_init_top_n_sigma(n))

    def add_top_k(self, k: int) -> None:
        self._add(lib.llama_sampler_init_top_k(k))

    def add_typical(self, p: float, min_keep: int) -> None:
        self._add(lib.llama_sampler_init_typical(p, min_keep))

    def add_top_p(self, p: float, min_keep: int) -> None:
        self._add(lib.llama_sampler_init_top_p(p, min_keep))

    def add_min_p(self, p: float, min_keep: int) -> None:
        self._add(lib.llama_sampler_init_min_p(p, min_keep))

    def add_xtc(self, probability: float, threshold: float, min_keep: int, seed: int) -> None:
        self._add(lib.llama_sampler_init_xtc(probability, threshold, min_keep, seed))

    def add_temp(self, temperature: float) -> None:
        self._add(lib.llama_sampler_init_temp(temperature))

    def add_temp_ext(self, temperature: float, delta: float, exponent: float) -> None:
        self._add(lib.llama_sampler_init_temp_ext(temperature, delta, exponent))

    def add_greedy(self) -> None:
        self._add(lib.llama_sampler_init_greedy())

    def add_dist(self, seed: int) -> None:
        self._add(lib.llama_sampler_init_dist(seed))

    def _add(self, stage: Any) -> None:
        check_pointer(stage, SamplerError, "llama.cpp could not make a sampler")
        lib.llama_sampler_chain_add(self._handle.pointer, stage)


def argmax_token(row: Any, n_vocab: int) -> int | None:
    """The likeliest token of a row; None where every logit is NaN or -infinity."""
    token = _thread_scratch.token
    lib.treellama_argmax(row, 1, n_vocab, token)
    likeliest = int(token[0])
    return likeliest if row[likeliest] > -np.inf else None


class _Scratch(threading.local):
    """Room for one row of candidates: one a thread, for all its samplers."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.rows: Any = ffi.NULL
        self.token = ffi.new("llama_token *")


_thread_scratch = _Scratch()


def _scratch(n_tokens: int) -> _Scratch:
    if _thread_scratch.n_tokens < n_tokens:
        _thread_scratch.rows = ffi.new("llama_token_data[]", n_tokens)
        _thread_scratch.n_tokens = n_tokens
    return _thread_scratch


def _owned(pointer: Any) -> Handle:
    return Handle(pointer, lib.llama_sampler_free, "sampler", SamplerError)
