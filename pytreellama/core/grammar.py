"""GBNF grammars: what llama.cpp's parser would choke on is refused before it sees the text.

Its parser recurses once for every parenthesis, copies an item once for every repetition, makes a
rule for every optional one, each with a name that begins as its rule's, and counts from ``{m,n}``
with n below m down through zero. What needs the parsed rules (left recursion, undefined names) is
checked in the bridge, which also counts the work of each token.
"""

from __future__ import annotations

import re
from typing import Any

from pytreellama.core.vocab import Vocab
from pytreellama.errors import GrammarError
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log, last_error
from pytreellama.native.sampling import check_work

MAX_BYTES = 2**20
MAX_NESTING = 200
MAX_REPEATS = 2000
MAX_ELEMENTS = 2_000_000
MAX_RULES = 100_000
MAX_NAME = 200

_ROOT = b"root"

# Items as the parser sees them; what matches nothing is a syntax error that the parser reports.
# One that is not closed goes on to the end: looking for its end again from every character of it
# would take minutes.
_ITEM = re.compile(
    r"""
      (?P<comment> \#[^\r\n]*)
    | (?P<literal> "(?:\\.|[^"\\])*(?:"|\Z|\\\Z))
    | (?P<chars>   \[(?:\\.|[^\]\\])*(?:\]|\Z|\\\Z))
    | (?P<token>   !?<[^>]*(?:>|\Z))
    | (?P<repeat>  \{\s*(?P<low>\d+)\s*(?:,\s*(?P<high>\d*)\s*)?\})
    | (?P<open>    \()
    | (?P<close>   \))
    | (?P<times>   [*+?])
    | (?P<name>    [A-Za-z0-9-]+)
    | (?P<other>   .)
    """,
    re.VERBOSE | re.DOTALL,
)


class Grammar:
    """What may come next in a text that must follow a GBNF grammar. Not for several threads.

    What it may cost is bounded in work, not in time: a grammar fails at the same token of the
    same text whatever else runs, with speculation and without.

    Args:
        vocab: the vocabulary of the model that writes the text.
        text: GBNF with a rule ``root``.

    Raises:
        GrammarError: text that cannot be parsed, or that llama.cpp could not handle.
    """

    __slots__ = ("_handle", "_vocab")

    def __init__(self, vocab: Vocab, text: str) -> None:
        source = checked_source(text)
        if not vocab.has_text:
            raise GrammarError("this model file has no tokenizer, so it can follow no grammar")
        pointer = lib.treellama_grammar_init(vocab.pointer, source, _ROOT)
        if pointer == ffi.NULL:
            log = drain_log(errors_only=True)
            hint = "" if "::=" in text else '; give GBNF text, such as: root ::= "yes"'
            raise GrammarError(f"the grammar cannot be used: {_brief([last_error(), *log])}{hint}")
        self._vocab = vocab
        self._handle = _owned(pointer)

    @property
    def pointer(self) -> Any:
        """cdata ``struct treellama_grammar *``."""
        return self._handle.pointer

    def accept(self, token: int) -> None:
        """Go on past ``token``.

        Raises:
            GrammarError: the token is not allowed here, and nothing has changed; or checking it
                takes too much work.
        """
        status = lib.treellama_grammar_accept(self.pointer, token)
        if status == lib.TREELLAMA_NO_CANDIDATE:
            piece = self._vocab.piece(token, special=True)
            raise GrammarError(f"token {token} ({piece!r}) does not fit the grammar here")
        check_work(status)
        if status != 0:
            raise GrammarError(f"the grammar failed: {last_error()}")

    def clone(self) -> Grammar:
        """An independent grammar in the same state."""
        pointer = lib.treellama_grammar_clone(self.pointer)
        if pointer == ffi.NULL:
            raise GrammarError(f"this grammar could not be cloned: {last_error()}")
        other: Grammar = object.__new__(type(self))
        other._vocab, other._handle = self._vocab, _owned(pointer)
        return other

    def reset(self) -> None:
        """Go back to the start of the text."""
        if lib.treellama_grammar_reset(self.pointer) != 0:
            raise GrammarError(f"this grammar could not be reset: {last_error()}")

    def close(self) -> None:
        """Free it now; a second call does nothing."""
        self._handle.close()


def _owned(pointer: Any) -> Handle:
    return Handle(pointer, lib.treellama_grammar_free, "grammar", GrammarError)


def checked_source(text: str) -> bytes:
    """The grammar as UTF-8, once nothing in it can take the parser down.

    Raises:
        GrammarError: empty, not UTF-8, too long, nested too deep, or repeated too often.
    """
    if not text.strip():
        raise GrammarError('the grammar is empty; the smallest is: root ::= "text"')
    if "\0" in text:
        raise GrammarError("the grammar holds a NUL character, which GBNF cannot express")
    try:
        source = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar is not valid Unicode: {error}") from error
    if len(source) > MAX_BYTES:
        raise GrammarError(f"the grammar has {len(source)} bytes; at most {MAX_BYTES} are allowed")
    _check_items(text)
    return source


def _check_items(text: str) -> None:
    n_open, n_item, n_elements, n_rules = 0, 1, 0, 0
    for match in _ITEM.finditer(text):
        kind = match.lastgroup
        if kind == "open":
            n_open, n_rules = n_open + 1, n_rules + 1
        elif kind == "close":
            n_open, n_item = n_open - 1, 1
        elif kind in ("literal", "chars"):
            n_item = len(match[0])
        elif kind in ("name", "token"):
            n_item = 1
            _check_name(match[0])
        elif kind == "repeat":
            n_repeats = max(1, _n_repeats(match))
            n_item, n_rules = n_item * n_repeats, n_rules + n_repeats
        n_elements += n_item
        _require(n_open <= MAX_NESTING, f"parentheses nest deeper than {MAX_NESTING}")
        _require(n_elements <= MAX_ELEMENTS, f"its repetitions make over {MAX_ELEMENTS} elements")
        _require(n_rules <= MAX_RULES, f"groups and repetitions make over {MAX_RULES} rules")


def _check_name(name: str) -> None:
    _require(len(name) <= MAX_NAME, f"the name {name[:20]!r}... has over {MAX_NAME} characters")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise GrammarError(f"the grammar is too large: {otherwise}; say more in fewer rules")


def _n_repeats(match: re.Match[str]) -> int:
    low, high = match["low"], match["high"]
    bounds = [int(bound) for bound in (low, high) if bound and len(bound) < 10]
    if len(bounds) < bool(low) + bool(high) or max(bounds) > MAX_REPEATS:
        raise GrammarError(f"{_cut(match[0])} in the grammar repeats more than {MAX_REPEATS} times")
    if bounds != sorted(bounds):
        raise GrammarError(f"{match[0]} in the grammar: the second number is less than the first")
    return bounds[-1]


def _brief(lines: list[str]) -> str:
    """The parser quotes all the rest of the grammar in its messages: keep the start of that."""
    text = "; ".join(line for line in lines if line).split("\n", 1)[0]
    return _cut(f"{text}its end" if text.endswith(" at ") else text)


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
