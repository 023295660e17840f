"""Validation of request bodies: one API error that names the field as the body spells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from pytreellama.errors import did_you_mean
from pytreellama.serve.errors import APIError

_N_TOLD_MAX = 100
"""Errors of which pydantic makes objects; it makes them of all or none, 10 us each."""

_INSTEAD = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "guided_json": "use json_schema",
    "guided_regex": "use regex",
    "guided_choice": "use regex",
    "guided_grammar": "use grammar or lark",
    "structured_outputs": "use json_schema, regex, grammar or lark",
}

_SHOULD_BE = "Input should be "  # as pydantic's texts of wrong types begin


def api_error_of_validation(
    error: ValidationError, body: object, model: type[BaseModel]
) -> APIError:
    """The most specific of the errors that pydantic finds.

    Args:
        error: pydantic's, which has an error for every form that a field may have.
        body: the JSON value that was checked.
        model: what it was checked against; its fields are suggested for unknown names.
    """
    n_errors = error.error_count()
    if n_errors > _N_TOLD_MAX:
        return APIError(
            400,
            f"the body has {n_errors} values or fields that this server does not take, too many to "
            "name; /openapi.json says what it takes",
        )
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return _api_error_of([_Found(one, body) for one in found], list(model.model_fields))


class _Found:
    """One error, and where it stands in the body.

    Attributes:
        n_passed: how many elements were right before it, in each list on the way to it.
    """

    def __init__(self, error: Any, body: object) -> None:
        self.type: str = error["type"]
        self.message: str = error["msg"]
        self.n_passed = [part for part in error["loc"] if isinstance(part, int)]
        self.path = _path_in(body, error["loc"], self.type == "missing")

    @property
    def is_of_form(self) -> bool:
        """It says no more than that the value is not of one of the forms that it may have."""
        return self.type.endswith("_type") or self.type == "literal_error"


def _api_error_of(errors: Sequence[_Found], fields: Sequence[str]) -> APIError:
    # of a field with several forms, the value's own form gets farthest
    first = max(errors, key=lambda one: (not one.is_of_form, len(one.path), one.n_passed))
    param = ".".join(first.path) or None
    if first.type == "extra_forbidden":
        meant = did_you_mean(param, fields)
        return APIError(400, f"{param} is not a field that this server knows{meant}", param=param)
    if first.type == "none_required":
        instead = _INSTEAD.get(param or "", "leave it out")
        return APIError(400, f"{param} is not supported; {instead}", param=param)
    if not first.path:
        return APIError(400, "the body must be a JSON object, with Content-Type: application/json")
    message = first.message
    if first.is_of_form:
        alike = [one.message for one in errors if one.path == first.path and one.is_of_form]
        forms = dict.fromkeys(one.removeprefix(_SHOULD_BE) for one in alike)
        message = _SHOULD_BE + " or ".join(forms)
    return APIError(400, f"{param}: {message}", param=param)


def _path_in(body: object, parts: Sequence[str | int], is_missing: bool) -> list[str]:
    """Names and indices on the way to a field, without those of the forms that it could have."""
    path: list[str] = []
    here = body
    for i, part in enumerate(parts):
        is_item = isinstance(here, list) and isinstance(part, int)
        if is_item or (isinstance(here, dict) and part in here):
            here = here[part]  # type: ignore[index]
        elif not (is_missing and i == len(parts) - 1):
            continue
        path.append(str(part))
    return path
