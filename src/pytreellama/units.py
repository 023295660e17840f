"""Quantities as text with their unit."""

from __future__ import annotations


def milliseconds(seconds: float) -> str:
    """Seconds as a text in milliseconds."""
    return f"{1e3 * seconds:.1f} ms"


def gibibytes(n_bytes: int) -> str:
    """Bytes as a text in MiB or GiB."""
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:.1f} GiB"
