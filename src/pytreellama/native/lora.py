"""LoRA adapters: loading them, and which of them the passes of a context use."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytreellama.errors import ContextError, ModelLoadError
from pytreellama.native.checks import check, check_pointer
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log
from pytreellama.process import awaited_calls

_loaded: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _leave_all() -> None:
    """Free none any more: the interpreter ends objects in any order, so its model may go first."""
    for pointer in list(_loaded):
        ffi.gc(pointer, None)


def load_lora(model: Handle, path: Path) -> Handle:
    """Load a checked GGUF file as an adapter, which is freed before its model.

    Raises:
        ModelLoadError: it is not an adapter for this model.
    """
    drain_log()
    with awaited_calls:
        pointer = lib.treellama_lora_load(model.pointer, os.fsencode(path))
    what = f"cannot load {path} as a LoRA adapter of this model"
    check_pointer(pointer, ModelLoadError, what, with_log=True)
    drain_log(errors_only=True)
    free = lib.llama_adapter_lora_free
    handle = Handle(pointer, free, "adapter", ModelLoadError, needs=[model])
    _loaded.add(handle.pointer)
    return handle


class LoraSets:
    """The sets of adapters that one context has used, so that it can go back to them cheaply."""

    def __init__(self) -> None:
        pointer = lib.treellama_lora_sets_init()
        self._handle = Handle(pointer, lib.treellama_lora_sets_free, "adapter sets", ContextError)
        self._used: dict[int, Handle] = {}  # which must live as long as the context

    def use(self, context: Handle, adapters: Sequence[tuple[Handle, float]]) -> None:
        """From the next pass on, use these adapters and no others; no scale is 0.

        Raises:
            ContextError: no memory for their graphs.
        """
        pointers = [adapter.pointer for adapter, _ in adapters]
        scales = [scale for _, scale in adapters]
        status = lib.treellama_lora_use(
            self._handle.pointer, context.pointer, pointers, scales, len(adapters)
        )
        check(status, ContextError, "cannot use the adapters", with_log=True)
        for adapter, _ in adapters:
            address = int(ffi.cast("uintptr_t", adapter.pointer))
            if address not in self._used:
                self._used[address] = adapter.share()
        drain_log(errors_only=True)
