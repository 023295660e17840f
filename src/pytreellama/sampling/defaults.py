"""Sampling defaults of chats: options, or the model file's recommendation, or usual values."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pytreellama.errors import SamplerError
from pytreellama.sampling.params import TRUNCATION, SamplingParams

_log = logging.getLogger(__name__)

USUAL_SAMPLING: Mapping[str, float] = MappingProxyType(
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
)
"""llama-server's: at temperature 1 alone, one token in some hundred is drawn from noise."""

_FIELD_OF_KEY = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "penalty_last_n",
    "penalty_repeat": "repeat_penalty",
}
_WHOLE = ("top_k", "penalty_last_n")


def sampling_defaults(metadata: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling options of a chat: those given, else what the model recommends, else the usual ones.

    The one rule for chats in Python and on the command line, and for all requests of the server.
    A plain text that is continued in Python or on the command line is greedy by default.

    Args:
        metadata: of the model's file; ``general.sampling.*`` is what its authors recommend.
        given: fields of ``SamplingParams``.

    Raises:
        SamplerError: an option out of range.
    """
    values: dict[str, Any] = {**USUAL_SAMPLING, **_recommended(metadata)}
    if given.get("mirostat"):  # it replaces truncation
        values = {name: value for name, value in values.items() if name not in TRUNCATION}
    values.update(given)
    SamplingParams(**values)
    return values


def _recommended(metadata: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, name in _FIELD_OF_KEY.items():
        text = metadata.get(f"general.sampling.{key}")
        if text is None:
            continue
        try:
            value = float(text)
            number = round(value) if name in _WHOLE else value
            SamplingParams(**{name: number})  # type: ignore[arg-type]
        except (ValueError, OverflowError, SamplerError) as error:
            _log.warning("general.sampling.%s=%s of the model is ignored: %s", key, text, error)
            continue
        found[name] = number
    return found
