"""What may come next in a text, by llguidance (Earley parser, token masks).

Importing llguidance takes tens of milliseconds, and so waits until a constraint is made.
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

# llguidance's own bounds on its work; fuel is some 14 units a us. Named here so that a new version
# does not change what is accepted.
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
    """What may come next in a text that must follow rules. Not for several threads.

    What it may cost is bounded in work, not in time.

    Args:
        vocab: the vocabulary of the model that writes the text.
        grammar: in one of llguidance's notations.
        limits: of llguidance, by name, where they are not ``LIMITS``.
        n_levels: how deep llguidance recurses to read the grammar.

    Raises:
        GrammarError: a grammar that cannot be used.
    """

    __slots__ = ("_eog", "_matcher", "_n_tokens", "_start", "_vocab", "is_finished")

    what: ClassVar[str] = "constraint"
    """Its name in errors."""

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
        """True once an end-of-generation token was accepted: then only such tokens may follow."""

    @property
    def is_complete(self) -> bool:
        """May the text end here? (It may still be possible to go on.)"""
        return call(self._matcher.is_accepting)

    def allows(self, token: int) -> bool:
        """May ``token`` come next? An end of generation may once the text is complete."""
        if token in self._eog:
            return self.is_finished or self.is_complete
        if self.is_finished or not 0 <= token < self._n_tokens:
            return False
        if call(self._matcher.is_stopped):
            return False
        return call(self._matcher.validate_tokens, [token]) == 1

    def mask(self) -> NDArray[np.uint32]:
        """One bit a token, bit i % 32 of word i // 32: set if the token may come next.

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
        """Go on past ``token``.

        Raises:
            GrammarError: the token is not allowed here, and nothing has changed; or the constraint
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
        """An independent constraint in the same state."""
        other: Self = object.__new__(type(self))
        other._vocab, other._eog, other._n_tokens = self._vocab, self._eog, self._n_tokens
        other._start = self._start
        other._matcher = call(self._matcher.deep_copy)
        other.is_finished = self.is_finished
        return other

    def reset(self) -> None:
        """Go back to the start of the text."""
        self._matcher = call(self._start.deep_copy)
        self.is_finished = False

    def _built(self, tokenizer: LLTokenizer, grammar: str, limits: dict[str, int]) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        bounds = LLParserLimits(**limits)  # type: ignore[arg-type]
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=bounds)
        self._require_sound(matcher)
        matcher.compute_bitmask()
        self._require_sound(matcher)  # that nothing can begin a text shows only here
        return matcher

    def _require_sound(self, matcher: LLMatcher) -> None:
        if matcher.is_error():
            raise GrammarError(f"{self.what}: {self._told(matcher.get_error())}")

    def _told(self, error: str) -> str:
        """What a matcher tells, where it is more than the name of its state."""
        if error.startswith("NoExtension"):
            return "no text can satisfy it; perhaps it refers to itself without end"
        return on_one_line(error)

    def _eog_mask(self) -> NDArray[np.uint32]:
        mask = np.zeros((self._n_tokens + 31) // 32, dtype=np.uint32)
        for token in self._eog:
            mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask
