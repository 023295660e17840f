"""Grammars: which tokens they allow, and what becomes of those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from pytreellama import Model
from pytreellama.constraints.grammar import Grammar
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab
from pytreellama.sampling.params import SamplingParams
from pytreellama.sampling.sampler import Sampler


@pytest.fixture(scope="session")
def vocab(tiny_model: Callable[..., Model]) -> Vocab:
    return tiny_model("rope").vocab


def masked(grammar: Grammar, vocab: Vocab) -> set[int]:
    bits = np.unpackbits(grammar.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits[: vocab.n_tokens]).tolist())


def allowed(grammar: Grammar, vocab: Vocab) -> set[int]:
    return {token for token in range(vocab.n_tokens) if grammar.allows(token)}


def tokens_of(vocab: Vocab, text: bytes) -> list[int]:
    return [vocab.pieces.index(bytes([byte])) for byte in text]


def after(vocab: Vocab, grammar: str, text: bytes) -> Grammar:
    state = Grammar(vocab, grammar)
    for token in tokens_of(vocab, text):
        state.accept(token)
    return state


def fits(vocab: Vocab, grammar: str, text: bytes) -> bool:
    try:
        return after(vocab, grammar, text).is_complete
    except GrammarError:
        return False


EVERY_FEATURE = [
    'root ::= "yes" | "no"',
    "root ::= [a-z]* \"abc\" [a-z]* 'x'".replace("'", '"'),
    'root ::= "(" root ")" root | ""',
    'root ::= ([^a-z] | [^A-Z])* "end"',
    'root ::= "\\u00e9"{1,3} .+ "日本"',
    "root ::= <[40]> ([a-c] | !<[41]>)* <[41]>",
]


@pytest.mark.parametrize("grammar", EVERY_FEATURE)
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_has_all_tokens_that_are_allowed(vocab: Vocab, grammar: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = Grammar(vocab, grammar)
    for _ in range(20):
        fitting = masked(state, vocab)
        assert fitting == allowed(state, vocab)
        fitting -= vocab.eog_tokens
        if not fitting:
            break
        state.accept(int(rng.choice(sorted(fitting))))


def test_a_text_that_must_come_may_be_written_with_any_tokens(vocab: Vocab) -> None:
    fitting = masked(Grammar(vocab, 'root ::= "yes"'), vocab)
    pieces = {vocab.pieces[token] for token in fitting}
    assert b"y" in pieces
    assert fitting == {i for i, piece in enumerate(vocab.pieces) if piece in (b"y", b"ye", b"yes")}


@pytest.mark.parametrize("text", ["é", "日本", "\U0001f600"])
def test_a_character_may_be_written_byte_by_byte(vocab: Vocab, text: Any) -> None:
    grammar = f'root ::= "{text}" [^\\x00-\\x7f]'
    assert fits(vocab, grammar, f"{text}é".encode())
    assert not fits(vocab, grammar, f"{text}a".encode())


def test_bytes_that_no_character_has_are_no_text(vocab: Vocab) -> None:
    for byte in (0xC0, 0xF5, 0xFF):
        assert not Grammar(vocab, "root ::= .*").allows(vocab.pieces.index(bytes([byte])))


def test_control_tokens_are_no_text_unless_they_are_named(vocab: Vocab) -> None:
    control = next(
        token
        for token in range(vocab.n_tokens)
        if vocab.is_control(token) and token not in vocab.eog_tokens
    )
    assert not Grammar(vocab, "root ::= .*").allows(control)
    name = vocab.pieces[control].decode()
    for named in (f"<[{control}]>", name):
        assert masked(Grammar(vocab, f"root ::= {named}"), vocab) == {control}
        others = masked(Grammar(vocab, f"root ::= !{named}"), vocab)
        assert others == set(range(vocab.n_tokens)) - {control} - vocab.eog_tokens


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("<no such token>", "one token"),
        ("<[99999999999999999999]>", "an id from 0 to 319"),
        ("<[320]>", "an id from 0 to 319"),
        ("<[-1]>", "an id from 0"),
        ("EOG", "a token that does not end the text"),
    ],
)
def test_tokens_that_cannot_be_named_are_refused(vocab: Vocab, token: Any, expected: Any) -> None:
    named = token.replace("EOG", f"<[{min(vocab.eog_tokens)}]>")
    with pytest.raises(GrammarError, match=f"line 1, column 10: expected .*{expected}"):
        Grammar(vocab, f"root ::= {named}")


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        ('root ::= root "a" | "b"', [b"b", b"baaa"]),
        ('root ::= a "x"\na ::= b a "u" | "y"\nb ::= c\nc ::= "z" |', [b"yx", b"yux", b"zzyuux"]),
        ('root ::= ("a"*)* ("")* "b"', [b"b", b"aaab"]),
        ('root ::= ("a"? "b"?)* "c"', [b"c", b"abbac"]),
        ('root ::= n root | "q"\nn ::= m\nm ::= "" | "m"', [b"q", b"mmq"]),
        ('root ::= "a" "b" | "ab" "c" | [a-z]+ "bc"', [b"ab", b"abc", b"bcbc"]),
    ],
)
def test_rules_may_begin_with_themselves_and_texts_read_in_many_ways(
    vocab: Vocab, grammar: str, texts: Any
) -> None:
    for text in texts:
        assert fits(vocab, grammar, text)
        assert not fits(vocab, grammar, text + b".")


def test_rules_in_40_levels_of_two_ways_each_are_used(vocab: Vocab) -> None:
    levels = "".join(f'a{i} ::= a{i + 1} "x" | a{i + 1} "y"\n' for i in range(40))
    grammar = "root ::= a0\n" + levels + 'a40 ::= "q"'
    assert fits(vocab, grammar, b"q" + b"xy" * 20)
    assert not fits(vocab, grammar, b"q" + b"xy" * 19)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('start ::= "a"', "does not define 'root'"),
        ('root ::= root "a"', "no text can satisfy it"),
        ("root ::= a\na ::= root", "no text can satisfy it"),
        ("root ::= " + " | ".join(["[a] [b]"] * 5001), "too complex"),
        ("root ::= " + " | ".join(["[a] [b]"] * 2001), "2001 alternatives that do not begin"),
        ("yes", "line 1, column 4: expected '::='"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_an_error_with_the_reason(
    vocab: Vocab, grammar: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GrammarError, match=reason) as caught:
        Sampler(vocab, SamplingParams(grammar=grammar))
    assert len(str(caught.value)) < 500
    assert capfd.readouterr().err == ""


def test_a_vocabulary_without_a_tokenizer_follows_no_grammar(vocab: Vocab) -> None:
    class NoText:
        has_text = False

    with pytest.raises(GrammarError, match="no tokenizer"):
        Grammar(cast(Any, NoText()), 'root ::= "a"')


def test_a_text_with_too_many_ways_to_read_it_is_an_error(vocab: Vocab) -> None:
    grammar = Grammar(vocab, 'root ::= s\ns ::= "a" s s | "a" t s | "a"\nt ::= "a" s t | "a"\n')
    (token,) = tokens_of(vocab, b"a")
    with pytest.raises(GrammarError, match="too much work"):
        for _ in range(2000):
            grammar.accept(token)
    for use in (grammar.mask, lambda: grammar.accept(token)):
        with pytest.raises(GrammarError, match="too much work"):
            use()
