"""Drafts that a model brings along: NextN layers in its file, an EAGLE-3 file next to it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from pytreellama.draft.conditioned import ConditionedFactory
from pytreellama.draft.eagle3 import Eagle3, beside
from pytreellama.draft.mtp import MTP
from pytreellama.errors import DraftError

if TYPE_CHECKING:
    from pytreellama.model.model import Model

_log = logging.getLogger(__name__)


def drafts_that_fit(model: Model) -> list[ConditionedFactory]:
    """Factories of the drafts that a model has; one that does not fit is logged and left out."""
    found: list[ConditionedFactory] = []
    if model.mtp == "loaded":
        found.append(MTP())
    if os.path.lexists(beside(model)):
        found.append(Eagle3())
    return [factory for factory in found if _fits(factory, model)]


def _fits(factory: ConditionedFactory, model: Model) -> bool:
    try:
        factory.prepare(model)
    except DraftError as error:
        _log.warning("drafts of %s are left out: %s", model.path.name, error)
        return False
    return True
