"""Prompts of fill-in-the-middle."""

from __future__ import annotations

from pytreellama.model.infill import InfillTokens

ALL = InfillTokens(1, 2, 3, 4, 5)


def encode(text: str) -> list[int]:
    return [100 + ord(character) for character in text]


def test_the_middle_comes_last() -> None:
    assert ALL.prompt(encode, "a", "b") == [1, *encode("a"), 2, *encode("b"), 3]


def test_other_files_come_first_with_their_names() -> None:
    files = [("x.py", "X"), ("y.py", "Y")]
    assert ALL.prompt(encode, "a", "b", files) == [
        *(4, *encode("myproject\n")),
        *(5, *encode("x.py\nX")),
        *(5, *encode("y.py\nY")),
        *(5, *encode("filename\n")),
        *ALL.prompt(encode, "a", "b"),
    ]


def test_a_model_that_knows_no_files_gets_their_contents() -> None:
    tokens = InfillTokens(1, 2, 3)
    begin = encode("X")
    assert tokens.prompt(encode, "a", "b", [("x.py", "X")]) == [
        *begin,
        *tokens.prompt(encode, "a", "b"),
    ]


def test_three_tokens_are_needed() -> None:
    assert InfillTokens.of((1, 2, 3, None, None)) == InfillTokens(1, 2, 3)
    for missing in range(3):
        tokens: list[int | None] = [1, 2, 3, 4, 5]
        tokens[missing] = None
        assert InfillTokens.of(tokens) is None
