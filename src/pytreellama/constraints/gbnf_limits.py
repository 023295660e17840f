"""Limits on the size of a grammar: beyond them llguidance panics or takes minutes.

Measured with llguidance 1.9.1, at the start of a text: n alternatives that can start at one
position take n**2 * 40 ns; a character of a literal takes 8 us. There can be 65,000 symbols.
"""

from __future__ import annotations

from itertools import chain

from pytreellama.constraints.gbnf import Alternative, Chars, Literal, Rules
from pytreellama.constraints.gbnf_graph import n_levels
from pytreellama.errors import GrammarError

MAX_ALTERNATIVES = 5000
MAX_TOGETHER = 2000
MAX_COUNTS = 1000
MAX_CLASSES = 1000
MAX_TEXTS = 20_000
MAX_ITEMS = 200_000
MAX_LEVELS = 8192


# llguidance's limits that differ from those for schemas. With one lexeme per character, a mask
# takes more Earley items: half the vocabulary size for texts with three parses. An item takes
# 0.7 us, but 200 us where 60 rules each refer to 3700 others: grammars with many rules get fewer.
_MAX_ITEMS_IN_ROW = 1000
_ITEMS_A_TOKEN = 10
_MIN_ITEMS = 5000
_N_FEW = 50


def limits_for(rules: Rules, n_tokens: int) -> dict[str, int]:
    """Return llguidance's limits for rewritten rules, by name.

    Raises:
        GrammarError: too many alternatives, apart from literals with different first characters.
    """
    n = sum(map(_n_together, rules.values()))
    _require(n, MAX_TOGETHER, "alternatives that do not begin with different texts")
    n_items = _ITEMS_A_TOKEN * n_tokens * _N_FEW // max(_N_FEW, n)
    return {
        "max_items_in_row": _MAX_ITEMS_IN_ROW,
        "step_max_items": max(n_items, _MIN_ITEMS),
    }


def _begins_with_text(alternative: Alternative) -> bool:
    return bool(alternative) and isinstance(alternative[0].symbol, Literal)


def _n_together(alternatives: list[Alternative]) -> int:
    """Count alternatives; literals with different first characters count as none."""
    firsts = {
        alternative[0].symbol.text[0]
        for alternative in alternatives
        if alternative and isinstance(alternative[0].symbol, Literal)
    }
    return len(alternatives) - len(firsts)


def check_size(rules: Rules) -> None:
    """Raise GrammarError if there are too many rules before rewriting."""
    alternatives = list(chain.from_iterable(rules.values()))
    factors = list(chain.from_iterable(alternatives))
    texts = [factor.symbol.text for factor in factors if isinstance(factor.symbol, Literal)]
    n_texts = sum(_begins_with_text(alternative) for alternative in alternatives)
    n_counts = sum(factor.low > 1 or (factor.high or 0) > 1 for factor in factors)
    classes = {factor.symbol for factor in factors if isinstance(factor.symbol, Chars)}
    n_items = len(factors) - len(texts) + sum(map(len, texts))
    _require(n_items, MAX_ITEMS, "characters and names")
    _require(n_texts, MAX_TEXTS, "texts to choose from")
    _require(len(alternatives) - n_texts, MAX_ALTERNATIVES, "alternatives and groups")
    _require(n_counts, MAX_COUNTS, "counts of repetitions")
    _require(len(classes), MAX_CLASSES, "different character classes")


def levels(rules: Rules, root: str) -> int:
    """Upper bound on llguidance's recursion depth along references.

    Raises:
        GrammarError: the references are too deep.
    """
    n = n_levels(rules, root)
    _require(n, MAX_LEVELS, "rules in a row that lead to each other")
    return n


def _require(n: int, n_max: int, what: str) -> None:
    if n > n_max:
        raise GrammarError(
            f"the grammar is too complex: it has {n} {what}, at most {n_max} are allowed; say more "
            "in fewer rules"
        )
