"""Converts GBNF rules to llguidance's Lark notation, with one lexeme per character.

llguidance's lexer takes the longest match, but in GBNF every parse of a text counts. All lexemes
are one character long, so there is no longest match and the parser sees every parse.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytreellama.constraints.gbnf import (
    Chars,
    Factor,
    Literal,
    Ranges,
    Reference,
    Rules,
    Symbol,
    Token,
)

# Without it llguidance allows only one tokenisation of forced text: the tokenizer's.
_OPTIONS = '%llguidance {"no_forcing": true}'


def lark_of(rules: Rules, root: str, eog_tokens: Iterable[int]) -> str:
    """Return a Lark grammar whose ``start`` is the rule ``root``.

    Args:
        eog_tokens: end-of-generation tokens; a negated token never matches them.
    """
    return _Writer(rules, root, eog_tokens).text()


class _Writer:
    def __init__(self, rules: Rules, root: str, eog_tokens: Iterable[int]) -> None:
        self._rules = rules
        self._eog_tokens = sorted(eog_tokens)
        self._names = {name: f"r{number}" for number, name in enumerate(rules)}
        self._names[root] = "start"
        self._classes: dict[Ranges, str] = {}

    def text(self) -> str:
        lines = [_OPTIONS]
        for name, alternatives in self._rules.items():
            body = " | ".join(
                " ".join(map(self._factor, alternative)) if alternative else '""'
                for alternative in alternatives
            )
            lines.append(f"{self._names[name]}: {body}")
        lines += [f"{name}: /{_regex(ranges)}/" for ranges, name in self._classes.items()]
        return "\n".join(lines) + "\n"

    def _factor(self, factor: Factor) -> str:
        symbol = self._symbol(factor.symbol)
        if factor.is_once:
            return symbol
        if isinstance(factor.symbol, Literal):
            symbol = f"({symbol})"
        high = "" if factor.high is None else factor.high
        return f"{symbol}{{{factor.low},{high}}}"

    def _symbol(self, symbol: Symbol) -> str:
        if isinstance(symbol, Reference):
            return self._names[symbol.name]
        if isinstance(symbol, Token):
            return self._token(symbol)
        if isinstance(symbol, Chars):
            return self._class(symbol.ranges)
        return " ".join(self._class(((ord(char), ord(char)),)) for char in symbol.text)

    def _token(self, token: Token) -> str:
        if not token.negated:
            return f"<[{token.id}]>"
        others = ",".join(map(str, [token.id, *self._eog_tokens]))
        return f"<[^{others}]>"

    def _class(self, ranges: Ranges) -> str:
        return self._classes.setdefault(ranges, f"c{len(self._classes)}")


def _regex(ranges: Ranges) -> str:
    return "[" + "".join(rf"\x{{{low:x}}}-\x{{{high:x}}}" for low, high in ranges) + "]"
