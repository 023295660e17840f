"""JSON schemas that would take llguidance down are refused before it sees them."""

from __future__ import annotations

from typing import Any

import pytest

from pytreellama.constraints import schema_limits
from pytreellama.constraints.schema_limits import check_data, check_length, check_tree
from pytreellama.constraints.schema_tree import SchemaTree
from pytreellama.errors import GrammarError


def chain(n: int) -> dict[str, Any]:
    links = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}]} for i in range(n)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{n}": {"type": "null"}}}


def nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


def patterns(n: int) -> list[dict[str, Any]]:
    return [{"pattern": f"a{{{i}}}"} for i in range(n)]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (nested(200), "nests deeper than 120"),
        ({"const": "x" * 30_000}, "30000 characters"),
        ({"properties": {"x" * 30_000: {}}}, "30000 characters"),
        (chain(5000), "more than 10000 schemas"),
        (chain(4500), "levels"),
        ({"properties": {f"k{i}": {} for i in range(1001)}}, "properties has 1001"),
        ({"patternProperties": {f"^k{i}_": {} for i in range(65)}}, "patternProperties has 65"),
        ({"pattern": "((a{1000}){1000}){1000}"}, "counted as often"),
        ({"pattern": "a" * 100_001}, "counted as often"),
        ({"patternProperties": {"(a{1000}){1000}": {}}}, "counted as often"),
        ({"allOf": patterns(13)}, "13 patterns may bear on one value"),
        ({"pattern": "^", "allOf": [{"allOf": patterns(12)}]}, "13 patterns"),
        (
            {"allOf": [{"properties": {"a": some}} for some in patterns(13)]},
            "13 patterns may bear on one value",
        ),
        (
            {"allOf": [{"patternProperties": {"^a": some}} for some in patterns(7)]
                + [{"properties": {"a": some}} for some in patterns(14)]},
            "14 patterns",
        ),
        (
            {"$defs": {f"d{i}": some for i, some in enumerate(patterns(13))},
             "allOf": [{"$ref": f"#/$defs/d{i}"} for i in range(13)]},
            "13 patterns",
        ),
    ],
)  # fmt: skip
def test_a_schema_beyond_a_limit_is_refused_with_the_limit(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason) as caught:
        check_data(schema)
        check_tree(SchemaTree(schema, schema_limits.MAX_SCHEMAS + 1))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "schema",
    [
        nested(100),
        chain(1000),
        {"description": "x" * 100_000},
        {"properties": {f"k{i}": some for i, some in enumerate(patterns(100))}},
        {"anyOf": patterns(100)},
        {"allOf": [{"properties": {f"k{i}": some}} for i, some in enumerate(patterns(100))]},
        {"pattern": r"^[a-z\]{9999999}]{1,64}@([a-z]{1,63}\.){1,8}[a-z]{2,}$"},
        {"allOf": [{"$ref": "#"}, {"properties": {"a": {"$ref": "#"}}}]},
    ],
)
def test_a_schema_within_the_limits_is_not_refused(schema: Any) -> None:
    check_data(schema)
    assert check_tree(SchemaTree(schema)) >= 1


def test_levels_grow_with_references_and_nesting() -> None:
    assert check_tree(SchemaTree({})) == 1
    assert check_tree(SchemaTree(nested(9))) == 10
    assert check_tree(SchemaTree(chain(10))) == 24


def test_a_long_schema_is_refused() -> None:
    with pytest.raises(GrammarError, match="1048577 characters"):
        check_length(" " * (2**20 + 1))


@pytest.mark.parametrize("schema", [{"const": "x" * 600}, {"pattern": "a{3000}"}])
def test_texts_are_shorter_where_a_schema_sets_its_own_white_space(schema: Any) -> None:
    for options, is_refused in (({"lenient": True}, False), ({"whitespace_flexible": False}, True)):
        whole = schema | {"x-guidance": options}
        try:
            check_data(whole)
            check_tree(SchemaTree(whole))
        except GrammarError:
            assert is_refused
        else:
            assert not is_refused
