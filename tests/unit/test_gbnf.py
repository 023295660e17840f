"""GBNF: what its notation means, and what an error says."""

from __future__ import annotations

from typing import Any

import pytest

from pytreellama.constraints.gbnf import (
    ANY,
    MAX_NESTING,
    Chars,
    Factor,
    Literal,
    Reference,
    Rules,
    Token,
    parse,
)
from pytreellama.constraints.gbnf_graph import components, n_levels, reachable, references
from pytreellama.constraints.gbnf_limits import MAX_LEVELS, check_size, levels
from pytreellama.errors import GrammarError


def token_of(name: str) -> int:
    if name != "<think>":
        raise ValueError("one token")
    return 7


def rules(text: str) -> Rules:
    return parse(text, token_of)


def root(text: str) -> list[tuple[Factor, ...]]:
    return rules("root ::= " + text)["root"]


def chars(text: str) -> tuple[tuple[int, int], ...]:
    ((factor,),) = root(text)
    assert isinstance(factor.symbol, Chars)
    return factor.symbol.ranges


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ('"a b"', "a b"),
        (r'"\"\\\n\r\t\[\]\-"', '"\\\n\r\t[]-'),
        (r'"\x41\u00e9\U0001F600"', "A\u00e9\U0001f600"),
        ('"日本 # | ( {2} ["', "日本 # | ( {2} ["),
        ('"a\nb"', "a\nb"),
    ],
)
def test_a_literal_is_its_text(text: Any, literal: Any) -> None:
    assert root(text) == [(Factor(Literal(literal)),)]


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("[a-c]", ((97, 99),)),
        ("[b-ca]", ((97, 99),)),
        ("[a-]", ((45, 45), (97, 97))),
        ("[-a]", ((45, 45), (97, 97))),
        (r"[\]\\\-]", ((45, 45), (92, 93))),
        (r"[\x41-\x43]", ((65, 67),)),
        ("[ぁ-ゟ]", ((0x3041, 0x309F),)),
        (r"[\x00-\x02]", ((1, 2),)),
        (r"[\uD7FE-\uE001]", ((0xD7FE, 0xD7FF), (0xE000, 0xE001))),
        ("[^b-y]", ((1, 97), (122, 0xD7FF), (0xE000, 0x10FFFF))),
        ("[^]]".replace("]]", r"\]]"), ((1, 92), (94, 0xD7FF), (0xE000, 0x10FFFF))),
        (".", ANY.ranges),
    ],
)
def test_a_class_is_its_characters_that_can_be_written(text: Any, ranges: Any) -> None:
    assert chars(text) == ranges


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("*", (0, None)), ("+", (1, None)), ("?", (0, 1)), ("{3}", (3, 3)), ("{2,}", (2, None)),
     ("{0,4}", (0, 4)), ("{ 2 , 3 }", (2, 3)), (" *", (0, None))],
)  # fmt: skip
def test_a_repetition_is_its_bounds(text: Any, bounds: Any) -> None:
    assert root('"a"' + text) == [(Factor(Literal("a"), *bounds),)]


def test_a_repeated_repetition_is_a_rule_of_its_own() -> None:
    ((outer,),) = root('"a"{2}*')
    assert isinstance(outer.symbol, Reference) and (outer.low, outer.high) == (0, None)
    assert rules('root ::= "a"{2}*')[outer.symbol.name] == [(Factor(Literal("a"), 2, 2),)]


@pytest.mark.parametrize("count", ["{0}", "{0,0}", "{ 000 }"])
def test_what_is_repeated_no_times_is_the_empty_text(count: str) -> None:
    found = rules(f'root ::= "a" "b"{count} "c"')
    ((first, empty, last),) = found["root"]
    assert (first, last) == (Factor(Literal("a")), Factor(Literal("c")))
    assert isinstance(empty.symbol, Reference) and found[empty.symbol.name] == [()]


def test_leading_zeros_of_a_count_are_no_digits() -> None:
    assert root('"a"{0000000012}') == [(Factor(Literal("a"), 12, 12),)]


@pytest.mark.parametrize("count", ["{\u0663}", "{2\n}"])
def test_a_count_is_written_in_digits_on_one_line(count: str) -> None:
    with pytest.raises(GrammarError, match="expected"):
        root('"a"' + count)


def test_tokens_are_named_and_may_be_negated() -> None:
    think = Factor(Token(7, negated=False)), Factor(Token(7, negated=True), 0, None)
    assert root("<think> !<think>*") == [think]


def test_groups_and_alternatives_may_be_empty() -> None:
    text = rules('root ::= ("a" | ) | \n | "b"')
    first, second, third = text["root"]
    assert (second, third) == ((), (Factor(Literal("b")),))
    group = first[0].symbol
    assert isinstance(group, Reference)
    assert text[group.name] == [(Factor(Literal("a")),), ()]


