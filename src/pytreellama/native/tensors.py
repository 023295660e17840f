"""Types of tensors, by their names."""

from __future__ import annotations

from pytreellama.native.library import lib


def ggml_type(name: str) -> int:
    """ggml's number for a type of tensor, such as ``q8_0``."""
    return int(getattr(lib, f"GGML_TYPE_{name.upper()}"))
