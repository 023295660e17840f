"""The table of the recycling drafter: likeliest successors behind one, two and three tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft.files import load_arrays, save_arrays
from pytreellama.draft.protocol import Float32Array, Int32Array
from pytreellama.draft.recycling import MAX_ORDER, MAX_TOP
from pytreellama.errors import DraftError
from pytreellama.native import ffi, lib
from pytreellama.native.handle import Handle
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown

_KIND = "a table of successors"
_MAX_TOKEN = (1 << 21) - 1  # three ids make one key; no vocabulary has two million tokens
_NO_TOKEN = -1
_N_CLASSES = 11  # of a successor's share of what its row kept
_COUNTS_SHAPE = (2, MAX_ORDER, _N_CLASSES)


class SuccessorTable:
    """Rows of successors by context, and how often successors of each kind came true.

    A row that was computed behind the same three tokens says more than one behind the same last
    one. How much more is learned: by length of context and class of share, the table counts how
    often such a successor was the text's next token. It lives in C++, because it is taught and
    asked at every step (``treellama-successors.cpp``).

    Args:
        max_entries: contexts of each length that are remembered; of more, the oldest go.
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        pointer = lib.treellama_successors_new(max_entries)
        self._handle = Handle(pointer, lib.treellama_successors_free, "table", DraftError)

    @property
    def _pointer(self) -> Any:
        return self._handle.pointer

    def __len__(self) -> int:
        """Contexts of all lengths."""
        return sum(map(self._n_rows, range(1, MAX_ORDER + 1)))

    def _n_rows(self, length: int) -> int:
        return int(lib.treellama_successors_size(self._pointer, length))

    # -- what it knows

    def learn(
        self,
        before: Sequence[int],
        tree: TokenTree,
        tokens: Int32Array,
        logits: Float32Array,
        n_top: int = MAX_TOP,
    ) -> None:
        """Keep the successors of every node of a pass.

        Args:
            before: the text before node 0; its last two tokens matter.
            tree: with one root.
            tokens, logits: of each node's successors, falling, shape (n_nodes, k), contiguous.
            n_top: how many of them to keep; at most ``MAX_TOP``.
        """
        if int(tree.tokens.max()) > _MAX_TOKEN:
            return
        n_nodes, n_next = tokens.shape
        end = list(before[-MAX_ORDER:])
        status = lib.treellama_successors_learn(
            self._pointer,
            end,
            len(end),
            _int32(tree.tokens),
            _int32(tree.parents),
            n_nodes,
            _int32(np.ascontiguousarray(tokens, np.int32)),
            ffi.from_buffer("float[]", np.ascontiguousarray(logits, np.float32)),
            n_next,
            min(n_top, n_next, MAX_TOP),
        )
        _require(status == 0)

    def successors(self, context: Sequence[int], min_p: float = 0.0) -> list[tuple[int, float]]:
        """What may follow, with estimated probabilities, which sum to no more than 1.

        Longer contexts come first; shorter ones add what those do not have. What is less likely
        than `min_p` is left out.
        """
        end = list(context[-MAX_ORDER:])
        tokens = ffi.new("int32_t[]", MAX_ORDER * MAX_TOP)
        p = ffi.new("double[]", MAX_ORDER * MAX_TOP)
        n = lib.treellama_successors_of(self._pointer, end, len(end), min_p, tokens, p)
        return list(zip(ffi.unpack(tokens, n), ffi.unpack(p, n), strict=True)) if n else []

    def grow(self, context: Sequence[int], n_nodes: int, *, max_depth: int, min_p: float) -> Grown:
        """The tree of the `n_nodes` (>= 1) likeliest paths that may follow.

        min_p: nodes whose path probability is lower are left out.
        """
        end = list(context[-MAX_ORDER:])
        tokens = ffi.new("int32_t[]", n_nodes)
        parents = ffi.new("int32_t[]", n_nodes)
        p = ffi.new("double[]", n_nodes)
        n = lib.treellama_successors_grow(
            self._pointer, end, len(end), n_nodes, max_depth, min_p, tokens, parents, p
        )
        _require(n >= 0)
        if n == 0:
            return NOTHING
        return Grown(ffi.unpack(tokens, n), ffi.unpack(parents, n), ffi.unpack(p, n))

    # -- how far to believe it

    def judge(self, text: Sequence[int], went_on: Sequence[int]) -> None:
        """Count which successors were right along the tokens that the text went on with.

        To be called before `learn` takes in the pass that they came from.
        """
        end = list(text[-MAX_ORDER:])
        lib.treellama_successors_judge(self._pointer, end, len(end), list(went_on), len(went_on))

    def _counts(self, right: bool) -> NDArray[np.float64]:
        """A view of the counts, shape (2, MAX_ORDER, classes): escaped or not, length, share."""
        pointer = lib.treellama_successors_counts(self._pointer, right)
        buffer = ffi.buffer(pointer, 8 * int(np.prod(_COUNTS_SHAPE)))
        return np.frombuffer(buffer, np.float64).reshape(_COUNTS_SHAPE)

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, which is replaced only when all is written."""
        arrays: dict[str, NDArray[np.generic]] = {
            "seen": self._counts(right=False),
            "right": self._counts(right=True),
        }
        k = int(lib.treellama_successors_max_row(self._pointer))
        for length in range(1, MAX_ORDER + 1):
            rows = _Rows.empty(self._n_rows(length), k)
            lib.treellama_successors_get(self._pointer, length, k, *rows.pointers())
            for name, array in rows.arrays().items():
                arrays[f"{name}{length - 1}"] = array
        save_arrays(path, _KIND, arrays)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take what `save` wrote in place of what is known. Raises DraftError; nothing changed."""
        arrays = load_arrays(path, _KIND)
        try:
            rows = [_Rows.of(arrays, length) for length in range(MAX_ORDER)]
            counts = [np.asarray(arrays[name], np.float64) for name in ("seen", "right")]
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise DraftError(f"{path} does not hold {_KIND} of this version: {error}") from error
        if not all(map(_are_counts, counts)):
            raise DraftError(f"{path} does not hold {_KIND} of this version, or is damaged")
        for length, of_length in enumerate(rows, start=1):
            n, k = of_length.tokens.shape
            _require(
                lib.treellama_successors_set(self._pointer, length, n, k, *of_length.pointers())
                == 0
            )
        self._counts(right=False)[:], self._counts(right=True)[:] = counts


