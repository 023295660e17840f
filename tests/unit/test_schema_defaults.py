"""Which objects of a JSON schema are closed, and which formats are dropped."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from pytreellama.constraints.schema_defaults import WHITESPACE, default_options, settle
from pytreellama.constraints.schema_tree import SchemaTree

NAMED = {"type": "object", "properties": {"a": {"type": "string"}}}
OTHER = {"type": "object", "properties": {"b": {"type": "string"}}}
CLOSED = NAMED | {"additionalProperties": False}
OTHER_CLOSED = OTHER | {"additionalProperties": False}


def settled(schema: dict[str, Any]) -> dict[str, Any]:
    tree = SchemaTree(copy.deepcopy(schema))
    settle(tree)
    return tree.root


def tool(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$id": f"urn:f:{name}"} | arguments},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (NAMED, CLOSED),
        ({"type": "array", "items": NAMED}, {"type": "array", "items": CLOSED}),
        (
            {"$ref": "#/$defs/x", "description": "an x", "$defs": {"x": NAMED}},
            {"$ref": "#/$defs/x", "description": "an x", "$defs": {"x": CLOSED}},
        ),
        ({"anyOf": [NAMED, OTHER]}, {"anyOf": [CLOSED, OTHER_CLOSED]}),
        ({"oneOf": [NAMED, {"type": "null"}]}, {"oneOf": [CLOSED, {"type": "null"}]}),
        ({"allOf": [NAMED], "title": "one"}, {"allOf": [CLOSED], "title": "one"}),
        (
            {"properties": {"p": NAMED}, "patternProperties": {"^x": OTHER}},
            {
                "properties": {"p": CLOSED},
                "patternProperties": {"^x": OTHER_CLOSED},
                "additionalProperties": False,
            },
        ),
        (
            NAMED | {"anyOf": [{"required": ["a"]}, {"minProperties": 1}]},
            CLOSED | {"anyOf": [{"required": ["a"]}, {"minProperties": 1}]},
        ),
        (
            tool("f", {"properties": {}}),
            tool("f", {"properties": {}, "additionalProperties": False}),
        ),
    ],
)  # fmt: skip
def test_an_object_that_names_its_members_is_closed(schema: Any, expected: Any) -> None:
    assert settled(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {},
        NAMED | {"additionalProperties": True},
        NAMED | {"additionalProperties": {"type": "integer"}},
        NAMED | {"unevaluatedProperties": False},
        NAMED | {"required": ["a", "b"]},
        NAMED | {"minProperties": 2},
        NAMED | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"type": "object", "patternProperties": {"^x": {"type": "string"}}},
        {"allOf": [NAMED, OTHER]},
        {"allOf": [{"$ref": "#/$defs/x"}, OTHER], "$defs": {"x": NAMED}},
        {"$ref": "#/$defs/x", "properties": {"b": {}}, "$defs": {"x": NAMED}},
        NAMED | {"anyOf": [OTHER, {"properties": {"c": {}}}]},
        NAMED | {"allOf": [OTHER]},
        {"not": NAMED},
        {"if": NAMED, "then": OTHER},
        {"properties": {"a": {}}, "dependentSchemas": {"a": OTHER}},
        {"const": NAMED},
        {"enum": [NAMED], "default": NAMED, "examples": [NAMED]},
    ],
)
def test_an_object_that_may_need_more_members_stays_open(schema: Any) -> None:
    assert settled(schema) == schema


def test_parts_of_combined_objects_stay_open_too() -> None:
    inner = [{"properties": {"p": NAMED}}, {"properties": {"p": OTHER}}]
    assert settled({"allOf": inner}) == {"allOf": inner}


def test_a_definition_that_is_combined_somewhere_stays_open_everywhere() -> None:
    schema = {
        "$defs": {"x": NAMED, "y": OTHER},
        "anyOf": [
            {"$ref": "#/$defs/x"},
            {"$ref": "#/$defs/y"},
            {"allOf": [{"$ref": "#/$defs/x"}, {"properties": {"z": {}}}]},
        ],
    }
    expected: Any = copy.deepcopy(schema)
    expected["$defs"]["y"]["additionalProperties"] = False
    assert settled(schema) == expected


@pytest.mark.parametrize("reference", ["#/$defs/x~1y/properties/a%20b", "#here", "urn:d#/x", "#"])
def test_references_are_followed_through_pointers_anchors_and_ids(reference: str) -> None:
    target = {"$anchor": "here", "properties": {"c": {}}}
    schema = {
        "$defs": {"x/y": {"properties": {"a b": target}}, "d": {"$id": "urn:d", "$defs": {}}},
        "properties": {"b": {"allOf": [{"$ref": reference}, OTHER]}},
    }
    tree = SchemaTree(copy.deepcopy(schema))
    found = tree.root["$defs"]["x/y"]["properties"]["a b"]
    is_root = reference == "#"
    assert (id(found) in tree.combined) == (reference in ("#/$defs/x~1y/properties/a%20b", "#here"))
    assert (id(tree.root) in tree.combined) == is_root


def test_a_reference_begins_at_the_nearest_id() -> None:
    tools = [tool(name, {"$ref": "#/$defs/x", "$defs": {"x": NAMED}}) for name in ("f", "g")]
    tree = SchemaTree({"anyOf": tools})
    for branch in tree.root["anyOf"]:
        arguments = branch["properties"]["arguments"]
        assert [child.node for child in tree.applied(arguments)] == [arguments["$defs"]["x"]]
    assert len(tree.references()) == 2


def test_unknown_formats_are_dropped_and_known_ones_kept() -> None:
    schema = {"properties": {"p": {"type": "string", "format": "path"}, "format": {"const": "p"}}}
    assert settled(schema)["properties"] == {"p": {"type": "string"}, "format": {"const": "p"}}
    assert settled({"format": "date"}) == {"format": "date"}
    assert settled({"const": {"format": "path"}}) == {"const": {"format": "path"}}


def test_references_in_circles_end() -> None:
    settled({"$ref": "#"})
    settled({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})


@pytest.mark.parametrize("text", [" ", "\n", "\r\n", "\n\n", "\n" + " " * 40, "\n\t\t", "  \n  "])
def test_white_space_of_pretty_printed_json_is_allowed(text: str) -> None:
    assert re.fullmatch(WHITESPACE, text)


@pytest.mark.parametrize("text", ["\n\n\n", " " * 9, "\n" + " " * 41, "\n \n", ""])
def test_white_space_without_end_is_not(text: str) -> None:
    assert not re.fullmatch(WHITESPACE, text)


def test_a_schema_may_set_its_own_white_space() -> None:
    assert default_options({}) == {"whitespace_pattern": WHITESPACE}
    assert default_options({"x-guidance": {"whitespace_flexible": True}}) == {}
    assert default_options({"x-guidance": {"lenient": True}}) != {}
