"""GBNF grammars as constraints on the next token."""

from __future__ import annotations

import re

from pytreellama.constraints.constraint import Constraint
from pytreellama.constraints.gbnf import parse
from pytreellama.constraints.gbnf_lark import lark_of
from pytreellama.constraints.gbnf_limits import check_size, levels, limits_for
from pytreellama.constraints.gbnf_rewrite import rewritten
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab

_ROOT = "root"


class Grammar(Constraint):
    """Constrains generation to a GBNF grammar. Not thread-safe.

    Characters never match control tokens, such as ``<|im_start|>``: these are allowed only where
    the grammar names them.

    Args:
        vocab: vocabulary of the model.
        text: GBNF with a rule ``root``.

    Raises:
        GrammarError: a syntax error (with line and column), unsatisfiable, or too complex.
    """

    __slots__ = ()

    what = "grammar"

    def __init__(self, vocab: Vocab, text: str) -> None:
        if not vocab.has_text:
            raise GrammarError("this model file has no tokenizer, so it can follow no grammar")
        rules = parse(text, lambda name: _token_of(vocab, name))
        if _ROOT not in rules:
            raise GrammarError(f"the grammar does not define {_ROOT!r}, the rule where it starts")
        check_size(rules)
        rules = rewritten(rules, _ROOT)
        super().__init__(
            vocab,
            lark_of(rules, _ROOT, vocab.eog_tokens),
            limits_for(rules, vocab.n_tokens),
            levels(rules, _ROOT),
        )

    def _told(self, error: str) -> str:
        return next(
            (ours for theirs, ours in _IN_OUR_WORDS if theirs in error), super()._told(error)
        )


_TOO_MUCH_WORK = (
    "too much work: its text can go on in too many ways at once; leave no two ways to read the "
    "same text, and choose from fewer rules"
)

_IN_OUR_WORDS = (
    ("items; max is", _TOO_MUCH_WORK),
    ("Too many items", _TOO_MUCH_WORK),
    ("too big", "its repetitions make it too large; say more in fewer rules"),
    ("symbols.len()", "its repetitions make it too large; say more in fewer rules"),
)

_TOKEN_ID = re.compile(r"<\[([0-9]{1,9})\]>")


def _token_of(vocab: Vocab, name: str) -> int:
    """Return the token id of ``<name>`` or ``<[id]>``.

    Raises:
        ValueError: no such token, or an end-of-generation token.
    """
    if name.startswith("<["):
        match = _TOKEN_ID.fullmatch(name)
        if match is None or int(match[1]) >= vocab.n_tokens:
            raise ValueError(f"<[id]> with an id from 0 to {vocab.n_tokens - 1}")
        token = int(match[1])
    else:
        tokens = vocab.encode(name, add_special=False, parse_special=True)
        if len(tokens) != 1:
            raise ValueError("the name of one token of this vocabulary")
        token = tokens[0]
    if token in vocab.eog_tokens:
        raise ValueError("a token that does not end the text (leave it out: any text may end so)")
    return token
