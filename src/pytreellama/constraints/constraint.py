"""Constraint: which tokens are allowed next, by llguidance (Earley parser, token masks).

llguidance is imported with the first constraint, because the import takes tens of milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from pytreellama.constraints.calls import call, call_deep, on_one_line
from pytreellama.constraints.tokens import tokenizer_of
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from typing_extensions import Self

# llguidance's default limits (about 14 units of fuel per us). Fixed here, so that a new version of
# llguidance accepts the same grammars.
LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 20_000,
    "max_lexer_states": 250_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


class Constraint:
    """Computes which tokens are allowed next under a grammar. Not thread-safe.

    Limits are on work, not on time, so that they do not depend on the machine.

    Args:
        vocab: vocabulary of the model.
        grammar: the grammar, in one of llguidance's notations.
        limits: llguidance's limits by name, where they differ from ``LIMITS``.
        n_levels: recursion depth of llguidance while it reads the grammar.

    Raises:
        GrammarError: the grammar is invalid or too complex.
    """

    __slots__ = ("_eog", "_matcher", "_n_tokens", "_start", "_vocab", "is_finished")

    what: ClassVar[str] = "constraint"
    """Name of the constraint in error messages."""

    def __init__(
        self, vocab: Vocab, grammar: str, limits: dict[str, int] | None = None, n_levels: int = 1
    ) -> None:
        self._vocab = vocab
        self._eog = vocab.eog_tokens
        self._n_tokens = vocab.n_tokens
        tokenizer = tokenizer_of(vocab)
        bounds = {**LIMITS, **(limits or {})}
        self._start = call_deep(n_levels, self._built, tokenizer, grammar, bounds)
        self._matcher = call(self._start.deep_copy)
        self.is_finished = False
        """True after an end-of-generation token: from then on only such tokens are allowed."""

    @property
    def is_complete(self) -> bool:
        """True if the text may end here; more tokens may be allowed too."""
        return call(self._matcher.is_accepting)

    def allows(self, token: int) -> bool:
        """True if ``token`` is allowed next; end of generation is, once the text is complete."""
        if token in self._eog:
            return self.is_finished or self.is_complete
        if self.is_finished or not 0 <= token < self._n_tokens:
            return False
        if call(self._matcher.is_stopped):
            return False
        return call(self._matcher.validate_tokens, [token]) == 1

    def mask(self) -> NDArray[np.uint32]:
        """Compute the mask of allowed tokens: bit i % 32 of word i // 32 is set for token i.

        Returns:
            uint32, shape (ceil(n_tokens / 32),).

        Raises:
            GrammarError: the constraint became too complex for llguidance's limits.
        """
        if self.is_finished or call(self._matcher.is_stopped):
            self._require_sound(self._matcher)
            return self._eog_mask()
        mask = np.frombuffer(call(self._matcher.compute_bitmask), dtype=np.uint32)
        self._require_sound(self._matcher)
        return mask

    def accept(self, token: int) -> None:
        """Accept ``token`` as the next token.

        Raises:
            GrammarError: the token is not allowed here (the state is unchanged), or the constraint
                became too complex for llguidance's limits.
        """
        if not self.allows(token):
            self._require_sound(self._matcher)
            piece = self._vocab.piece(token, special=True) if 0 <= token < self._n_tokens else b""
            raise GrammarError(f"token {token} ({piece!r}) does not fit the {self.what} here")
        if token in self._eog:
            self.is_finished = True
        else:
            call(self._matcher.consume_token, token)
            self._require_sound(self._matcher)

    def clone(self) -> Self:
        """Return an independent copy with the same state."""
        other: Self = object.__new__(type(self))
        other._vocab, other._eog, other._n_tokens = self._vocab, self._eog, self._n_tokens
        other._start = self._start
        other._matcher = call(self._matcher.deep_copy)
        other.is_finished = self.is_finished
        return other

    def reset(self) -> None:
        """Reset to the start of the text."""
        self._matcher = call(self._start.deep_copy)
        self.is_finished = False

    def _built(self, tokenizer: LLTokenizer, grammar: str, limits: dict[str, int]) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        bounds = LLParserLimits(**limits)  # type: ignore[arg-type]
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=bounds)
        self._require_sound(matcher)
        matcher.compute_bitmask()
        self._require_sound(matcher)  # a grammar without any first token fails only here
        return matcher

    def _require_sound(self, matcher: LLMatcher) -> None:
        if matcher.is_error():
            raise GrammarError(f"{self.what}: {self._told(matcher.get_error())}")

    def _told(self, error: str) -> str:
        """Return a matcher's error on one line; explain its name for an unsatisfiable grammar."""
        if error.startswith("NoExtension"):
            return "no text can satisfy it; perhaps it refers to itself without end"
        return on_one_line(error)

    def _eog_mask(self) -> NDArray[np.uint32]:
        mask = np.zeros((self._n_tokens + 31) // 32, dtype=np.uint32)
        for token in self._eog:
            mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask
