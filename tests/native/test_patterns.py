"""Regular expressions and Lark grammars constrain the output, with trees as without."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pytreellama import Engine, Model, SamplingParams
from pytreellama.constraints.patterns import MAX_CHARACTERS, Lark, Regex
from pytreellama.errors import GrammarError, SamplerError
from pytreellama.model.vocab import Vocab

TinyModel = Callable[..., Model]

DATES = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]( and (19|20)[0-9]{2}){0,2}"
LIST = 'start: item ("," item){2}\nitem: /[a-c]+x/'
MATCHED = {
    "regex": (DATES, DATES),
    "lark": (LIST, r"[a-c]+x,[a-c]+x,[a-c]+x"),
}


@pytest.fixture(scope="module")
def vocab(tiny_model: TinyModel) -> Vocab:
    return tiny_model("rope").vocab


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("kind", MATCHED)
def test_the_output_matches_with_the_tokens_of_plain_decoding(
    kind: str, temperature: float, tiny_model: TinyModel
) -> None:
    pattern, expected = MATCHED[kind]
    options: Any = {kind: pattern}
    tokens = []
    for drafter in ("none", "suffix+recycling"):
        with Engine(tiny_model("rope"), drafter, n_ctx=512) as engine:
            done = engine.generate(
                "1999-01-01 and abx, " * 3,
                max_tokens=300,
                temperature=temperature,
                seed=3,
                **options,
            )
        if done.finish_reason == "stop":
            assert re.fullmatch(expected, done.text), done.text
        tokens.append(done.tokens)
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("text", ["a/b", "a\nb", "é.", 'quote"', "\\"])
def test_characters_with_a_meaning_to_others_match_themselves(text: str, vocab: Vocab) -> None:
    state = Regex(vocab, re.escape(text).replace("\n", "n"))
    for byte in text.encode():
        assert not state.is_complete
        state.accept(vocab.pieces.index(bytes([byte])))
    assert state.is_complete


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "regular expression: .*unclosed group"),
        ("(?=a)b", "look-around"),
        (r"[^\s\S]", "no text can satisfy it"),
        ("", "is empty"),
        ("a" * (MAX_CHARACTERS + 1), "expected at most 50000"),
        ("(" * 9000, "nests 9001 levels; expected at most 8192"),
        ("(" * 5000 + "a" + ")" * 5000, "regular expression: "),
        ("\ud800", "lone surrogates"),
    ],
    ids=range(8),
)
def test_an_expression_that_cannot_be_used_is_refused(
    pattern: str, said: str, vocab: Vocab
) -> None:
    with pytest.raises(GrammarError, match=said):
        Regex(vocab, pattern)


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('root: "a"', "no start rule"),
        ("start: nothing", "unknown name"),
        ("start: start", "no text can satisfy it"),
        ("start: " + "(" * 8000 + '"a"' + ")" * 8000, "too deeply nested"),
        ("", "is empty"),
    ],
)
def test_a_lark_grammar_that_cannot_be_used_is_refused(
    grammar: str, said: str, vocab: Vocab
) -> None:
    with pytest.raises(GrammarError, match=said):
        Lark(vocab, grammar)


def test_only_one_constraint_is_taken() -> None:
    with pytest.raises(SamplerError, match="give either json_schema or regex, not both"):
        SamplingParams(json_schema="{}", regex="a")
    with pytest.raises(SamplerError, match="invalid lark=3: expected text"):
        SamplingParams(lark=3)  # type: ignore[arg-type]
    assert SamplingParams(regex="a").is_constrained and not SamplingParams(regex="a").is_greedy
