"""GBNF grammars that are small and hard: a request ends, and those beside it go on."""

from __future__ import annotations

import json

import pytest

from alone import survives
from hostile_engine import ENGINE

ANY = r"[^\x00]"


def words(n: int, form: str) -> str:
    return " | ".join(form.format(i=i) for i in range(n))


def rules(n: int, form: str) -> str:
    return "".join(form.format(i=i, j=i + 1) + "\n" for i in range(n))


# Each holds a step of llama.cpp's grammars for more than a minute: the ways to read a text, which
# it keeps apart, are exponential in the text, or wait for each other in pairs.
ENDLESS = {
    "two words in a": 'root ::= s\ns ::= "a" s s | "a" t s | "a" s t | "a"\n'
    't ::= "a" s t | "a" t t | "a"\n',
    "three words in a": 'root ::= s\ns ::= "a" s t | "a" t u | "a" u s | "a"\n'
    't ::= "a" t s | "a" u t | "a"\nu ::= "a" s u | "a" u u | "a"\n',
    "any character": f"root ::= s\ns ::= {ANY} s s | {ANY} t s | {ANY}\n"
    f"t ::= {ANY} s t | {ANY} t t | {ANY}\n",
    "2000 optional letters": "root ::= " + '"a"? ' * 2000 + '"b"\n',
    "optional letters in two loops": 'root ::= (("a"?){60}){60} "b"\n',
    "1000 equal alternatives": "root ::= (" + words(1000, '"a"') + ')* "b"\n',
    "60000 alternatives": "root ::= " + words(60_000, '"w{i}"') + "\n",
}

QUADRATIC = {
    "a literal that never ends": 'root ::= "' + '\\"' * 250_000,
    "a class that never ends": "root ::= [" + "\\]" * 250_000,
    "tokens that never end": "root ::= " + "<" * 500_000,
    "open parentheses": "root ::= " + "(" * 500_000,
    "digits of a count": 'root ::= "a"{' + "9" * 500_000 + "}",
}

LARGE = {
    "a class of 150000 ranges": "root ::= [" + "a-z" * 150_000 + "]*\n",
    "a class of 30000 ranges": "root ::= [" + "b-z" * 30_000 + ']* "a"\n',
    "a long name, repeated": f"{'x' * 100_000} ::= (\"a\"?){{2000}}\nroot ::= \"a\"\n",
    "rules by repetition": "root ::= " + '"a"{0,2000} ' * 60_000,
    "groups by repetition": "root ::= " + '("a" | "b"){0,1000} ' * 5000,
    "optional groups": "root ::= " + '("a"? "a"?)? ' * 1000 + '"b"\n',
    "40000 rules to choose from": "root ::= (" + words(20_000, "r{i}") + ")*\n"
    + rules(20_000, 'r{i} ::= "a"'),
    "a long rule, visited often": "root ::= r0\n" + rules(22, "r{i} ::= r{j} | r{j}")
    + 'r22 ::= "' + "a" * 500_000 + '"\n',
    "rules in a row": "root ::= r0\n" + rules(4000, "r{i} ::= r{j}") + 'r4000 ::= "a"\n',
    "nothing, repeated": 'root ::= ("")* "a"\n',
    "nothing, nested": 'root ::= (((("a"*)*)*)*)* "b"\n',
    "stacks that grow": 'root ::= "a" root "b" | "c"\n',
    "stacks that grow in two ways": 'root ::= "a" root "b" | "a" root "c" | "a"\n',
    "words over eight": "root ::= x\nx ::= " + words(8, "[ -~] y{i} x") + " | [ -~]\n"
    + "".join(f'y{i} ::= [ -~] y{(i + 1) % 8} y{i} | [ -~] | ""\n' for i in range(8)),
    "a long comment": 'root ::= "a" ' + "#" * 500_000,
    "both ends": 'root ::= "a" root "a" | "a" root | "a"\n',
    "not this token": "root ::= !<[2]>*\n",
    "a token that is not there": 'root ::= <[99999999]> "a"\n',
    "a class turned round": r'root ::= [\U0010FFFF-\U00000000]* "a"' + "\n",
    "words within words": "root ::= " + " | ".join('"' + "a" * i + '"' for i in range(1, 600)),
    "long words": "root ::= (" + words(9, '"' + "a" * 20_000 + '{i}"') + ")*",
    "counts of counts": 'root ::= ((("a"{2000}){2000}){2000}){2000} "b"\n',
    "counts of optional counts": 'root ::= ((("a"{0,2000} "b"?){0,2000}){0,2000}){0,2000}\n',
    "4990 counts": "root ::= " + '"a"{1,2000} ' * 4990,
    "8000 rules in a row": "root ::= r0\n" + rules(8000, "r{i} ::= r{j}") + 'r8000 ::= "a"\n',
    "8000 left-recursive rules": "root ::= r0\n" + rules(2400, 'r{i} ::= r{j} "a" | r{i} "b"')
    + 'r2400 ::= "a"\n',
    "rules that all end with each other": "root ::= r0\n"
    + "".join(f"r{i} ::= " + words(60, '"a" r{i}') + ' | "a"\n' for i in range(60)),
    "rules that end with each other, late": 'root ::= "b" r0\n'
    + "".join(f"r{i} ::= " + words(44, '"a" r{i}') + ' | "a"\n' for i in range(44)),
    "what may be nothing in a row": "root ::= " + "n " * 4000 + '"b"\nn ::= "a" | ""\n',
    "a list with nothing behind it": 'root ::= "a" root n | "a"\nn ::= "" | "b"\n',
    "4000 classes that overlap": "root ::= (" + " | ".join(
        f"[a-\\U{0x10000 + i:08x}]" for i in range(4000)) + ")*\n",
    "tokens or text": 'root ::= (!<[5]> | "a" | .)*\n',
    "200000 names": "root ::= " + "a " * 199_000 + '\na ::= "a"\n',
    "escapes": 'root ::= "' + "\\u0061" * 150_000 + '"\n',
}  # fmt: skip

