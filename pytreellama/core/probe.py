"""Probe: the masks that attention really used, read from the graph's own tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import ContextError
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib


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
    """Watches the attention of a context; made by ``Context(..., probe=True)``."""

    def __init__(self) -> None:
        self.handle = Handle(
            lib.treellama_probe_new(), lib.treellama_probe_free, "probe", ContextError
        )

    @property
    def pointer(self) -> Any:
        return self.handle.pointer

    def reset(self) -> None:
        """Forget what was recorded."""
        lib.treellama_probe_reset(self.pointer)

    def records(self) -> list[MaskRecord]:
        """The masks since the last ``reset``, oldest first."""
        return [self._record(i) for i in range(lib.treellama_probe_count(self.pointer))]

    def _record(self, i: int) -> MaskRecord:
        sliding = ffi.new("bool *")
        sizes = [ffi.new("int32_t *") for _ in range(3)]
        lib.treellama_probe_read(self.pointer, i, sliding, *sizes, ffi.NULL)
        n_cells, n_tokens, n_streams = (size[0] for size in sizes)
        values = np.empty((n_streams, n_tokens, n_cells), dtype=np.float32)
        lib.treellama_probe_read(
            self.pointer, i, sliding, *sizes, ffi.from_buffer("float[]", values)
        )
        return MaskRecord(bool(sliding[0]), values)
