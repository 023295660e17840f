"""Checks that the options of several drafters share."""

from __future__ import annotations

from pytreellama.errors import DraftError


def require_at_least_1(**values: int) -> None:
    """Raise ``DraftError`` for the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise DraftError(f"invalid {name}={value}: expected at least 1")


def require_probability(**values: float) -> None:
    """Raise ``DraftError`` for the first value outside [0, 1]."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise DraftError(f"invalid {name}={value}: expected 0 to 1")
