"""Matrix products: right, and the same bits whatever stands beside a column.

What is right is told by products in float64 of the weights as they are stored. Errors are measured
against those of stock's code, which rounds activations: to 8 bits for quantised weights, to 16 for
weights of 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from pytreellama.errors import BatchError
from pytreellama.testing.products import (
    WEIGHT_TYPES,
    WeightType,
    block_size,
    decode_weights,
    encode_weights,
    matmul,
)
from weight_bytes import EXTREMES, PLAIN_TYPES, SLOW_TYPES, any_weights, rounded_weights

Array = np.ndarray

MARGIN = 1.1
F32_MARGIN = 1.5
"""Where nothing is rounded first, the order of the sums is all that makes errors."""

N_ELEMENTS = 4000
"""Errors are compared over so many elements that luck moves them by 2% at most."""

N_COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 255, 256, 257)
MANY_COLUMNS = 512

N_OUT = {True: 64, False: 65}
"""Outputs by whether weights are packed, which needs multiples of 32 on some machines."""

every_type = pytest.mark.parametrize("kind", WEIGHT_TYPES)
packed_or_not = pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
few_examples = settings(max_examples=max(1, settings().max_examples // 5))  # of each type
seeds = st.integers(0, 2**32)
threads = st.integers(1, 4)


@dataclass(frozen=True)
class Product:
    """The arguments of one product."""

    w: Array
    x: Array
    kind: WeightType
    packed: bool
    ids: Array | None = None

    def run(self, n_threads: int = 1, use_reference: bool = False) -> Array:
        how: dict[str, Any] = {
            "packed": self.packed,
            "n_threads": n_threads,
            "use_reference": use_reference,
        }
        return matmul(self.w, self.x, self.ids, type_w=self.kind, **how)

    def only(self, tokens: Array | list[int]) -> Product:
        """The same for some of the tokens, in the order given."""
        ids = None if self.ids is None else self.ids[tokens]
        return replace(self, x=self.x[tokens], ids=ids)


def same_bits(a: Array, b: Array) -> bool:
    """True if all numbers have the same bits, and what is NaN is so in both."""
    ill = np.isnan(a)
    return bool((ill == np.isnan(b)).all()) and a[~ill].tobytes() == b[~ill].tobytes()


def activations(rng: np.random.Generator, *shape: int) -> Array:
    """Normal, with a few far out as in a model, and tokens of different size.

    Beyond 65504, sums of those that stock rounds to q8_1 are infinite.
    """
    x = rng.normal(size=shape) * np.where(rng.random(shape) < 0.01, 30, 1)
    sizes = 10 ** rng.uniform(-2, 1, (shape[0],) + (1,) * (len(shape) - 1))
    return (x * sizes).astype(np.float32)


def squared_errors(product: Product, *results: Array) -> list[Array]:
    """Of each output, in units of its token's mean square of |x||w|."""
    w = decode_weights(product.w, product.kind, product.x.shape[1]).astype(np.float64)
    x = product.x.astype(np.float64)
    exact = np.einsum("ti,oi->to", x, w)
    unit = np.mean(np.einsum("ti,oi->to", np.abs(x), np.abs(w)) ** 2, axis=1, keepdims=True)
    return [(result - exact) ** 2 / unit for result in results]


def rms(squares: Array) -> float:
    return float(np.sqrt(np.mean(squares)))


def run_stock(product: Product) -> Array:
    return replace(product, packed=False).run(use_reference=True)


def inputs_of(kind: WeightType) -> list[int]:
    """Lengths of rows that a type can have."""
    if kind in PLAIN_TYPES:
        return [1, 7, 31, 32, 64, 100, 257, 640, 2048]
    return [n * block_size(kind) for n in (1, 2, 3, 5, 8, 21) if n * block_size(kind) <= 2048]


