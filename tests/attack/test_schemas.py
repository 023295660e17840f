"""JSON schemas that are small and hard: a request ends, and those beside it go on."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from alone import run_alone, survives
from hostile_engine import ENGINE

Schema = dict[str, Any]

TIGHT = {"x-guidance": {"whitespace_flexible": False}}


def chain(n: int, form: str) -> Schema:
    """Definitions that refer to each other in a row; ``form`` holds REF."""
    links = {
        f"d{i}": json.loads(form.replace("REF", json.dumps({"$ref": f"#/$defs/d{i + 1}"})))
        for i in range(n)
    }
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{n}": {"type": "string"}}}


def nested(n: int, keyword: str, inner: Any = None) -> Schema:
    wrap = (lambda a: [a]) if keyword.endswith("Of") else (lambda a: a)
    return functools.reduce(lambda a, _: {keyword: wrap(a)}, range(n), inner or {"type": "string"})


def texts(n: int, form: str) -> list[str]:
    return [form.format(i=i) for i in range(n)]


def names(n: int, value: Any = None) -> Schema:
    return {f"k{i}": {} if value is None else value for i in range(n)}


def all_of(patterns: list[str]) -> Schema:
    return {"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]}


FORMS = {
    "plain": "REF",
    "allOf": '{"allOf": [REF]}',
    "anyOf": '{"anyOf": [REF, {"type": "null"}]}',
    "oneOf": '{"oneOf": [REF]}',
    "properties": '{"type": "object", "properties": {"a": REF}, "required": ["a"]}',
    "items": '{"type": "array", "items": REF}',
    "prefixItems": '{"type": "array", "prefixItems": [REF]}',
    "additionalProperties": '{"additionalProperties": REF}',
    "patternProperties": '{"patternProperties": {"^a": REF}}',
    "nested": '{"anyOf": [{"allOf": [{"anyOf": [{"allOf": [REF]}]}]}]}',
}

DEEP: dict[str, Any] = {f"chain of {n} {kind}": chain(n, form) for n in (800, 3000, 9000)
        for kind, form in FORMS.items()} | {
    "nested allOf": nested(110, "allOf"),
    "nested not": nested(110, "not"),
    "nested items, 10000 deep": nested(300, "items"),
    "circles": {"$ref": "#", "allOf": [{"$ref": "#"}, {"$ref": "#/allOf/0"}]},
    "everything refers to everything": {"$ref": "#/$defs/d0", "$defs": {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i * 7 + j) % 90}"} for j in range(60)]}
        for i in range(90)}},
    "anchors in a row": {"$ref": "#a0", "$defs": {
        f"d{i}": {"$anchor": f"a{i}", "allOf": [{"$ref": f"#a{i + 1}"}]} for i in range(4000)}},
    "ids in a row": {"$ref": "urn:a0", "$defs": {
        f"d{i}": {"$id": f"urn:a{i}", "allOf": [{"$ref": f"urn:a{i + 1}"}]} for i in range(4000)}},
}  # fmt: skip

PATTERNS: dict[str, Any] = {
    "40 patterns at once": all_of(texts(40, "^.*a.{{{i}}}b.*$")),
    "22 patterns at once": all_of(texts(22, "^.*a.{{{i}}}b.*$")),
    "22 patterns through references": {
        "allOf": [{"$ref": f"#/$defs/d{i}"} for i in range(22)],
        "$defs": {f"d{i}": {"pattern": f"^.*a.{{{i}}}b.*$"} for i in range(22)},
    },
    "22 patterns of one member": {"allOf": [
        {"properties": {"a": {"type": "string", "pattern": text}}, "required": ["a"]}
        for text in texts(22, "^.*a.{{{i}}}b.*$")]},
    "22 patterns of items": {"allOf": [
        {"type": "array", "items": {"type": "string", "pattern": text}, "minItems": 1}
        for text in texts(22, "^.*a.{{{i}}}b.*$")]},
    "12 patterns at once": all_of(texts(12, r"^.*[\p{{L}}a].{{{i}}}[\p{{N}}b].*$")),
    "choices of patterns": {"type": "string", "allOf": [
        {"anyOf": [{"pattern": f"^.*a.{{{i}}}b"}, {"pattern": f"^.*b.{{{i}}}c"}]}
        for i in range(20)]},
    "counts in counts": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
    "counts in counts, later": TIGHT | {"type": "array", "minItems": 2, "prefixItems": [
        {"type": "null"}, {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}]},
    "a long count": {"type": "string", "pattern": "^.*a.{30000}$"},
    "stars in stars": {"type": "string", "pattern": "^((a*)*)*b$"},
    "parentheses": {"type": "string", "pattern": "(" * 5000 + "a" + ")" * 5000},
    "a million letters": {"type": "string", "pattern": "a?" * 500_000},
    "a class that never ends": {"type": "string", "pattern": "[" + "\\]" * 200_000},
    "open parentheses": {"type": "string", "pattern": "(" * 900_000},
    "2000 patterns of names": {"type": "object", "patternProperties": {
        text: {} for text in texts(2000, "^k{i}_")}},
    "64 patterns of names": {"type": "object", "patternProperties": {
        text: {} for text in texts(64, "^k{i}_.*a.{{20}}b.*c")}},
    "white space of its own": {"type": "object", "x-guidance": {
        "whitespace_pattern": "[ ]*a[ ]{30}"}},
}  # fmt: skip

LARGE: dict[str, Any] = {
    "20000 members": {"type": "object", "properties": names(20_000)},
    "1000 members": {"type": "object", "properties": names(1000)},
    "1000 members, eight times": {"type": "array", "prefixItems": [
        {"type": "object", "properties": names(1000)} for _ in range(8)], "minItems": 8},
    "1000 members, combined": {"type": "object", "$defs": {"d": {"properties": names(1000)}},
        "properties": {f"p{i}": {"allOf": [{"$ref": "#/$defs/d"}, {"required": [f"q{i}"]}]}
                       for i in range(100)}},
    "50000 texts": {"enum": texts(50_000, "value-{i}")},
    "a text of a million letters": {"const": "x" * 1_000_000},
    "a text of 20000 letters": {"const": "x" * 20_000},
    "50 texts of 20000 letters": {"type": "array", "prefixItems": [
        {"const": "x" * 20_000} for _ in range(50)], "minItems": 50} | TIGHT,
    "a thousand million items": {"type": "array", "items": {"type": "integer"},
        "minItems": 10**9, "maxItems": 10**9},
    "20000 texts that must come": TIGHT | {"type": "array", "minItems": 20_000,
        "items": {"const": "x" * 500}},
    "texts that must come without end": TIGHT | {"type": "array", "minItems": 2,
        "prefixItems": [{"const": "x" * 500}, {"$ref": "#"}]},
    "a hundred thousand equal items": TIGHT | {"type": "array", "minItems": 100_000,
        "items": {"const": "hello you"}},
    "a thousand million letters": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
    "2^30 references": {"$ref": "#/$defs/d0", "$defs": {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)} | {"d30": {}}},
    "2^24 choices": {"type": "object", "allOf": [{"anyOf": [
        {"properties": {f"a{i}": {"type": "string"}}},
        {"properties": {f"a{i}": {"type": "number"}}}]} for i in range(24)]},
    "2000 choices that overlap": {"oneOf": [
        {"type": "integer", "minimum": i} for i in range(2000)]},
    "3000 choices of objects": {"anyOf": [
        {"type": "object", "properties": {f"k{i}": {}}, "required": [f"k{i}"]}
        for i in range(3000)]},
    "200 formats": {"anyOf": [{"type": "string", "format": name} for name in
        ("date-time", "email", "uuid", "ipv4", "ipv6", "hostname", "uri", "regex")] * 25},
}  # fmt: skip

NUMBERS: dict[str, Any] = {
    f"{keyword} {value!s:.9}": {"type": kind, keyword: value}
    for kind in ("number", "integer")
    for keyword in ("multipleOf", "minimum", "exclusiveMaximum", "minLength", "minItems")
    for value in (0, -3, 1e-300, 1.7e308, 10**300, 1_000_000_007, 2**63, 2**64, 0.1, 7919)
} | {
    f"{keyword} of another type": {keyword: value}
    for keyword, value in (
        ("properties", [1]), ("required", "a"), ("required", [[], {}, 1]), ("allOf", {}),
        ("allOf", [1, None]), ("$ref", 5), ("$ref", "#/\ud800"), ("$ref", "#/" + "9" * 5000),
        ("$defs", [[]]), ("$id", 5), ("$id", "urn:a b"), ("$anchor", []), ("enum", {}),
        ("enum", []), ("pattern", {}), ("format", []), ("type", ["string", 5, None]),
        ("minProperties", "a"), ("x-guidance", 5), ("x-guidance", {"whitespace_pattern": "("}),
        ("x-guidance", {"item_separator": "(a|b)*a(a|b){25}"}), ("const", "\ud800"),
        ("additionalProperties", [])
    )
}  # fmt: skip

ALL: dict[str, Any] = DEEP | PATTERNS | LARGE | NUMBERS

SHORT = (
    *("chain of 3000 plain", "chain of 3000 allOf", "chain of 9000 properties"),
    *("40 patterns at once", "2000 patterns of names", "counts in counts, later"),
    *("20000 members", "a hundred thousand equal items"),
)


def ends(schemas: list[Schema], limit_s: float) -> None:
    options = [{"json_schema": schema} for schema in schemas]
    out = survives(ENGINE, stdin=json.dumps(options).encode(), limit_s=limit_s)
    assert len(out.splitlines()) == len(schemas)


def test_hard_schemas_end_and_others_go_on() -> None:
    ends([ALL[name] for name in SHORT], limit_s=60)


@pytest.mark.long
@pytest.mark.parametrize("name", DEEP | PATTERNS | LARGE)
def test_a_hard_schema_ends_in_an_error_or_a_text(name: str) -> None:
    ends([ALL[name]], limit_s=45)


@pytest.mark.long
def test_odd_numbers_and_types_end_in_an_error_or_a_text() -> None:
    ends(list(NUMBERS.values()), limit_s=300)


SMALL_STACK = r"""
import json, sys, threading
import pytreellama as ptl

