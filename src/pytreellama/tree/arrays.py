"""Checked arrays: what callers hand over, in the dtypes that trees hold, or a TreeError."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytreellama.errors import TreeError

Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

TRUNK = -1
"""The parent of a root: the end of the committed text."""

INT32_MAX = 2**31 - 1

P_TOLERANCE = 1e-6
"""How far rounding may carry a path probability above its parent's, above 1 or below 0."""


def as_vector(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Any array-like as a one-dimensional array; TreeError if it is ragged or has another shape."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise TreeError(f"{name} cannot be read as one flat array: {error}") from error
    if array.ndim != 1:
        raise TreeError(f"{name} has shape {array.shape}; give one dimension, one entry a node")
    return array


def as_integers(values: npt.ArrayLike, name: str, low: int, high: int) -> Int32Array:
    """A fresh int32 copy of `values`; TreeError unless all are integers within low..high."""
    array = as_vector(values, name)
    # NumPy reads an empty list as float64, and an empty vector cannot hold a wrong number.
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TreeError(f"{name} has dtype {array.dtype}; give integers within {low}..{high}")
    outside = np.flatnonzero((array < low) | (array > high))
    if outside.size:
        at = int(outside[0])
        raise TreeError(f"{name}[{at}] is {array[at]}; allowed is {low}..{high}")
    return np.array(array, dtype=np.int32)


def as_tokens(tokens: npt.ArrayLike, name: str = "tokens") -> Int32Array:
    """Token ids, int32[n], none of them negative."""
    return as_integers(tokens, name, 0, INT32_MAX)


def as_parents(parents: npt.ArrayLike, n_nodes: int | None = None) -> Int32Array:
    """Parents, int32[n], each -1 (the trunk) or the index of a node; cycles are not looked for."""
    array = as_vector(parents, "parents")
    if n_nodes is not None and len(array) != n_nodes:
        raise TreeError(
            f"{n_nodes} tokens but {len(array)} parents; every node needs one of each"
            f" (parent {TRUNK} hangs a node on the trunk)"
        )
    return as_integers(array, "parents", TRUNK, len(array) - 1)


def as_probabilities(p: npt.ArrayLike, n_nodes: int) -> Float32Array:
    """Path probabilities, float32[n], in [0, 1]; what rounding carries beyond is clipped."""
    array = as_vector(p, "p")
    if len(array) != n_nodes:
        raise TreeError(f"{n_nodes} nodes but {len(array)} probabilities; p has one entry a node")
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise TreeError(f"p has dtype {array.dtype}; give probabilities, numbers in [0, 1]")
    inside = (array >= -P_TOLERANCE) & (array <= 1 + P_TOLERANCE)  # NaN is in no interval
    if not inside.all():
        at = int(np.argmin(inside))
        raise TreeError(f"p[{at}] is {array[at]}; a path probability is finite and in [0, 1]")
    # Adding zero turns -0.0 into 0.0, so that equal trees have equal bytes and equal hashes.
    clipped: Float32Array = np.clip(array, 0, 1).astype(np.float32) + np.float32(0)
    return clipped


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array, closed for writing."""
    array.setflags(write=False)
    return array
