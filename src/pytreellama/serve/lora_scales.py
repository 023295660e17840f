"""Scales of LoRA adapters, as clients give them and as an engine takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from pytreellama.serve.errors import APIError
from pytreellama.serve.fields import Body, Items

_N_MAX = 1024
_Name = Annotated[str, Field(max_length=1000)]
_Scale = Annotated[float, Field(ge=-1000.0, le=1000.0)]


class LoraScale(Body):
    """An adapter's scale, as llama-server has it."""

    id: int = Field(ge=0, lt=2**31, description="Of `/lora-adapters`.")
    scale: _Scale


LoraList = Annotated[Items[LoraScale], Field(max_length=_N_MAX)]
LoraScales = LoraList | Annotated[dict[_Name, _Scale], Field(max_length=_N_MAX)]
"""Scales by id, or by name."""


def scales_by_name(
    asked: Sequence[LoraScale] | Mapping[str, float] | None, names: Sequence[str]
) -> dict[str, float] | None:
    """Scales as ``Engine.submit`` takes them; None for the server's.

    Args:
        names: of the engine's adapters, by id.

    Raises:
        APIError: an unknown id, or one twice.
    """
    if asked is None or isinstance(asked, Mapping):
        return None if asked is None else dict(asked)
    scales: dict[str, float] = {}
    for one in asked:
        if one.id >= len(names) or names[one.id] in scales:
            raise APIError(
                400,
                f"invalid id={one.id} of a LoRA adapter: expected each id once, and one of "
                f"{', '.join(map(str, range(len(names)))) or 'none, there are no adapters'}",
                param="lora",
            )
        scales[names[one.id]] = one.scale
    return scales
