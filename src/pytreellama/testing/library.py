"""Loads the compiled instruments, or says how to get them."""

from __future__ import annotations

from typing import Any

import pytreellama.native  # noqa: F401 - the libraries, which the instruments reach into


def _load() -> tuple[Any, Any]:
    try:
        from pytreellama.native import _native_testing  # type: ignore[attr-defined]
    except ImportError as error:
        raise ImportError(
            f"the test instruments are not built, or of another build: {error}; "
            "run `python3 build.py build --extra test` in the checkout"
        ) from error
    return _native_testing.ffi, _native_testing.lib


ffi, lib = _load()