def n_inputs(kind: WeightType) -> int:
    """A length of rows: an odd number of blocks, or of vectors."""
    block = max(block_size(kind), 32)
    return (640 // block | 1) * block


@st.composite
def products(draw: st.DrawFn, kind: WeightType) -> Product:
    rng = np.random.default_rng(draw(seeds))
    n_out = draw(st.integers(1, 70) | st.sampled_from([32, 64, 200]))
    n_in = draw(st.sampled_from(inputs_of(kind)))
    n_columns = draw(st.integers(2, 20) | st.integers(21, 300) | st.just(MANY_COLUMNS))
    w = any_weights(kind, rng, n_out, n_in)
    return Product(w, activations(rng, n_columns, n_in), kind, draw(st.booleans()))


@st.composite
def expert_products(draw: st.DrawFn, kind: WeightType) -> Product:
    """Tokens spread over the experts, or crowded on some; an input a token, or several."""
    rng = np.random.default_rng(draw(seeds))
    n_experts = draw(st.integers(1, 8))
    n_used = draw(st.integers(1, min(4, n_experts)))
    n_tokens = draw(st.integers(1, 20) | st.integers(21, 300))
    n_out = draw(st.integers(1, 40) | st.sampled_from([32, 64]))
    n_in = draw(st.sampled_from(inputs_of(kind)[:4]))
    n_rows = draw(st.sampled_from([n for n in range(1, n_used + 1) if n_used % n == 0]))
    crowding = draw(st.sampled_from([0, 0.2, 1]))
    liking = rng.random((n_tokens, n_experts)) + crowding * rng.permutation(n_experts)
    ids = rng.permuted(np.argsort(liking, axis=1)[:, -n_used:], axis=1).astype(np.int32)
    x = activations(rng, n_tokens, n_rows, n_in)
    x = x[:, 0] if n_rows == 1 and draw(st.booleans()) else x
    w = any_weights(kind, rng, n_out, n_in, n_experts)
    return Product(w, x, kind, draw(st.booleans()), ids)


#
# right
#


@every_type
@packed_or_not
@few_examples
@given(seeds)
def test_errors_are_no_larger_than_stocks(packed: bool, kind: WeightType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, squares, n_elements = inputs_of(kind), [], 0
    while n_elements < N_ELEMENTS:
        n_out, n_in, n_columns = rng.integers(70) + 1, rng.choice(lengths), rng.integers(20) + 1
        w = rounded_weights(kind, rng, n_out, n_in)
        product = Product(w, activations(rng, n_columns, n_in), kind, packed)
        found = squared_errors(product, product.run(), run_stock(product))
        squares.append(np.reshape(found, (2, -1)))
        n_elements += n_out * n_columns
    ours, stock = np.concatenate(squares, axis=1)
    assert rms(ours) <= rms(stock) * (F32_MARGIN if kind == "f32" else MARGIN)


@every_type
@packed_or_not
def test_rows_of_every_length_are_right(packed: bool, kind: WeightType) -> None:
    """One block and many, one column, some, and more than a tile has."""
    rng = np.random.default_rng(11)
    for n_in in inputs_of(kind):
        w, x = rounded_weights(kind, rng, N_OUT[packed], n_in), activations(rng, 70, n_in)
        for n_columns in (1, 8, 70):
            product = Product(w, x[:n_columns], kind, packed)
            ours, stock = squared_errors(product, product.run(), run_stock(product))
            assert rms(ours) <= 2 * rms(stock) + 1e-7, (n_in, n_columns)


def extreme_products(kind: WeightType, packed: bool) -> Iterator[Product]:
    """All values of the weights the largest, and all of a token's too, so that sums are as well."""
    rng = np.random.default_rng(0)
    n_in = max(inputs_of(kind))
    x = np.concatenate([activations(rng, 12, n_in), np.ones((4, n_in), np.float32)])
    x[-2:] *= -1
    x[-1, ::2] *= -1
    for name in EXTREMES:
        w = any_weights(kind, rng, N_OUT[packed], n_in, fill=name)
        if decode_weights(w, kind, n_in).any(axis=1).all():
            yield Product(w, x, kind, packed)


@pytest.mark.parametrize("kind", [kind for kind in WEIGHT_TYPES if kind not in PLAIN_TYPES])
@packed_or_not
def test_the_largest_weights_overflow_nothing(packed: bool, kind: WeightType) -> None:
    for product in extreme_products(kind, packed):
        together = product.run()
        ours, stock = squared_errors(product, together, run_stock(product))
        assert rms(ours) <= 2 * rms(stock)
        for token in (0, -4, -2, -1):
            assert same_bits(product.only([token]).run()[0], together[token])


@every_type
@packed_or_not
def test_activations_of_any_size_keep_what_stock_keeps(packed: bool, kind: WeightType) -> None:
    """Where scales of activations are in F16, 1e30 is infinite and 1e-30 nothing."""
    rng = np.random.default_rng(1)
    n_in = n_inputs(kind)
    w = any_weights(kind, rng, N_OUT[packed], n_in)
    for size in (1e30, 1e-30, 3e38):
        x = rng.uniform(-1, 1, (40, n_in)).astype(np.float32)
        x[::2] *= np.float32(size)
        product = Product(w, x, kind, packed)
        together, stock = product.run(), run_stock(product)
        kept = np.isfinite(stock).all(axis=1)
        assert np.isfinite(together[kept]).all()
        ours, stocks = squared_errors(product.only(kept), together[kept], stock[kept])
        assert rms(ours) <= 2 * rms(stocks)
        for token in (0, 1, 38):
            assert same_bits(product.only([token]).run()[0], together[token])


@every_type
@packed_or_not
def test_nothing_times_anything_is_nothing(packed: bool, kind: WeightType) -> None:
    rng = np.random.default_rng(2)
    n_in = n_inputs(kind)
    for n_columns in (1, 5, 40):
        w, x = rounded_weights(kind, rng, N_OUT[packed], n_in), activations(rng, n_columns, n_in)
        x[n_columns // 2] = 0
        assert not Product(w, x, kind, packed).run()[n_columns // 2].any()
        if kind not in SLOW_TYPES:
            w[20] = encode_weights(np.zeros(n_in, np.float32), kind)
            assert not Product(w, x, kind, packed).run()[:, 20].any()


#
# the same bits
#


@every_type
@packed_or_not
def test_the_number_of_columns_changes_nothing(packed: bool, kind: WeightType) -> None:
    rng = np.random.default_rng(3)
    n_in = n_inputs(kind)
    w, x = any_weights(kind, rng, N_OUT[packed], n_in), activations(rng, MANY_COLUMNS, n_in)
    whole = Product(w, x, kind, packed)
    together = whole.run(n_threads=2)
    for n_columns in N_COLUMNS:
        last = np.arange(MANY_COLUMNS - n_columns, MANY_COLUMNS)
        assert same_bits(whole.only(last).run(), together[last]), n_columns


def assert_same_bits_among_any_others(whole: Product, data: st.DataObject) -> None:
    """Of some of the tokens, in any order, and one of them alone, on any number of threads."""
    together = whole.run(n_threads=data.draw(threads, "threads"))
    n_some = data.draw(st.integers(1, len(whole.x)), "how many")
    some = np.random.default_rng(data.draw(seeds, "which")).permutation(len(whole.x))[:n_some]
    found = whole.only(some).run(n_threads=data.draw(threads, "threads"))
    assert same_bits(found, together[some])
    assert same_bits(whole.only(some[:1]).run()[0], together[some[0]])


@every_type
@few_examples
@given(st.data())
def test_a_column_gets_the_same_bits_among_any_others(
    kind: WeightType, data: st.DataObject
) -> None:
    assert_same_bits_among_any_others(data.draw(products(kind), "product"), data)


@every_type
@few_examples
@given(st.data())
def test_a_token_gets_the_same_bits_among_tokens_of_any_experts(
    kind: WeightType, data: st.DataObject
) -> None:
    assert_same_bits_among_any_others(data.draw(expert_products(kind), "product"), data)


@every_type
@few_examples
@given(st.data())
def test_an_experts_product_is_the_one_of_its_matrix(kind: WeightType, data: st.DataObject) -> None:
    whole = data.draw(expert_products(kind), "product")
    assert whole.ids is not None
    together = whole.run(n_threads=data.draw(threads, "threads"))
    rows = whole.x.reshape(len(whole.x), -1, whole.x.shape[-1])
    for token in {0, len(rows) // 2, len(rows) - 1}:
        for place, expert in enumerate(whole.ids[token]):
            row = rows[token, place % rows.shape[1]]
            alone = Product(whole.w[expert], row[None], kind, whole.packed).run()
            assert same_bits(alone[0], together[token, place])


@pytest.mark.parametrize("n_tokens", [3, 40, 300])
@every_type
@packed_or_not
def test_a_crowd_on_one_expert_is_nothing_to_the_others(
    packed: bool, kind: WeightType, n_tokens: int
) -> None:
    """All have expert 1, half of them 0 and half 3, and nobody 2 or 4."""
    rng = np.random.default_rng(n_tokens)
    n_in = n_inputs(kind)
    w = any_weights(kind, rng, N_OUT[packed], n_in, n_experts=5)
    ids = np.stack([np.ones(n_tokens), np.arange(n_tokens) % 2 * 3], axis=1).astype(np.int32)
    whole = Product(w, activations(rng, n_tokens, n_in), kind, packed, ids)
    together = whole.run(n_threads=2)
    for token in (0, 1, n_tokens - 1):
        assert same_bits(whole.only([token]).run()[0], together[token])


#
# what is no number stays where it is
#


@every_type
@packed_or_not
def test_infinities_of_a_column_reach_no_other(packed: bool, kind: WeightType) -> None:
    rng = np.random.default_rng(5)
    n_in = n_inputs(kind)
    w = any_weights(kind, rng, N_OUT[packed], n_in)
    for n_columns in (2, 5, 40):
        well = Product(w, activations(rng, n_columns, n_in), kind, packed)
        expected = well.run()
        others = np.arange(n_columns) != n_columns // 2
        for value in (np.nan, np.inf, -np.inf, 3e38):
            ill = replace(well, x=well.x.copy())
            ill.x[n_columns // 2, ::3] = value
            found = ill.run()
            assert same_bits(found[others], expected[others]), (n_columns, value)
            assert same_bits(ill.only(~others).run(), found[~others]), (n_columns, value)


@every_type
@packed_or_not
def test_a_damaged_row_of_weights_reaches_no_other_output(packed: bool, kind: WeightType) -> None:
    rng = np.random.default_rng(6)
    n_in = n_inputs(kind)
    others = np.arange(N_OUT[packed]) != 20
    for n_columns in (1, 5, 40):
        w, x = any_weights(kind, rng, N_OUT[packed], n_in), activations(rng, n_columns, n_in)
        damaged = w.copy()
        damaged[20] = 0xFF
        ill, well = Product(damaged, x, kind, packed), Product(w, x, kind, packed)
        assert same_bits(ill.run()[:, others], well.run()[:, others])


@every_type
@packed_or_not
def test_damaged_experts_and_tokens_reach_no_others(packed: bool, kind: WeightType) -> None:
    rng = np.random.default_rng(7)
    n_in = n_inputs(kind)
    w = any_weights(kind, rng, N_OUT[packed], n_in, n_experts=4)
    ids = np.argsort(rng.random((50, 4)), axis=1)[:, :2].astype(np.int32)
    well = Product(w, activations(rng, 50, n_in), kind, packed, ids)
    ill = replace(well, w=w.copy(), x=well.x.copy())
    ill.w[2], ill.x[7] = 0xFF, np.nan
    others = (np.arange(50) != 7)[:, None] & (ids != 2)
    assert same_bits(ill.run()[others], well.run()[others])


def test_stock_gives_other_bits_to_the_same_column_alone() -> None:
    """Otherwise the tests above would show nothing."""
    rng = np.random.default_rng(8)
    x = activations(rng, 40, 512)
    w = rng.normal(size=(64, 512)).astype(np.float32)
    whole = Product(w, x, "f32", packed=False)
    alone = whole.only([0]).run(use_reference=True)
    assert not same_bits(alone[0], whole.run(use_reference=True)[0])


#
# weights and arguments
#


@every_type
def test_stored_weights_are_worth_what_the_gguf_package_says(kind: WeightType) -> None:
    if kind in ("q1_0", "q2_0"):
        pytest.skip("it cannot read these")
    n_in = 2 * max(block_size(kind), 32)
    data = any_weights(kind, np.random.default_rng(9), 20, n_in)
    stored = data.view(np.float32) if kind == "f32" else data
    said = dequantize(stored, gguf.GGMLQuantizationType[kind.upper()])
    assert np.allclose(decode_weights(data, kind, n_in), said, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in WEIGHT_TYPES if kind not in SLOW_TYPES])
def test_numbers_are_stored_as_near_as_the_type_can(kind: WeightType) -> None:
    rng = np.random.default_rng(10)
    n_in = n_inputs(kind)
    values, x = rng.normal(size=(9, n_in)).astype(np.float32), activations(rng, 3, n_in)
    data = encode_weights(values, kind)
    assert np.corrcoef(decode_weights(data, kind, n_in).ravel(), values.ravel())[0, 1] > 0.6
    assert same_bits(matmul(values, x, type_w=kind), matmul(data, x, type_w=kind))


def test_what_does_not_fit_is_refused() -> None:
    w, x = np.ones((3, 64), np.float32), np.ones((2, 64), np.float32)
    experts, ids = np.ones((4, 3, 64), np.float32), np.array([[0, 3], [2, 1]], np.int32)
    x3 = np.ones((2, 3, 64), np.float32)
    assert matmul(w, x).shape == (2, 3)
    assert matmul(experts, x, ids).shape == (2, 2, 3)
    for wrong in (
        lambda: matmul(w, x[:, :63]),
        lambda: matmul(w, x[0]),
        lambda: matmul(w[0], x),
        lambda: matmul(w, x[:0]),
        lambda: matmul(w[:0], x),
        lambda: matmul(w, x[:, :0]),
        lambda: matmul(w[:, :63], x[:, :63], type_w="q8_0"),
        lambda: matmul(w, x, type_w="q4_k"),
        lambda: matmul(w, x, type_w=cast(Any, "q9_9")),
        lambda: matmul(w, x, type_w=cast(Any, "q8_k")),
        lambda: matmul(w * np.inf, x, type_w="q8_0"),
        lambda: matmul(w.astype(np.uint8), x, type_w="q8_0"),
        lambda: matmul(w, x, n_threads=0),
        lambda: matmul(w, x, n_threads=513),
        lambda: matmul(experts, x),
        lambda: matmul(w, x, ids),
        lambda: matmul(experts, x, ids[:1]),
        lambda: matmul(experts, x, ids[0]),
        lambda: matmul(experts, x, ids[:, :0]),
        lambda: matmul(experts, x, ids + 1),
        lambda: matmul(experts, x, ids - 1),
        lambda: matmul(experts, x, ids * 0),
        lambda: matmul(experts, x, cast(Any, ids.astype(np.int64) + 2**32)),
        lambda: matmul(experts, x, cast(Any, ids * 1.0)),
        lambda: matmul(experts, x3, ids),
        lambda: encode_weights(np.ones((1, 256), np.float32), "iq2_xxs"),
        lambda: encode_weights(np.full((1, 256), 1e38, np.float32), "iq3_s"),
        lambda: encode_weights(w[:0], "f32"),
        lambda: decode_weights(np.zeros((2, 34), np.uint8), "q8_0", 64),
    ):
        with pytest.raises(BatchError):
            wrong()
