"""JSON schemas as constraints on the next token."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pytreellama.constraints.calls import on_one_line
from pytreellama.constraints.constraint import Constraint
from pytreellama.constraints.schema_defaults import default_options, settle
from pytreellama.constraints.schema_limits import MAX_SCHEMAS, check_data, check_length, check_tree
from pytreellama.constraints.schema_tree import SchemaTree
from pytreellama.errors import GrammarError
from pytreellama.model.vocab import Vocab


class JsonSchemaConstraint(Constraint):
    """Constrains generation to JSON that satisfies a JSON schema. Not thread-safe.

    Args:
        vocab: vocabulary of the model.
        schema: a mapping, or JSON text. An object schema with ``properties`` allows no others,
            unless it sets ``additionalProperties``. The key ``x-guidance`` sets llguidance's
            options, such as white space.

    Raises:
        GrammarError: not JSON, not a schema, unsatisfiable, too complex, or using keywords that
            are not supported.
    """

    __slots__ = ()

    what = "JSON schema"

    def __init__(self, vocab: Vocab, schema: Mapping[str, Any] | str) -> None:
        tree, n_levels = checked_tree(schema)
        super().__init__(vocab, _grammar_of(tree), n_levels=n_levels)

    def _told(self, error: str) -> str:
        return _in_our_words(super()._told(error))


def checked_tree(schema: Mapping[str, Any] | str) -> tuple[SchemaTree, int]:
    """A copy of a schema with what it leaves open settled, and the depth of its recursion.

    Raises:
        GrammarError: not JSON, not a schema, or too complex.
    """
    tree = _schema_tree(schema)
    n_levels = check_tree(tree)
    settle(tree)
    return tree, n_levels


def _schema_tree(schema: Mapping[str, Any] | str) -> SchemaTree:
    """Check a schema and return a deep copy as JSON data."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(dict(schema), allow_nan=False)
        check_length(text)
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except GrammarError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise GrammarError(f"the JSON schema must be an object, not {type(parsed).__name__}")
    check_data(parsed)
    return SchemaTree(parsed, MAX_SCHEMAS + 1)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _grammar_of(tree: SchemaTree) -> str:
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(tree.root), default_options(tree.root))
    except ValueError as error:
        raise GrammarError(f"JSON schema: {_in_our_words(on_one_line(str(error)))}") from error


def _in_our_words(reason: str) -> str:
    """Replace llguidance's advice about options that do not exist here."""
    for theirs, ours in _IN_OUR_WORDS:
        if theirs in reason:
            return ours
    return re.sub(
        r"Unimplemented keys: \[(.*)\]",
        r"these keywords are not supported: \1; remove them",
        reason,
    )


_IN_OUR_WORDS = (
    ("coerce_one_of", "the branches of a oneOf may overlap; use anyOf"),
    ("Default retriever", "references to other documents are not supported; put them into $defs"),
)
