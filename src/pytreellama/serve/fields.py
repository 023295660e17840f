"""Types that fields of requests have in common."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

_T = TypeVar("_T")

Items = Annotated[list[_T], Field(fail_fast=True)]
"""A list of which the first wrong element is told, not a million of them."""
TokenIds = Annotated[Items[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(max_length=1000)]
Prompts = (
    Text
    | Annotated[Items[Text], Field(min_length=1, max_length=2048)]
    | TokenIds
    | Annotated[Items[TokenIds], Field(min_length=1, max_length=2048)]
)
JsonObject = dict[str, JsonValue]


class Body(BaseModel):
    """A JSON object with fields of the right types; numbers are never read from strings.

    Unknown fields are ignored, or refused on a server with ``--strict``.
    """

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
