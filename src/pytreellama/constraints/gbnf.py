"""Parser for GBNF, llama.cpp's grammar notation (see llama.cpp's grammars/README.md).

The result is a context-free grammar. The parser uses loops, not recursion, so deep nesting cannot
exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pytreellama.errors import GrammarError

MAX_BYTES = 2**20
MAX_NESTING = 200
MAX_REPEATS = 2000
MAX_NAME = 200

Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of code points: sorted, disjoint, without NUL and surrogates."""


@dataclass(frozen=True, slots=True)
class Chars:
    """A character class: matches one character."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal of at least one character."""

    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a rule. Groups in parentheses are rules too; their names contain a ``.``."""

    name: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the vocabulary; with ``negated``, any token except it."""

    id: int
    negated: bool


Symbol = Chars | Literal | Reference | Token


@dataclass(frozen=True, slots=True)
class Factor:
    """A symbol repeated ``low`` to ``high`` times; ``high`` is None for no limit."""

    symbol: Symbol
    low: int = 1
    high: int | None = 1

    @property
    def is_once(self) -> bool:
        """True if the symbol occurs exactly once."""
        return self.low == self.high == 1


Alternative = tuple[Factor, ...]
Rules = dict[str, list[Alternative]]
"""Alternatives of each rule, by rule name."""

# NUL ends a C string: llama.cpp never writes it. Surrogates have no UTF-8.
_WRITABLE = ((0x1, 0xD7FF), (0xE000, 0x10FFFF))

