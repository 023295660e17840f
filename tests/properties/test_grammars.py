"""GBNF grammars: the texts that are allowed are those that the notation means, and no others."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Model
from pytreellama.constraints.gbnf import Chars, Factor, Literal, Reference, Rules, parse
from pytreellama.constraints.gbnf_rewrite import rewritten
from pytreellama.constraints.grammar import Grammar
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab

ALPHABET = "abc"
N_MAX = 4
NAMES = ("root", "x", "y")

TEXTS = ["".join(text) for n in range(N_MAX + 1) for text in itertools.product(ALPHABET, repeat=n)]

_symbols = st.sampled_from(['"a"', '"ab"', '"b"', '""', "[ab]", "[^a]", ".", *NAMES])
_times = st.sampled_from(["", "", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])


def _bodies(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    factors = st.builds(str.__add__, items, _times)
    # a line break after '::=' or '|' ends no rule, so nothing is written as ""
    alternatives = st.lists(factors, max_size=3).map(lambda items: " ".join(items) or '""')
    return st.lists(alternatives, min_size=1, max_size=4).map(" | ".join)


_groups = st.one_of(_symbols, _symbols, _symbols, _bodies(_symbols).map(lambda body: f"({body})"))

grammars = st.tuples(*[_bodies(_groups)] * len(NAMES)).map(
    lambda bodies: "".join(f"{name} ::= {body}\n" for name, body in zip(NAMES, bodies, strict=True))
)

# rules that end with each other, which random ones seldom do
_prefixes = st.sampled_from(['"a"', '"b" "c"', "[ab]", "x", "y?", '""', '"c"+'])
_tails = st.builds(
    "{} {}{}".format, _prefixes, st.sampled_from(NAMES), st.sampled_from(["", "", "?"])
)
tailed = st.tuples(
    *[st.lists(st.one_of(_tails, _tails, _prefixes), min_size=1, max_size=4)] * len(NAMES)
).map(
    lambda bodies: "".join(
        f"{name} ::= {' | '.join(body)}\n" for name, body in zip(NAMES, bodies, strict=True)
    )
)

words = st.lists(st.text(ALPHABET, min_size=1, max_size=N_MAX), min_size=1, max_size=30).map(
    lambda texts: "root ::= " + " | ".join(f'"{text}" x?' for text in texts) + '\nx ::= "a" | "c"\n'
)

any_grammar = st.one_of(grammars, tailed, words)


def no_token(name: str) -> int:
    raise ValueError("no token")


def language(rules: Rules) -> set[str]:
    """The texts of ``root`` of at most ``N_MAX`` letters: what the rules make, until no more."""
    made: dict[str, set[str]] = {name: set() for name in rules}
    while True:
        n_before = sum(map(len, made.values()))
        for name, alternatives in rules.items():
            for alternative in alternatives:
                made[name] |= joined([repeated(factor, made) for factor in alternative])
        if sum(map(len, made.values())) == n_before:
            return made["root"]


def joined(parts: list[set[str]]) -> set[str]:
    texts = {""}
    for part in parts:
        texts = {a + b for a in texts for b in part if len(a) + len(b) <= N_MAX}
    return texts


def repeated(factor: Factor, made: dict[str, set[str]]) -> set[str]:
    once = once_of(factor, made)
    texts = joined([once] * factor.low)
    for _ in range(N_MAX if factor.high is None else factor.high - factor.low):
        texts = texts | joined([texts, once])
    return texts


def once_of(factor: Factor, made: dict[str, set[str]]) -> set[str]:
    symbol = factor.symbol
    if isinstance(symbol, Reference):
        return made[symbol.name]
    if isinstance(symbol, Literal):
        return {symbol.text}
    assert isinstance(symbol, Chars)
    return {a for a in ALPHABET if any(low <= ord(a) <= high for low, high in symbol.ranges)}


@given(any_grammar)
def test_rewritten_rules_make_the_same_texts(text: str) -> None:
    rules = parse(text, no_token)
    try:
        texts = language(rewritten(dict(rules), "root"))
    except GrammarError:
        texts = set()
    assert texts == language(rules)


@pytest.fixture(scope="module")
def vocab(tiny_model: Callable[..., Model]) -> Vocab:
    vocab: Vocab = tiny_model("rope").vocab
    return vocab


@given(any_grammar)
def test_a_text_can_be_written_and_ended_if_the_grammar_means_it(vocab: Vocab, text: str) -> None:
    expected = language(parse(text, no_token))
    try:
        start = Grammar(vocab, text)
    except GrammarError as error:
        assert "no text can satisfy it" in str(error) and not expected
        return
    assert {written for written in TEXTS if can_write(start, vocab, written)} == expected


def can_write(start: Grammar, vocab: Vocab, text: str) -> bool:
    grammar = start.clone()
    for letter in text:
        token = vocab.pieces.index(letter.encode())
        if not grammar.allows(token):
            return False
        grammar.accept(token)
    return grammar.is_complete


LISTS = {
    "last": 'root ::= "a" root | "a"\n',
    "optional": 'root ::= "a" root?\n',
    "in a group": 'root ::= "a" ("" root)?\n',
    "of three rules": 'root ::= "a" x | "b"\nx ::= "a" y | "a"\ny ::= "a" root | "a" x\n',
    "first": 'root ::= root "a" | "a"\n',
    "repeated": 'root ::= "a"+\n',
}


@pytest.mark.parametrize("form", LISTS)
def test_a_list_may_be_as_long_as_a_text(vocab: Vocab, form: str) -> None:
    grammar = Grammar(vocab, LISTS[form])
    token = vocab.pieces.index(b"a")
    for _ in range(5000):
        grammar.accept(token)
    assert grammar.allows(token)
