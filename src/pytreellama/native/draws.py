"""RowSampler: the usual stages from a row of logits to a token, in a few passes over the row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import SamplerError
from pytreellama.native.checks import check, check_pointer
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.sampler import NativeSampler, drawn_token, mask_pointer

Int32 = NDArray[np.int32]

_FAILED = "the sampler failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """What the stages do, by the names of ``treellama-draw.h``; the defaults do nothing.

    Attributes:
        penalty_last_n: 0 for no penalties.
        temperature: 0.0 takes the likeliest token, and draws nothing.
    """

    penalty_last_n: int = 0
    penalty_repeat: float = 1.0
    penalty_freq: float = 0.0
    penalty_present: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    temperature: float = 0.0


class RowSampler(NativeSampler):
    """A ``SamplerChain`` of logit bias, penalties, top-k, top-p, min-p, temperature and the draw.

    It keeps the tokens that such a chain keeps, in the same order, and draws with the same random
    numbers; equal logits stand by token id. Methods raise ``SamplerError`` once it is closed.

    Args:
        n_vocab: length of a row.
        stages: what they do.
        biases: what is added to the logits of tokens, which exist.
        seed: of the random numbers.
    """

    __slots__ = ("_stages", "_token")

    def __init__(
        self, n_vocab: int, stages: Stages, biases: Mapping[int, float], seed: int
    ) -> None:
        params = ffi.new(
            "treellama_draw_params *",
            {name: getattr(stages, name) for name in Stages.__slots__} | {"seed": seed},
        )
        pairs = ffi.new("llama_logit_bias[]", list(biases.items()))
        pointer = lib.treellama_row_sampler_init(params, pairs, len(biases))
        self._own(pointer, n_vocab, stages)

    def _own(self, pointer: Any, n_vocab: int, stages: Stages) -> None:
        check_pointer(pointer, SamplerError, "a sampler could not be made")
        self._handle = Handle(pointer, lib.treellama_row_sampler_free, "sampler", SamplerError)
        self._n_vocab, self._stages = n_vocab, stages
        self._token = ffi.new("llama_token *")

    def clone(self) -> RowSampler:
        """An independent sampler in the same state."""
        other: RowSampler = object.__new__(RowSampler)
        pointer = lib.treellama_row_sampler_clone(self._handle.pointer)
        other._own(pointer, self._n_vocab, self._stages)
        return other

    def reset(self) -> None:
        """Forget what was accepted and drawn."""
        check(lib.treellama_row_sampler_reset(self._handle.pointer), SamplerError, _FAILED)

    def accept(self, token: int) -> None:
        """Take a token that exists as the next of the text."""
        if self._stages.penalty_last_n:
            self._token[0] = token
            self._accept(self._token, 1)

    def accept_all(self, tokens: Int32) -> None:
        """Take tokens that exist, int32, shape (n,), contiguous."""
        self._accept(ffi.from_buffer("llama_token[]", tokens), len(tokens))

    def _accept(self, tokens: Any, count: int) -> None:
        status = lib.treellama_row_sampler_accept(self._handle.pointer, tokens, count)
        check(status, SamplerError, _FAILED)

    def draw(self, row: Any, allowed: NDArray[np.uint32] | None = None) -> int | None:
        """Draw a token without accepting it; None where there is none to choose.

        Args:
            row: of ``native.logits``.
            allowed: one bit a token, bit i % 32 of word i // 32; None allows all.
        """
        status = lib.treellama_row_sampler_draw(
            self._handle.pointer,
            row,
            self._n_vocab,
            mask_pointer(allowed),
            self._token,
        )
        return drawn_token(status, self._token, "no token could be drawn")