def _are_counts(counts: NDArray[np.float64]) -> bool:
    is_valid = counts.shape == _COUNTS_SHAPE and np.isfinite(counts).all() and counts.min() >= 0.0
    return bool(is_valid)


class _Rows:
    """Rows behind contexts of one length, the oldest first.

    keys: int64, shape (n,); tokens, shares: int32, shape (n, k), -1 for no token.
    """

    def __init__(self, keys: NDArray[np.int64], tokens: Int32Array, shares: Int32Array) -> None:
        self.keys, self.tokens, self.shares = keys, tokens, shares

    @classmethod
    def empty(cls, n: int, k: int) -> _Rows:
        shape = (n, k)
        return cls(np.empty(n, np.int64), np.empty(shape, np.int32), np.empty(shape, np.int32))

    @classmethod
    def of(cls, arrays: dict[str, NDArray[np.generic]], length: int) -> _Rows:
        keys, tokens, shares = (arrays[f"{name}{length}"] for name in ("keys", "tokens", "shares"))
        if tokens.shape != shares.shape or tokens.ndim != 2 or keys.shape != tokens.shape[:1]:
            raise ValueError("arrays do not fit together")
        if tokens.shape[1] > MAX_TOP:
            raise ValueError(f"rows of {tokens.shape[1]} successors")
        rows = cls(
            np.ascontiguousarray(keys, np.int64),
            np.ascontiguousarray(tokens, np.int32),
            np.ascontiguousarray(shares, np.int32),
        )
        if shares.size and not (rows.shares.min() >= 0 and rows.shares.max() < _N_CLASSES):
            raise ValueError("unknown classes of shares")
        return rows

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        return {"keys": self.keys, "tokens": self.tokens, "shares": self.shares}

    def pointers(self) -> tuple[Any, Any, Any]:
        return (
            ffi.from_buffer("int64_t[]", self.keys),
            _int32(self.tokens),
            _int32(self.shares),
        )


def _int32(array: Int32Array) -> Any:
    return ffi.from_buffer("int32_t[]", array)


def _require(succeeded: bool) -> None:
    if not succeeded:
        raise MemoryError("there is no memory for the table of successors")
