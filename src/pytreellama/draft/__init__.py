"""Drafters by name: one file each, one line each in the registry below."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pytreellama.draft.acceptance import Acceptance
from pytreellama.draft.auto import Auto, AutoDrafter
from pytreellama.draft.corpus import Corpus, vocab_fingerprint
from pytreellama.draft.draft_file import DraftFile
from pytreellama.draft.eagle3 import Eagle3
from pytreellama.draft.medusa import Medusa, MedusaDrafter, MedusaOptions
from pytreellama.draft.merge import Merge, MergeDrafter
from pytreellama.draft.model import Model, ModelDrafter
from pytreellama.draft.mtp import MTP
from pytreellama.draft.ngram import NGram, NGramDrafter, NGramOptions
from pytreellama.draft.ngram_table import NGramTable
from pytreellama.draft.none import NoDrafter
from pytreellama.draft.protocol import (
    EMPTY_TREE,
    Drafter,
    DrafterFactory,
    Draws,
    HiddenObserver,
    HoldsContext,
    NeedsContext,
    NeedsTarget,
    PassObserver,
    RowObserver,
    Selective,
    SharesPasses,
    Tokens,
)
from pytreellama.draft.recycling import Recycling, RecyclingDrafter, RecyclingOptions
from pytreellama.draft.suffix import Suffix, SuffixDrafter, SuffixOptions
from pytreellama.errors import DraftError, not_one_of, shown

__all__ = [
    "DRAFTERS",
    "EMPTY_TREE",
    "MTP",
    "Acceptance",
    "Auto",
    "AutoDrafter",
    "Corpus",
    "DraftFile",
    "Drafter",
    "DrafterFactory",
    "DrafterSpec",
    "Draws",
    "Eagle3",
    "HiddenObserver",
    "HoldsContext",
    "Medusa",
    "MedusaDrafter",
    "MedusaOptions",
    "Merge",
    "MergeDrafter",
    "Model",
    "ModelDrafter",
    "NGram",
    "NGramDrafter",
    "NGramOptions",
    "NGramTable",
    "NeedsContext",
    "NeedsTarget",
    "NoDrafter",
    "PassObserver",
    "Recycling",
    "RecyclingDrafter",
    "RecyclingOptions",
    "RowObserver",
    "Selective",
    "SharesPasses",
    "Suffix",
    "SuffixDrafter",
    "SuffixOptions",
    "Tokens",
    "drafter_factory",
    "make_drafter",
    "uses_mtp",
    "vocab_fingerprint",
]

DrafterSpec: TypeAlias = str | DrafterFactory | Sequence[str | DrafterFactory]
"""A name of `DRAFTERS`, a factory, or several of them, whose trees are merged.

Names may be joined: "suffix+recycling" is ["suffix", "recycling"], and what is joined to "auto" is
planned with its drafters. "small.gguf" names the file of a draft model (as "model=small.gguf", or
"model=hf:owner/name", do), "medusa=heads.gguf" that of heads, "eagle3=model.eagle3.gguf" that of an
EAGLE-3 model.
"""
_OR_FACTORY = (
    "; or give the GGUF file of a draft model, or a factory such as pytreellama.draft.Suffix(...)"
)

# What makes a factory, not a factory: what drafters learn together must not pass to other models.
DRAFTERS: dict[str, Callable[[], DrafterFactory]] = {
    "none": lambda: NoDrafter,
    "suffix": Suffix,
    "recycling": Recycling,
    "ngram": NGram,
    "medusa": Medusa,
    "mtp": MTP,
    "eagle3": Eagle3,
    "auto": lambda: _auto(()),
}


_OF_FILES: dict[str, Callable[[str], DrafterFactory]] = {
    "medusa": Medusa,
    "eagle3": Eagle3,
    "model": DraftFile,
}


def drafter_factory(spec: DrafterSpec) -> DrafterFactory:
    """Resolve a name of `DRAFTERS`, or a factory such as `Suffix(min_p=0.3)`, to a factory.

    Several in a list become one, whose drafters merge their trees. A name gives a factory of its
    own each time, so that nothing is learned from one engine to the next.

    Raises DraftError for anything else, listing the names.
    """
    if isinstance(spec, str) and "+" in spec and not _is_file(spec):
        names = spec.split("+")
        if "auto" in names:
            return _auto([name for name in names if name != "auto"])
        return drafter_factory(names)
    if isinstance(spec, str):
        return _named(spec)
    if isinstance(spec, Sequence):
        return Merge(*map(drafter_factory, spec))
    if isinstance(spec, Drafter) and not isinstance(spec, type):
        raise DraftError(
            f"invalid drafter={spec.name!r}: it drafts for one sequence, and an engine needs a "
            "drafter for each; give a factory, such as pytreellama.draft.Suffix(...)"
        )
    if callable(spec):
        return spec
    raise DraftError(not_one_of("drafter", spec, sorted(DRAFTERS)) + _OR_FACTORY)


def _named(name: str) -> DrafterFactory:
    kind, is_of_file, path = name.partition("=")
    if is_of_file and kind in _OF_FILES:
        return _OF_FILES[kind](path)
    if name in DRAFTERS:
        return DRAFTERS[name]()
    if name.lower().endswith(".gguf"):
        return DraftFile(name)
    raise DraftError(not_one_of("drafter", name, sorted(DRAFTERS)) + _OR_FACTORY)


def _is_file(name: str) -> bool:
    """True for the path of a file, which may have "+" in it."""
    kind, _, path = name.partition("=")
    return os.path.lexists(path if kind in _OF_FILES else name)


def _auto(names: Sequence[str]) -> Auto:
    """The default drafters, planned together with others."""
    others = [drafter_factory(name) for name in names if name not in ("suffix", "recycling")]
    kinds = {name.partition("=")[0] for name in names}
    return Auto(
        Suffix(),
        Recycling(),
        *others,
        medusa="medusa" not in kinds,
        own=kinds.isdisjoint(("mtp", "eagle3")),
    )


def uses_mtp(spec: DrafterSpec) -> bool:
    """True if a drafter uses NextN layers, so that a model should load them; raises DraftError."""
    return bool(getattr(drafter_factory(spec), "uses_mtp", False))


def make_drafter(spec: DrafterSpec) -> Drafter:
    """Make a fresh drafter for one sequence.

    Raises DraftError for a spec that `drafter_factory` refuses, or a factory that makes no Drafter.
    """
    drafter = drafter_factory(spec)()
    if not isinstance(drafter, Drafter):
        raise DraftError(
            f"invalid drafter={shown(spec)}: it returned {shown(drafter)}, which lacks name, "
            "observe, propose or reset"
        )
    return drafter
