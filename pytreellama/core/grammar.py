"""GBNF grammars: what llama.cpp's parser would choke on is refused before it sees the text.

Its parser recurses once for every parenthesis, copies an item once for every repetition, and
counts from ``{m,n}`` with n below m down through zero; what needs the parsed rules (left
recursion, undefined names) is checked in the bridge.
"""

from __future__ import annotations

import re

from pytreellama.core.handle import Handle
from pytreellama.core.vocab import Vocab
from pytreellama.errors import GrammarError
from pytreellama.native import drain_log, ffi, last_error, lib

MAX_BYTES = 2**20
MAX_NESTING = 200
MAX_REPEATS = 2000
MAX_ELEMENTS = 2_000_000

_ROOT = b"root"

# Items as the parser sees them; what matches nothing is a syntax error that the parser reports.
_ITEM = re.compile(
    r"""
      (?P<comment> \#[^\r\n]*)
    | (?P<literal> "(?:\\.|[^"\\])*")
    | (?P<chars>   \[(?:\\.|[^\]\\])*\])
    | (?P<token>   !?<[^>]*>)
    | (?P<repeat>  \{\s*(?P<low>\d+)\s*(?:,\s*(?P<high>\d*)\s*)?\})
    | (?P<open>    \()
    | (?P<close>   \))
    | (?P<times>   [*+?])
    | (?P<name>    [A-Za-z0-9-]+)
    | (?P<other>   .)
    """,
    re.VERBOSE | re.DOTALL,
)


def new_grammar(vocab: Vocab, text: str) -> Handle:
    """A native grammar sampler at the start of ``text``'s rule ``root``.

    Raises:
        GrammarError: text that cannot be parsed, or that llama.cpp could not handle.
    """
    source = checked_source(text)
    if not vocab.has_text:
        raise GrammarError("this model file has no tokenizer, so no grammar can be applied to it")
    pointer = lib.treellama_grammar_init(vocab.pointer, source, _ROOT)
    if pointer == ffi.NULL:
        log = drain_log(errors_only=True)
        raise GrammarError(f"the grammar cannot be used: {_brief([last_error(), *log])}")
    return Handle(pointer, lib.llama_sampler_free, "grammar", GrammarError)


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
    n_open, n_item, n_elements = 0, 1, 0
    for match in _ITEM.finditer(text):
        kind = match.lastgroup
        if kind == "open":
            n_open += 1
        elif kind == "close":
            n_open, n_item = n_open - 1, 1
        elif kind in ("literal", "chars"):
            n_item = len(match[0])
        elif kind in ("name", "token"):
            n_item = 1
        elif kind == "repeat":
            n_item *= max(1, _n_repeats(match))
        if n_open > MAX_NESTING:
            raise GrammarError(f"parentheses nest deeper than {MAX_NESTING} in the grammar")
        n_elements += n_item
        if n_elements > MAX_ELEMENTS:
            raise GrammarError(
                f"the repetitions of the grammar make more than {MAX_ELEMENTS} elements of it"
            )


def _n_repeats(match: re.Match[str]) -> int:
    low, high = match["low"], match["high"]
    bounds = [int(bound) for bound in (low, high) if bound and len(bound) < 10]
    if len(bounds) < bool(low) + bool(high) or max(bounds) > MAX_REPEATS:
        raise GrammarError(f"{match[0]} in the grammar repeats more than {MAX_REPEATS} times")
    if bounds != sorted(bounds):
        raise GrammarError(f"{match[0]} in the grammar: the second number is less than the first")
    return bounds[-1]


def _brief(lines: list[str]) -> str:
    """The parser quotes all the rest of the grammar in its messages: keep the start of that."""
    text = "; ".join(line for line in lines if line)
    first = text.split("\n", 1)[0]
    return first if len(first) <= 200 else first[:200] + "..."
