"""Drafters by name: one file each, one line each in the registry below."""

from __future__ import annotations

from typing import TypeAlias

from pytreellama.draft.none import NoDrafter
from pytreellama.draft.protocol import EMPTY_TREE, Drafter, DrafterFactory
from pytreellama.draft.suffix import Suffix, SuffixDrafter, SuffixOptions
from pytreellama.errors import DraftError

__all__ = [
    "DRAFTERS",
    "EMPTY_TREE",
    "Drafter",
    "DrafterFactory",
    "DrafterSpec",
    "NoDrafter",
    "Suffix",
    "SuffixDrafter",
    "SuffixOptions",
    "drafter_factory",
    "make_drafter",
]

DrafterSpec: TypeAlias = str | DrafterFactory

# Without a measured cost to weigh a guess against, "auto" drafts only what is likelier than not.
_AUTO_MIN_P = 0.5

DRAFTERS: dict[str, DrafterFactory] = {
    "none": NoDrafter,
    "suffix": Suffix(),
    "auto": Suffix(min_p=_AUTO_MIN_P),
}


def drafter_factory(spec: DrafterSpec) -> DrafterFactory:
    """Resolve a name of `DRAFTERS`, or a factory such as `Suffix(min_p=0.3)`, to a factory.

    Raises DraftError for anything else, listing the names.
    """
    if isinstance(spec, str):
        if spec in DRAFTERS:
            return DRAFTERS[spec]
        raise DraftError(f"unknown drafter {spec!r}; {_allowed()}")
    if isinstance(spec, Drafter) and not isinstance(spec, type):
        raise DraftError(
            f"{spec.name!r} is one sequence's drafter, and an engine needs one for each; "
            "give what makes them, such as pytreellama.draft.Suffix(...)"
        )
    if callable(spec):
        return spec
    raise DraftError(f"a drafter cannot be made from {spec!r}; {_allowed()}")


def make_drafter(spec: DrafterSpec) -> Drafter:
    """Make a fresh drafter for one sequence.

    Raises DraftError for a spec that `drafter_factory` refuses, or a factory that makes no Drafter.
    """
    drafter = drafter_factory(spec)()
    if not isinstance(drafter, Drafter):
        raise DraftError(
            f"{spec!r} made {drafter!r}, which is no drafter: "
            "it needs a name and the methods observe, propose and reset"
        )
    return drafter


def _allowed() -> str:
    names = ", ".join(repr(name) for name in sorted(DRAFTERS))
    return f"give one of {names}, or a factory such as pytreellama.draft.Suffix(...)"
