"""Defaults for what a JSON schema leaves open, chosen for text from a language model.

By default JSON Schema allows properties that the schema does not name, and small models invent more
and more of them. Here a schema with ``properties`` allows no others, unless it says
``additionalProperties: true`` or may require properties that it does not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytreellama.constraints.schema_limits import has_own_whitespace
from pytreellama.constraints.schema_tree import Node, SchemaTree

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

WHITESPACE = r"[ \t]{1,8}|[ \t]{0,2}(\r?\n){1,2}[ \t]{0,40}"
"""Regular expression for white space between JSON tokens: at most two line breaks and 40 spaces of
indent (ten levels of four), or a few spaces. Without a limit some models write only white space."""

FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
)
"""Formats that are enforced; others are ignored, which JSON Schema permits."""

_BRANCHES = ("anyOf", "oneOf")


def default_options(root: Node) -> JsonCompileOptions:
    """llguidance's options for schemas that do not set their own white space."""
    return {} if has_own_whitespace(root) else {"whitespace_pattern": WHITESPACE}


def settle(tree: SchemaTree) -> None:
    """Disallow unnamed properties where a schema has ``properties``; drop unknown formats."""
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
