"""SchemaTree: the subschemas of a JSON schema, and which of them apply to the same value.

All walks are loops, not recursion: schemas can be nested deep, and references can form long chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any
from urllib.parse import unquote

Node = dict[str, Any]

# Keywords that contain schemas: for the value itself (in place), for its parts, and for neither.
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE = ("not", "if", "then", "else")
_IN_PLACE_MAPS = ("dependentSchemas",)
_PARTS = (
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
)
_PART_LISTS = ("items", "prefixItems")
_PART_MAPS = ("properties", "patternProperties")
_DEFINITIONS = ("$defs", "definitions")

# Keywords that constrain the value directly, next to the schemas that apply in place.
_OWN = (
    "additionalProperties",
    "format",
    "items",
    "pattern",
    "prefixItems",
    "unevaluatedProperties",
    *_PART_MAPS,
)

# A branch that has only these keywords does not constrain parts or patterns.
_BARE = {"required", "type", "title", "description", "minProperties", "maxProperties"}

ANY_NAME = ""
"""Name of parts without a fixed name: array items, and properties matched by a pattern."""


@dataclass(frozen=True)
class Child:
    """A subschema and its place in the outer schema.

    Attributes:
        node: the schema.
        name: name of the property that it describes, ``ANY_NAME`` for other parts, None for the
            value of the outer schema itself.
        keyword: keyword of the outer schema that contains it.
    """

    node: Node
    name: str | None
    keyword: str


@dataclass(frozen=True)
class Place:
    """The first visit of a schema.

    Attributes:
        node: the schema.
        base: base of its references: the nearest enclosing schema with an ``$id``.
        depth: number of enclosing schemas, up to the definition that contains it.
    """

    node: Node
    base: Node
    depth: int


class SchemaTree:
    """All subschemas of a JSON schema, without booleans.

    Args:
        root: JSON data; must be a tree, without shared objects.
        n_max: maximum number of schemas to read; the rest is left out.
    """

    def __init__(self, root: Node, n_max: int | None = None) -> None:
        self.root = root
        self.places: list[Place] = list(islice(_places(root), n_max))
        """All schemas, outer ones first."""
        self._base = {id(place.node): place.base for place in self.places}
        self._by_id = {node["$id"]: node for node in self._nodes if _is_text(node.get("$id"))}
        self._by_anchor = {
            (id(place.base), place.node["$anchor"]): place.node
            for place in self.places
            if _is_text(place.node.get("$anchor"))
        }

    @property
    def _nodes(self) -> Iterator[Node]:
        return (place.node for place in self.places)

    def references(self) -> set[tuple[int, str]]:
        """Targets of all references, by base and reference text."""
        return {
            (id(place.base), place.node["$ref"])
            for place in self.places
            if _is_text(place.node.get("$ref"))
        }

    def applied(self, node: Node) -> Iterator[Child]:
        """Return the schemas that a schema applies: subschemas and the target of ``$ref``."""
        yield from (child for child in _children(node) if child.keyword not in _DEFINITIONS)
        target = self._target(node)
        if target is not None:
            yield Child(target, None, "$ref")

    @cached_property
    def combined(self) -> set[int]:
        """``id`` of every schema that shares its value, or one around it, with another schema."""
        marked: set[int] = set()
        for outer in self._nodes:
            if id(outer) in marked or not self.combines(outer):
                continue
            todo = [outer]
            while todo:
                node = todo.pop()
                if id(node) not in marked:
                    marked.add(id(node))
                    todo.extend(child.node for child in self.applied(node))
        return marked

    def combines(self, node: Node) -> bool:
        """True if more than one schema constrains the same value."""
        n_sources = int(any(keyword in node for keyword in _OWN)) + int("$ref" in node)
        n_sources += len(node["allOf"]) if isinstance(node.get("allOf"), list) else 0
        n_sources += sum(_has_substance(node.get(keyword)) for keyword in ("anyOf", "oneOf"))
        return n_sources > 1 or any(word in node for word in (*_IN_PLACE, *_IN_PLACE_MAPS))

    def _target(self, node: Node) -> Node | None:
        text = node.get("$ref")
        if not isinstance(text, str):
            return None
        name, _, fragment = text.partition("#")
        base = self._by_id.get(name) if name else self._base[id(node)]
        if base is None:
            return None
        if fragment and not fragment.startswith("/"):
            return self._by_anchor.get((id(base), fragment))
        target = _at_pointer(base, fragment)
        return target if isinstance(target, dict) and id(target) in self._base else None


def _places(root: Node) -> Iterator[Place]:
    todo = [Place(root, root, 0)]
    for place in todo:  # grows meanwhile
        base = place.node if "$id" in place.node else place.base
        place = Place(place.node, base, place.depth)
        yield place
        todo.extend(
            Place(child.node, base, 0 if child.keyword in _DEFINITIONS else place.depth + 1)
            for child in _children(place.node)
        )


def _children(node: Node) -> Iterator[Child]:
    for keyword in _IN_PLACE_LISTS:
        yield from _in_list(node, keyword, None)
    for keyword in _IN_PLACE:
        yield from _alone(node, keyword, None)
    for keyword in (*_IN_PLACE_MAPS, *_DEFINITIONS):
        yield from (Child(child.node, None, keyword) for child in _in_map(node, keyword))
    for keyword in _PARTS:
        yield from _alone(node, keyword, ANY_NAME)
    for keyword in _PART_LISTS:
        yield from _in_list(node, keyword, ANY_NAME)
    yield from _in_map(node, "properties")
    for child in _in_map(node, "patternProperties"):
        yield Child(child.node, ANY_NAME, child.keyword)


def _alone(node: Node, keyword: str, name: str | None) -> Iterator[Child]:
    if isinstance(node.get(keyword), dict):
        yield Child(node[keyword], name, keyword)


def _in_list(node: Node, keyword: str, name: str | None) -> Iterator[Child]:
    members = node.get(keyword)
    if isinstance(members, list):
        yield from (Child(member, name, keyword) for member in members if isinstance(member, dict))


def _in_map(node: Node, keyword: str) -> Iterator[Child]:
    members = node.get(keyword)
    if isinstance(members, dict):
        for name, member in members.items():
            if isinstance(member, dict):
                yield Child(member, name, keyword)


def _has_substance(branches: object) -> bool:
    return isinstance(branches, list) and any(
        isinstance(branch, dict) and not branch.keys() <= _BARE for branch in branches
    )


def _at_pointer(base: Node, pointer: str) -> object:
    """Resolve a JSON pointer (RFC 6901); None if there is no such value."""
    found: Any = base
    for word in unquote(pointer).split("/")[1:]:
        word = word.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(word)
        elif isinstance(found, list) and word.isdecimal() and int(word[:9]) < len(found):
            found = found[int(word[:9])]
        else:
            return None
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)