ALL = ENDLESS | QUADRATIC | LARGE


def ends(grammars: list[str], limit_s: float) -> list[str]:
    options = [{"grammar": grammar} for grammar in grammars]
    lines = survives(ENGINE, stdin=json.dumps(options).encode(), limit_s=limit_s).splitlines()
    assert len(lines) == len(grammars)
    return lines


def test_grammars_of_endlessly_many_ways_end_and_others_go_on() -> None:
    ends(list(ENDLESS.values()), limit_s=60)


def test_what_is_never_closed_is_refused_in_one_reading() -> None:
    for line in ends(list(QUADRATIC.values()), limit_s=60):
        assert "GrammarError" in line


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_a_hard_grammar_ends_in_an_error_or_a_text(name: str) -> None:
    ends([ALL[name]], limit_s=30)


SMALL_STACK = r"""
import sys, threading
import pytreellama as ptl
from pytreellama.errors import GrammarError

vocab = ptl.Model.default(vocab_only=True).vocab
ends = []

def use():
    sampler = ptl.Sampler(vocab, ptl.SamplingParams(grammar=sys.stdin.read()))
    for token in vocab.encode("aaaa", add_special=False):
        sampler.accept(token)
    ends.append("used")

threading.stack_size(512 * 1024)
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(*ends)
"""


@pytest.mark.parametrize(
    "grammar",
    [
        pytest.param(
            "root ::= r0\n" + rules(1900, "r{i} ::= r{j}") + 'r1900 ::= "a"*\n', id="rules"
        ),
        pytest.param("root ::= " + "(" * 200 + '"a"*' + ")" * 200, id="parentheses"),
    ],
)
def test_the_deepest_grammars_fit_the_smallest_stack_of_a_thread(grammar: str) -> None:
    assert survives(SMALL_STACK, stdin=grammar.encode()) == "used\n"


LONG_TOKEN = r"""
import sys, tempfile, threading
import numpy as np
import pytreellama as ptl
import tiny_models

tiny_models._COMMON_PIECES += ("x" * int(sys.argv[1]),)
options = {sys.argv[2]: sys.argv[3]}
with tempfile.TemporaryDirectory() as folder:
    model = ptl.Model(tiny_models.tiny_model("rope", folder, n_vocab=700))
    vocab = model.vocab
    long = max(range(vocab.n_tokens), key=lambda token: len(vocab.pieces[token]))
    row = np.zeros(vocab.n_tokens, np.float32)
    row[long] = 100.0
    sampler = ptl.Sampler(vocab, ptl.SamplingParams(**options))
    for letter in sys.argv[4]:
        sampler.accept(vocab.pieces.index(letter.encode()))
    assert sampler.sample_row(row) != long
    with ptl.Engine(model, "none", n_ctx=128) as engine:
        assert engine.generate("a", max_tokens=8, **options).tokens
"""


@pytest.mark.parametrize("n_letters", [100_000, pytest.param(10_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("kind", "text", "begun"),
    [("grammar", "root ::= [a-z]*", "a"), ("json_schema", '{"type": "string"}', '"a')],
)
def test_a_token_of_a_million_letters_is_never_written(
    n_letters: int, kind: str, text: str, begun: str
) -> None:
    survives(LONG_TOKEN, str(n_letters), kind, text, begun)
