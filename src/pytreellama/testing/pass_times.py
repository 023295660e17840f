"""Seconds that llama.cpp's passes take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from pytreellama.context.native_context import NativeContext

_PASSES = ("decode", "decode_tree", "decode_one", "decode_one_tree")


@contextmanager
def timed_passes() -> Iterator[list[float]]:
    """The seconds of each pass of each context while the block runs, in order."""
    seconds: list[float] = []
    with ExitStack() as patches:
        for name in _PASSES:
            timed = _timed(getattr(NativeContext, name), seconds)
            patches.enter_context(patch.object(NativeContext, name, timed))
        yield seconds


def _timed(call: Callable[..., None], seconds: list[float]) -> Callable[..., None]:
    def timed(*arguments: Any, **options: Any) -> None:
        started_s = time.perf_counter()
        call(*arguments, **options)
        seconds.append(time.perf_counter() - started_s)

    return timed