_BLANKS = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_TOKEN = re.compile(r"(!?)(<[^>]*>)")
_COUNT = re.compile(r"\{[ \t]*([0-9]+)[ \t]*(?:(,)[ \t]*([0-9]*)[ \t]*)?\}")
_PLAIN = re.compile(r'[^"\\]+')
_CHAR = re.compile(
    r"""\\(?: x([0-9a-fA-F]{2}) | u([0-9a-fA-F]{4}) | U([0-9a-fA-F]{8}) | ([trn\\"\[\]-]) )
    | ([^\\])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}
_TIMES: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse(text: str, token_of: Callable[[str], int]) -> Rules:
    """Parse a grammar into rules. If a name is defined twice, the last definition counts.

    Args:
        text: GBNF.
        token_of: returns the token id of ``<name>`` or ``<[id]>``; raises ``ValueError`` with what
            was expected if a grammar must not name that token.

    Raises:
        GrammarError: a syntax error, with line, column and what was expected; or too large.
    """
    check_text(text)
    return _Reader(text, token_of).rules()


def check_text(text: str) -> None:
    """Raise GrammarError for a text that is empty, too long or not valid Unicode."""
    if not text.strip():
        raise GrammarError('the grammar is empty; the smallest is: root ::= "text"')
    if "\0" in text:
        raise GrammarError("the grammar holds a NUL character, which GBNF cannot express")
    try:
        n_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar is not valid Unicode: {error}") from error
    if n_bytes > MAX_BYTES:
        raise GrammarError(f"the grammar has {n_bytes} bytes; at most {MAX_BYTES} are allowed")


def place_of(text: str, place: int) -> str:
    """A line and column of a grammar, both from 1."""
    line = text.count("\n", 0, place) + 1
    column = place - (text.rfind("\n", 0, place) + 1) + 1
    return f"line {line}, column {column}"


def writable(ranges: list[tuple[int, int]]) -> Ranges:
    """Sort and merge ranges; drop code points that have no UTF-8 text."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        elif low <= high:
            merged.append((low, high))
    return tuple(
        (max(low, first), min(high, last))
        for low, high in merged
        for first, last in _WRITABLE
        if max(low, first) <= min(high, last)
    )


def complement(ranges: list[tuple[int, int]]) -> Ranges:
    """Return the complement: all valid code points except these."""
    gaps, begin = [], 0
    for low, high in sorted(ranges):
        if low <= high:
            gaps.append((begin, low - 1))
            begin = max(begin, high + 1)
    return writable([*gaps, (begin, 0x10FFFF)])


ANY = Chars(complement([]))


class _Group:
    """A rule body or a group in parentheses that is being parsed."""

    def __init__(self) -> None:
        self.alternatives: list[Alternative] = []
        self._factors: list[Factor] = []

    def add(self, factor: Factor) -> None:
        self._factors.append(factor)

    def pop(self) -> Factor | None:
        return self._factors.pop() if self._factors else None

    def end_alternative(self) -> None:
        self.alternatives.append(tuple(self._factors))
        self._factors = []


class _Reader:
    def __init__(self, text: str, token_of: Callable[[str], int]) -> None:
        self._text = text
        self._token_of = token_of
        self._place = 0
        self._rules: Rules = {}
        self._used: dict[str, int] = {}  # offset of the first reference to each rule
        self._n_groups = 0

    def rules(self) -> Rules:
        self._skip(_SPACE)
        while self._place < len(self._text):
            name = self._name()
            self._skip(_BLANKS)
            if not self._text.startswith("::=", self._place):
                raise self._error("'::=' after the name of a rule")
            self._place += 3
            self._skip(_SPACE)
            self._rules[name] = self._body(name)
            self._skip(_SPACE)
        if not self._rules:
            raise GrammarError('the grammar has no rules; the smallest is: root ::= "text"')
        for name, place in self._used.items():
            if name not in self._rules:
                self._place = place
                raise self._error(f"the name of a rule that is defined; {_cut(name)!r} is not")
        return self._rules

    def _body(self, name: str) -> list[Alternative]:
        """Parse the body of a rule: to the end of the line, unless inside parentheses."""
        groups = [_Group()]
        while True:
            self._skip(_BLANKS if len(groups) == 1 else _SPACE)
            char = self._text[self._place : self._place + 1]
            if char == "(":
                self._place += 1
                groups.append(_Group())
                if len(groups) > MAX_NESTING + 1:
                    raise self._error(f"parentheses that nest at most {MAX_NESTING} deep")
            elif char == ")" and len(groups) > 1:
                self._place += 1
                groups[-1].end_alternative()
                inner = groups.pop().alternatives
                groups[-1].add(self._grouped(name, inner))
            elif char == "|":
                self._place += 1
                groups[-1].end_alternative()
                self._skip(_SPACE)
            elif char and char in "*+?{":
                self._repeat(name, groups[-1])
            elif len(groups) == 1 and (not char or char in "\r\n"):
                groups[0].end_alternative()
                return groups[0].alternatives
            else:
                symbol = self._symbol(char, len(groups) > 1)
                if symbol is not None:
                    groups[-1].add(Factor(symbol))
                else:
                    groups[-1].add(self._grouped(name, [()]))

    def _grouped(self, rule: str, alternatives: list[Alternative]) -> Factor:
        """Turn a group into one factor; if it is more than one symbol, it becomes a rule."""
        if len(alternatives) == 1 and len(alternatives[0]) == 1:
            return alternatives[0][0]
        self._n_groups += 1
        name = f"{rule}.{self._n_groups}"
        self._rules[name] = alternatives
        return Factor(Reference(name))

    def _symbol(self, char: str, is_nested: bool) -> Symbol | None:
        """Parse the next symbol; None for an empty literal."""
        if char == '"':
            text = self._literal()
            return Literal(text) if text else None
        if char == "[":
            return self._chars()
        if char == ".":
            self._place += 1
            return ANY
        if char and char in "<!":
            return self._token()
        if _NAME.match(char):
            place = self._place
            name = self._name()
            self._used.setdefault(name, place)
            return Reference(name)
        raise self._error("')'" if is_nested else "an item, '|' or the end of the line")

    def _name(self) -> str:
        match = _NAME.match(self._text, self._place)
        if match is None:
            raise self._error("the name of a rule (letters, digits and '-')")
        if len(match[0]) > MAX_NAME:
            raise self._error(f"a name of at most {MAX_NAME} characters")
        self._place = match.end()
        return match[0]

    def _literal(self) -> str:
        start = self._place
        self._place += 1
        parts: list[str] = []
        while not self._text.startswith('"', self._place):
            plain = _PLAIN.match(self._text, self._place)
            if plain:
                parts.append(plain[0])
                self._place = plain.end()
            else:
                code = self._char("'\"' at the end of a literal")
                if not writable([(code, code)]):
                    self._place = start
                    raise self._error(f"a text that can be written; U+{code:04X} cannot")
                parts.append(chr(code))
        self._place += 1
        return "".join(parts)

    def _chars(self) -> Chars:
        start = self._place
        self._place += 1
        negated = self._text.startswith("^", self._place)
        self._place += negated
        ranges: list[tuple[int, int]] = []
        while not self._text.startswith("]", self._place):
            ranges.append(self._range())
        self._place += 1
        chars = complement(ranges) if negated else writable(ranges)
        if not chars or not ranges:
            self._place = start
            raise self._error("a class of at least one character that can be written")
        return Chars(chars)

    def _range(self) -> tuple[int, int]:
        start = self._place
        end = "']' at the end of a character class"
        low = high = self._char(end)
        if self._text[self._place : self._place + 1] == "-" and (
            self._text[self._place + 1 : self._place + 2] != "]"
        ):
            self._place += 1
            high = self._char(end)
        if low > high:
            self._place = start
            raise self._error("a range that goes up")
        return low, high

    def _char(self, end: str) -> int:
        """Parse one character of a literal or class; ``end`` names what is missing at the end."""
        match = _CHAR.match(self._text, self._place)
        if match is None:
            if self._place >= len(self._text):
                raise self._error(end)
            raise self._error(r"an escape: \n \r \t \\ \" \[ \] \- \xHH \uHHHH \UHHHHHHHH")
        self._place = match.end()
        digits = match[1] or match[2] or match[3]
        if digits:
            return min(int(digits, 16), 0x110000)
        return ord(_ESCAPES.get(match[4], match[4]) if match[4] else match[5])

    def _token(self) -> Token:
        match = _TOKEN.match(self._text, self._place)
        if match is None:
            raise self._error("a token: <name>, <[id]>, !<name> or !<[id]>")
        try:
            token = self._token_of(match[2])
        except ValueError as error:
            raise self._error(str(error)) from error
        self._place = match.end()
        return Token(token, bool(match[1]))

    def _repeat(self, rule: str, group: _Group) -> None:
        place = self._place
        low, high = self._times()
        factor = group.pop()
        if factor is None:
            self._place = place
            raise self._error("an item before '*', '+', '?' or '{'")
        if high == 0:
            factor, low, high = self._group(rule, []), 1, 1
        elif not factor.is_once:
            factor = self._group(rule, [factor])
        group.add(Factor(factor.symbol, low, high))

    def _group(self, rule: str, factors: list[Factor]) -> Factor:
        """Add a generated rule for alternatives that have no name."""
        self._n_groups += 1
        name = f"{rule}.{self._n_groups}"
        self._rules[name] = [tuple(factors)]
        return Factor(Reference(name))

    def _times(self) -> tuple[int, int | None]:
        char = self._text[self._place]
        if char in _TIMES:
            self._place += 1
            return _TIMES[char]
        match = _COUNT.match(self._text, self._place)
        if match is None:
            raise self._error("{m}, {m,} or {m,n}")
        # int() raises for thousands of digits
        bounds = [int(bound.lstrip("0")[:9] or "0") for bound in match.group(1, 3) if bound]
        if max(bounds) > MAX_REPEATS:
            raise self._error(f"a count of at most {MAX_REPEATS}")
        if bounds != sorted(bounds):
            raise self._error("{m,n} with m at most n")
        self._place = match.end()
        return bounds[0], None if match[2] and not match[3] else bounds[-1]

    def _skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self._text, self._place)
        assert match is not None  # both patterns match the empty text
        self._place = match.end()

    def _error(self, expected: str) -> GrammarError:
        found = self._text[self._place : self._place + 20]
        return GrammarError(
            f"invalid grammar at {place_of(self._text, self._place)}: expected {expected}; "
            + (f"found {found!r}" if found else "found the end of the grammar")
        )


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
