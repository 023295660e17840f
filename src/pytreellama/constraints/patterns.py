"""Regular expressions and Lark grammars as constraints on the next token, in llguidance's dialects.

Regular expressions are those of Rust's ``regex`` without anchors and look-around; Lark grammars
begin at ``start``. See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
"""

from __future__ import annotations

from pytreellama.constraints.constraint import Constraint
from pytreellama.constraints.gbnf_limits import MAX_LEVELS
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab

MAX_CHARACTERS = 50_000

_OPENING, _CLOSING = "([{", ")]}"


class Lark(Constraint):
    """Constrains generation to a Lark grammar. Not thread-safe.

    Args:
        vocab: vocabulary of the model.
        text: the grammar, with a rule ``start``.

    Raises:
        GrammarError: a syntax error, unsatisfiable, or too complex.
    """

    __slots__ = ()

    what = "Lark grammar"

    def __init__(self, vocab: Vocab, text: str) -> None:
        from llguidance import LLMatcher

        n_levels = _checked_levels(vocab, text, self.what)
        super().__init__(vocab, LLMatcher.grammar_from_lark(text), n_levels=n_levels)


class Regex(Constraint):
    """Constrains the whole output to a regular expression. Not thread-safe.

    Args:
        vocab: vocabulary of the model.
        pattern: the expression, which matches from the first character to the last.

    Raises:
        GrammarError: a syntax error, unsatisfiable, or too complex.
    """

    __slots__ = ()

    what = "regular expression"

    def __init__(self, vocab: Vocab, pattern: str) -> None:
        from llguidance import LLMatcher

        n_levels = _checked_levels(vocab, pattern, self.what)
        super().__init__(vocab, LLMatcher.grammar_from_regex(pattern), n_levels=n_levels)


def _checked_levels(vocab: Vocab, text: str, what: str) -> int:
    """Upper bound of the levels on which a text nests: llguidance's parsers recurse."""
    if not vocab.has_text:
        raise GrammarError(f"this model file has no tokenizer, so it can follow no {what}")
    if not text:
        raise GrammarError(f"the {what} is empty")
    if len(text) > MAX_CHARACTERS:
        raise GrammarError(
            f"the {what} has {len(text)} characters; expected at most {MAX_CHARACTERS}"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise GrammarError(f"the {what} is not valid Unicode: it has lone surrogates")
    n_levels = deepest = 1
    for character in text:
        n_levels += (character in _OPENING) - (character in _CLOSING)
        deepest = max(deepest, n_levels)
    if deepest > MAX_LEVELS:
        raise GrammarError(f"the {what} nests {deepest} levels; expected at most {MAX_LEVELS}")
    return deepest
