"""What a JSON schema leaves open, settled as answers of a language model need it.

JSON Schema lets an object have members that no schema names, and a small model makes up ever more
of them. An object that names its members is closed here, unless its schema says otherwise
(``additionalProperties: true``) or may need members that it does not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytreellama.constraints.schema_limits import has_own_whitespace
from pytreellama.constraints.schema_tree import Node, SchemaTree

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

WHITESPACE = r"[ \t]{1,8}|[ \t]{0,2}(\r?\n){1,2}[ \t]{0,40}"
"""Between two tokens of JSON, a regular expression: two line breaks and an indent of 40 blanks
(ten levels of four), or a few blanks. Where any run may come, some models write nothing else."""

FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
)
"""Formats that are kept to. JSON Schema lets others be ignored, and so they are."""

_BRANCHES = ("anyOf", "oneOf")


def default_options(root: Node) -> JsonCompileOptions:
    """llguidance's options for a schema that does not set its own white space."""
    return {} if has_own_whitespace(root) else {"whitespace_pattern": WHITESPACE}


def settle(tree: SchemaTree) -> None:
    """Close the objects of a schema that name their members; drop formats nobody knows."""
    combined = tree.combined
    for place in tree.places:
        node = place.node
        if id(node) not in combined and _can_be_closed(node):
            node["additionalProperties"] = False
        if isinstance(node.get("format"), str) and node["format"] not in FORMATS:
            del node["format"]


def _can_be_closed(node: Node) -> bool:
    named = node.get("properties")
    if not isinstance(named, dict):
        return False
    if "additionalProperties" in node or "unevaluatedProperties" in node:
        return False
    n_least = node.get("minProperties", 0)
    needs_others = isinstance(n_least, (int, float)) and n_least > len(named)
    return not needs_others and set(_required(node)) <= named.keys()


def _required(node: Node) -> Iterator[Any]:
    branches = [branch for keyword in _BRANCHES for branch in _list(node.get(keyword))]
    for schema in (node, *branches):
        if isinstance(schema, dict):
            names = _list(schema.get("required"))
            yield from (name for name in names if isinstance(name, str))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
