"""What options of several drafters must satisfy."""

from __future__ import annotations

from pytreellama.errors import DraftError


def require_at_least_1(**values: int) -> None:
    """Raise DraftError for the first that is below 1."""
    for name, value in values.items():
        if value < 1:
            raise DraftError(f"{name} is {value}; it must be 1 or more")


def require_probability(**values: float) -> None:
    """Raise DraftError for the first that is outside [0, 1]."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise DraftError(f"{name} is {value}; it must lie between 0 and 1")
