"""Packing of Q4_K: what gguf unpacks again is near to what was packed."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import q4_k


def unpacked(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return dequantize(q4_k.pack(values), GGMLQuantizationType.Q4_K)


@given(
    seed=st.integers(0, 2**32 - 1),
    mean=st.floats(-3, 3),
    log_scale=st.floats(-3, 3),
    shape=st.sampled_from([(1, 256), (3, 512), (2, 4, 256)]),
)
def test_values_come_back_within_a_sixteenth_of_what_a_super_block_spans(
    seed: int, mean: float, log_scale: float, shape: tuple[int, ...]
) -> None:
    normal = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    values = np.float32(10**log_scale) * (normal + np.float32(mean))
    again = unpacked(values)
    assert again.shape == shape
    spans = values.reshape(-1, q4_k.SUPER)
    # zero is in every block's range, as its minimum is subtracted
    span = np.maximum(spans.max(-1), 0) - np.minimum(spans.min(-1), 0)
    error = np.abs(again - values).reshape(-1, q4_k.SUPER).max(-1)
    assert (error <= span / 16).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_constant_rows_come_back(value: float) -> None:
    values = np.full((2, 256), value, dtype=np.float32)
    assert np.allclose(unpacked(values), values, rtol=1e-3)
