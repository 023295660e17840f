"""Probe: the masks that attention really used, read from the graph's own tensors."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.context.native_context import NativeContext
from pytreellama.errors import ContextError
from pytreellama.native.handle import Handle
from pytreellama.testing.library import ffi, lib


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """The mask of one micro-batch and one cache.

    Attributes:
        is_sliding: True for the cache of the sliding-window layers.
        values: float32, shape (n_streams, n_tokens, n_cells): 0 or an ALiBi bias where a token
            sees a cell, minus infinity where it does not. Rows may be padded beyond the tokens.
    """

    is_sliding: bool
    values: NDArray[np.float32]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Which cells each token sees, shape (n_streams, n_tokens, n_cells)."""
        return self.values > -np.inf


class Probe:
    """Watches the attention of a context. It makes passes slow.

    Args:
        context: one that has run no pass yet.

    Raises:
        ContextError: the context is closed, or in use by another thread.
    """

    def __init__(self, context: Context) -> None:
        pointer = lib.treellama_probe_new()
        self._handle = Handle(pointer, lib.treellama_probe_free, "probe", ContextError)
        with context.exclusive():
            lib.treellama_probe_attach(pointer, context.native.handle.pointer)
        _attached[context.native] = self

    def reset(self) -> None:
        """Forget what was recorded."""
        lib.treellama_probe_reset(self._handle.pointer)

    def records(self) -> list[MaskRecord]:
        """The masks since the last ``reset``, oldest first."""
        return [self._record(i) for i in range(lib.treellama_probe_count(self._handle.pointer))]

    def _record(self, i: int) -> MaskRecord:
        sliding = ffi.new("bool *")
        sizes = [ffi.new("int32_t *") for _ in range(3)]
        lib.treellama_probe_read(self._handle.pointer, i, sliding, *sizes, ffi.NULL)
        n_cells, n_tokens, n_streams = (size[0] for size in sizes)
        values = np.empty((n_streams, n_tokens, n_cells), dtype=np.float32)
        lib.treellama_probe_read(
            self._handle.pointer, i, sliding, *sizes, ffi.from_buffer("float[]", values)
        )
        return MaskRecord(bool(sliding[0]), values)


# Probes live as long as the contexts whose passes they are told of.
_attached: WeakKeyDictionary[NativeContext, Probe] = WeakKeyDictionary()


def probe_of(context: Context) -> Probe:
    """The probe that watches a context; raises ``KeyError`` if there is none."""
    return _attached[context.native]
