"""Functions: what may be called, by name, with the schema of its arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Functions = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each function's arguments, by its name."""

N_NAME_MAX = 256
"""Characters of a name; longer ones are of no function."""


def is_text(schema: Mapping[str, Any], argument: str) -> bool:
    """True if an argument is certainly text, so that it can be passed on as it comes."""
    return _property(schema, argument).get("type") == "string"


def value_of(schema: Mapping[str, Any], argument: str, text: str) -> str:
    """JSON text of an argument that stands in tags, which do not tell a text from a number."""
    kind = _property(schema, argument).get("type")
    if kind == "string":
        return json.dumps(text, ensure_ascii=False)
    if kind in ("boolean", "null") and text.strip().lower() in ("true", "false", "null", "none"):
        text = text.strip().lower().replace("none", "null")  # as Python writes them
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)


def _property(schema: Mapping[str, Any], argument: str) -> Mapping[str, Any]:
    properties = schema.get("properties")
    found = properties.get(argument) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}