vocab = ptl.Model.default(vocab_only=True).vocab
ends = []

def use():
    for schema in json.load(sys.stdin):
        ptl.Sampler(vocab, ptl.SamplingParams(json_schema=schema))
    ends.append("used")

threading.stack_size(512 * 1024)
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(*ends)
"""


@pytest.mark.parametrize("n", [300, pytest.param(2700, marks=pytest.mark.long)])
def test_the_deepest_schemas_fit_the_smallest_stack_of_a_thread(n: int) -> None:
    forms = [form for kind, form in FORMS.items() if kind not in ("oneOf", "nested")]
    shallow = [chain(15, form) for form in forms] + [chain(5, FORMS["nested"])]
    shallow += [nested(31, keyword) for keyword in ("items", "allOf", "anyOf")]
    deep = [chain(n, form) for form in forms] + [chain(n // 3, FORMS["nested"])]
    schemas = json.dumps(shallow + deep).encode()
    assert survives(SMALL_STACK, stdin=schemas) == "used\n"


NO_THREADS = r"""
import resource
import pytreellama as ptl
from pytreellama.errors import GrammarError

links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)} | {"d2000": {}}
vocab = ptl.Model.default(vocab_only=True).vocab
ptl.Sampler(vocab, ptl.SamplingParams(json_schema={}))
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**24,) * 2)
try:
    ptl.Sampler(vocab, ptl.SamplingParams(json_schema={"$ref": "#/$defs/d0", "$defs": links}))
except GrammarError as error:
    print(error)
"""


def test_a_stack_that_the_system_refuses_is_an_error() -> None:
    outcome = run_alone(NO_THREADS)
    assert outcome.code == 0 and "no thread could be started" in outcome.out, str(outcome)