def test_lines_end_rules_except_in_groups_and_after_a_bar() -> None:
    text = 'root ::= a | # one\n  b\n\n# two\na ::=\n  (\n "x" # three\n "y"\n)\r\nb ::= "z"'
    assert list(reachable(rules(text), "root"))[:3] == ["root", "a", "b"]


def test_of_two_rules_with_one_name_the_last_counts() -> None:
    assert rules('root ::= "a"\nroot ::= "b"')["root"] == [(Factor(Literal("b")),)]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ('root ::= "a', "line 1, column 12", "'\"' at the end"),
        ('root ::= "a"\nb ::= [a', "line 2, column 9", "']' at the end"),
        ('root ::= "\\q"', "line 1, column 11", "an escape"),
        (r'root ::= "\x4"', "line 1, column 11", "an escape"),
        ("root = 3", "line 1, column 6", "'::='"),
        ("root", "line 1, column 5", "'::='"),
        ("::= 3", "line 1, column 1", "the name of a rule"),
        ('root ::= ("a"', "line 1, column 14", "'\\)'"),
        ('root ::= ("a"\nroot ::= "b"', "line 2, column 6", "'\\)'"),
        ('root ::= "a")', "line 1, column 13", "the end of the line"),
        ('root ::= "a" ~', "line 1, column 14", "the end of the line"),
        ("root ::= *", "line 1, column 10", "an item before"),
        ('root ::= "a" | +', "line 1, column 16", "an item before"),
        ('root ::= "a"{', "line 1, column 13", "{m}, {m,} or {m,n}"),
        ('root ::= "a"{,3}', "line 1, column 13", "{m}, {m,} or {m,n}"),
        ('root ::= "a"{5,2}', "line 1, column 13", "m at most n"),
        ('root ::= "a"{0,2001}', "line 1, column 13", "at most 2000"),
        ('root ::= "a"{' + "9" * 5000 + "}", "line 1, column 13", "at most 2000"),
        ("root ::= [z-a]", "line 1, column 11", "a range that goes up"),
        ("root ::= []", "line 1, column 10", "at least one character"),
        (r"root ::= [\x00]", "line 1, column 10", "at least one character"),
        (r"root ::= [^\x00-\U0010FFFF]", "line 1, column 10", "at least one character"),
        (r'root ::= "a\x00"', "line 1, column 10", r"can be written; U\+0000"),
        (r'root ::= "\uD800"', "line 1, column 10", r"can be written; U\+D800"),
        ("root ::= <nothing>", "line 1, column 10", "one token"),
        ("root ::= !x", "line 1, column 10", "a token: <name>"),
        ("root ::= <think", "line 1, column 10", "a token: <name>"),
        ("root ::= a\n\na ::= other", "line 3, column 7", "defined; 'other' is not"),
        ("root ::= " + "(" * 300 + '"a"' + ")" * 300, "column 211", f"at most {MAX_NESTING} deep"),
        ("x" * 300 + ' ::= "a"', "line 1, column 1", "a name of at most 200"),
    ],
)
def test_an_error_says_where_it_is_and_what_was_expected(
    text: Any, place: Any, expected: str
) -> None:
    with pytest.raises(GrammarError, match=f"{place}.*expected .*{expected}") as caught:
        rules(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("# nothing but a comment", "no rules"),
        ('root ::= "a\0"', "NUL"),
        ('root ::= "\ud800"', "Unicode"),
        ('root ::= "' + "é" * 2**19 + '"', "bytes"),
    ],
)
def test_what_is_no_grammar_at_all_is_refused(text: Any, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        rules(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("root ::= " + '"aaaaaaaaaa" ' * 20_001, "200010 characters and names"),
        ("root ::= " + " | ".join(['"a"'] * 20_001), "20001 texts"),
        ("root ::= " + " | ".join(["[a]"] * 5001), "5001 alternatives and groups"),
        ("root ::= " + '"a"{2,3} ' * 1001, "1001 counts"),
        ("root ::= " + " ".join(f"[a{chr(500 + i)}]" for i in range(1001)), "1001 different"),
    ],
)
def test_a_grammar_that_is_too_large_is_refused(text: Any, reason: str) -> None:
    with pytest.raises(GrammarError, match=f"too complex: it has .*{reason}"):
        check_size(rules(text))


def chain(n: int) -> str:
    return "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(n)) + f'r{n} ::= "a"\n'


def test_rules_that_lead_to_each_other_are_counted_and_limited() -> None:
    assert n_levels(rules(chain(10)), "root") == 12
    assert n_levels(rules('root ::= a b\na ::= b root\nb ::= "x" a'), "root") == 3
    with pytest.raises(GrammarError, match="rules in a row"):
        levels(rules(chain(MAX_LEVELS)), "root")


def test_rules_that_reach_each_other_are_found() -> None:
    text = rules('root ::= a\na ::= b | "x"\nb ::= c a\nc ::= c "y" | root2\nroot2 ::= "z"')
    found = components(text, lambda name: set(references(text, name)))
    assert sorted(map(sorted, found)) == [["a", "b"], ["c"]]
