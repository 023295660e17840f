"""Room for a tree that C++ grows: tokens, parents and path probabilities."""

from __future__ import annotations

from pytreellama.native.library import ffi


class GrownNodes:
    """Room for so many nodes.

    Attributes:
        pointers: cdata ``int32_t *``, ``int32_t *``, ``double *``, in the order of the C ABI.
    """

    __slots__ = ("pointers",)

    def __init__(self, n_nodes: int) -> None:
        tokens, parents = ffi.new("int32_t[]", n_nodes), ffi.new("int32_t[]", n_nodes)
        self.pointers = tokens, parents, ffi.new("double[]", n_nodes)

    def first(self, count: int) -> tuple[list[int], list[int], list[float]]:
        """The first nodes: tokens, parents, path probabilities."""
        if count == 0:
            return [], [], []
        tokens, parents, p = self.pointers
        return ffi.unpack(tokens, count), ffi.unpack(parents, count), ffi.unpack(p, count)
