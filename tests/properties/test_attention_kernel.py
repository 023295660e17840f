"""The attention kernel: right, and the same bits whatever stands beside a query.

Worst error seen in 1,500 random examples, relative to the largest output of the op and
against attention in float64 over the stored keys and values: 2.6e-6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.errors import BatchError
from pytreellama.testing.attention import CellGroup, attention, cell_order
from strategies import parent_lists

TOLERANCE = 5e-6
# ggml's reference rounds queries to the type of the keys, and sums values in F16
REFERENCE_TOLERANCE = {"f32": 5e-6, "f16": 1e-2, "bf16": 3e-2}
TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")

Array = np.ndarray


@dataclass(frozen=True)
class Inputs:
    """The arguments of one attention op."""

    q: Array
    k: Array
    v: Array
    mask: Array
    groups: list[CellGroup]
    options: dict[str, Any]

    def run(self, **changes: Any) -> Array:
        return attention(self.q, self.k, self.v, self.mask, self.groups, **(self.options | changes))


def slopes(n_heads: int, max_bias: float) -> Array:
    """ALiBi's slope of each head (Press et al. 2021, arXiv 2108.12409)."""
    if max_bias == 0:
        return np.ones(n_heads)
    n_low = 2 ** int(np.log2(n_heads))
    low = 2.0 ** (-max_bias / n_low)
    high = 2.0 ** (-max_bias / 2 / n_low)
    return np.array(
        [low ** (h + 1) if h < n_low else high ** (2 * (h - n_low) + 1) for h in range(n_heads)]
    )


def stored(values: Array, kind: str) -> Array:
    """What a cache of this type gives back, float64."""
    if kind in ("f32", "f16"):
        return values.astype(kind.replace("f", "float")).astype(np.float64)
    flat = values.reshape(-1, values.shape[-1])
    quant = gguf.GGMLQuantizationType[kind.upper()]
    return dequantize(quantize(flat, quant), quant).reshape(values.shape).astype(np.float64)


def exact_attention(inputs: Inputs) -> Array:
    """Attention in float64."""
    options = inputs.options
    n_heads = inputs.q.shape[1]
    n_per_kv = n_heads // inputs.k.shape[1]
    k = stored(inputs.k, str(options["type_k"])).repeat(n_per_kv, axis=1)
    v = stored(inputs.v, str(options["type_v"])).repeat(n_per_kv, axis=1)
    scores = np.einsum("qhd,chd->hqc", inputs.q.astype(np.float64), k) * inputs.q.shape[2] ** -0.5
    cap = float(options["softcap"])
    if cap:
        scores = cap * np.tanh(scores / cap)
    mask = inputs.mask.astype(np.float16).astype(np.float64)
    scores = scores + slopes(n_heads, float(options["max_bias"]))[:, None, None] * mask
    sinks = options["sinks"]
    rest = np.full(n_heads, -np.inf) if sinks is None else np.asarray(sinks, np.float64)
    top = np.maximum(scores.max(axis=2), rest[:, None])
    weights = np.exp(scores - np.where(top == -np.inf, 0, top)[:, :, None])
    total = weights.sum(axis=2) + np.exp(rest[:, None] - np.where(top == -np.inf, 0, top))
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.einsum("hqc,chd->qhd", weights, v) / total.T[:, :, None])


def relative_error(found: Array, exact: Array) -> float:
    return float(np.abs(found - exact).max() / max(np.abs(exact).max(), 1e-3))


@st.composite
def sizes(draw: st.DrawFn, kinds: tuple[str, str]) -> tuple[int, int, int, int]:
    """Heads, heads of K and V, channels of K and V."""
    n_kv = draw(st.sampled_from([1, 2, 3]))
    quantised = any(kind.startswith("q") for kind in kinds)
    channels = st.sampled_from([32, 64, 96, 128] if quantised else [40, 64, 72, 80, 128, 7])
    return n_kv * draw(st.sampled_from([1, 2, 3, 4])), n_kv, draw(channels), draw(channels)


@st.composite
def inputs(draw: st.DrawFn, max_queries: int = 70, max_cells: int = 600) -> Inputs:
    """Random text of one or two sequences, with holes in the mask and whole rows hidden."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from(TYPES)), draw(st.sampled_from(TYPES))
    n_heads, n_heads_kv, n_embd_k, n_embd_v = draw(sizes(kinds))
    n_queries, n_cells = draw(st.integers(1, max_queries)), draw(st.integers(1, max_cells))
    n_groups = draw(st.integers(1, min(2, n_queries)))
    mask = np.full((n_queries, n_cells), -np.inf, np.float32)
    max_bias = draw(st.sampled_from([0.0, 0.0, 8.0]))
    owner = rng.integers(0, n_groups, n_queries)
    owner[:n_groups] = np.arange(n_groups)
    groups = []
    for g in range(n_groups):
        queries = np.flatnonzero(owner == g).astype(np.int32)
        cells = rng.permutation(n_cells)[: rng.integers(1, n_cells + 1)].astype(np.int32)
        positions = (draw(st.integers(0, 300)) + np.arange(len(cells))).astype(np.int32)
        sees = rng.random((len(queries), len(cells))) < draw(st.sampled_from([1.0, 0.7, 0.02]))
        sees[rng.random(len(queries)) < 0.1] = False
        bias = -np.abs(positions[-1] - positions) if max_bias else np.zeros(len(cells))
        mask[np.ix_(queries, cells)] = np.where(sees, bias, -np.inf)
        groups.append(CellGroup(queries, cells, positions))
    sinks = rng.normal(size=n_heads) if draw(st.booleans()) else None
    options = {
        "type_k": kinds[0],
        "type_v": kinds[1],
        "max_bias": max_bias,
        "softcap": draw(st.sampled_from([0.0, 0.0, 5.0])),
        "sinks": sinks,
        "n_threads": draw(st.integers(1, 4)),
    }
    normal = np.float32(draw(st.sampled_from([0.3, 1.0, 4.0])))
    q = normal * rng.normal(size=(n_queries, n_heads, n_embd_k)).astype(np.float32)
    k = rng.normal(size=(n_cells, n_heads_kv, n_embd_k)).astype(np.float32)
    v = rng.normal(size=(n_cells, n_heads_kv, n_embd_v)).astype(np.float32)
    return Inputs(q, k, v, mask, groups, options)


@given(inputs())
def test_it_is_attention(given: Inputs) -> None:
    assert relative_error(given.run(), exact_attention(given)) <= TOLERANCE


@given(inputs(max_queries=8, max_cells=100))
def test_the_reference_is_attention_too(given: Inputs) -> None:
    """So that what the other tests compare with is what llama.cpp means."""
    kinds = {str(given.options["type_k"]), str(given.options["type_v"])}
    tolerance = max(REFERENCE_TOLERANCE.get(kind, 0.1) for kind in kinds)
    found = given.run(use_reference=True)
    assert relative_error(found, exact_attention(given)) <= tolerance * np.abs(given.q).max()


@given(inputs(max_queries=12), st.data())
def test_a_query_gets_the_same_bits_alone_on_any_threads_and_cells(
    given: Inputs, data: st.DataObject
) -> None:
    together = given.run()
    group = data.draw(st.sampled_from(given.groups), "group")
    query = int(data.draw(st.sampled_from(group.queries.tolist()), "query"))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "layout"))
    alone = only(given, query, group, rng).run(n_threads=data.draw(st.integers(1, 4), "threads"))
    assert same_bits(alone[0], together[query])


def only(given: Inputs, query: int, group: CellGroup, rng: np.random.Generator) -> Inputs:
    """One query with the cells that it sees, which stand elsewhere, among cells of nobody."""
    seen = given.mask[query, group.cells] > -np.inf
    old, positions = group.cells[seen], group.positions[seen]
    n_cells = len(old) + int(rng.integers(1, 80))
    new = rng.permutation(n_cells)[: len(old)].astype(np.int32)
    k = rng.normal(size=(n_cells, *given.k.shape[1:])).astype(np.float32)
    v = rng.normal(size=(n_cells, *given.v.shape[1:])).astype(np.float32)
    k[new], v[new] = given.k[old], given.v[old]
    mask = np.full((1, n_cells), -np.inf, np.float32)
    mask[0, new] = given.mask[query, old]
    only_group = CellGroup(np.zeros(1, np.int32), new, positions)
    return replace(given, q=given.q[query : query + 1], k=k, v=v, mask=mask, groups=[only_group])


def same_bits(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


@st.composite
def trees_on_text(draw: st.DrawFn, max_nodes: int, max_past: int) -> tuple[Inputs, list[int]]:
    """All nodes of a tree in one pass, siblings at one position; and the parents."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_past = draw(st.integers(0, max_past))
    parents = draw(parent_lists(min_nodes=1, max_nodes=max_nodes))
    return tree_on_text(rng, n_past, parents), parents


def tree_on_text(rng: np.random.Generator, n_past: int, parents: list[int]) -> Inputs:
    """The nodes of a tree, in any cells."""
    n_nodes, n_cells = len(parents), n_past + len(parents) + 5
    cells = rng.permutation(n_cells)[: n_past + n_nodes].astype(np.int32)
    depth: list[int] = []
    mask = np.full((n_nodes, n_cells), -np.inf, np.float32)
    for node, parent in enumerate(parents):
        depth.append(depth[parent] + 1 if parent >= 0 else 0)
        mask[node] = mask[parent] if parent >= 0 else -np.inf
        mask[node, cells[:n_past]] = 0
        mask[node, cells[n_past + node]] = 0
    positions = np.concatenate([np.arange(n_past), n_past + np.array(depth)]).astype(np.int32)
    order = np.argsort(positions, kind="stable")
    group = CellGroup(np.arange(n_nodes, dtype=np.int32), cells[order], positions[order])
    q = rng.normal(size=(n_nodes, 6, 64)).astype(np.float32)
    k, v = (rng.normal(size=(n_cells, 2, 64)).astype(np.float32) for _ in range(2))
    return Inputs(q, k, v, mask, [group], {"type_k": "f16", "type_v": "f16"})


@given(trees_on_text(max_nodes=40, max_past=700), st.data())
def test_a_node_of_a_tree_gets_the_bits_of_its_path_alone(
    given: tuple[Inputs, list[int]], data: st.DataObject
) -> None:
    tree, parents = given
    together = tree.run(n_threads=data.draw(st.integers(1, 4), "threads"))
    node = data.draw(st.integers(0, len(parents) - 1), "node")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "layout"))
    alone = only(tree, node, tree.groups[0], rng).run(n_threads=data.draw(st.integers(1, 4)))
    assert same_bits(alone[0], together[node])


def siblings_on_text(n_past: int, n_siblings: int, kind: str) -> Inputs:
    """Alternatives for one next token, each seen by itself alone."""
    rng = np.random.default_rng(n_siblings + n_past)
    n_cells = n_past + n_siblings
    mask = np.full((n_siblings, n_cells), -np.inf, np.float32)
    mask[:, :n_past] = 0
    mask[:, n_past:][np.eye(n_siblings, dtype=bool)] = 0
    positions = np.minimum(np.arange(n_cells), n_past).astype(np.int32)
    group = CellGroup(
        np.arange(n_siblings, dtype=np.int32), np.arange(n_cells, dtype=np.int32), positions
    )
    q = rng.normal(size=(n_siblings, 3, 32)).astype(np.float32)
    k, v = (rng.normal(size=(n_cells, 1, 32)).astype(np.float32) for _ in range(2))
    options = {"max_bias": 0.0, "softcap": 0.0, "sinks": None, "type_k": kind, "type_v": kind}
    return Inputs(q, k, v, mask, [group], options)


@pytest.mark.parametrize("n_past", [0, 3, 40])
@pytest.mark.parametrize("n_siblings", [64, 70, 130])
def test_a_branch_below_many_siblings_keeps_the_places_of_its_positions(
    n_siblings: int, n_past: int
) -> None:
    """Its positions count up, but stand elsewhere in the vectors than without the siblings."""
    rng = np.random.default_rng(n_siblings)
    parents = [-1] * n_siblings + list(range(n_siblings - 1, n_siblings + 19))
    tree = tree_on_text(rng, n_past, parents)
    together = tree.run(n_threads=2)
    for node in range(n_siblings - 1, len(parents)):
        assert same_bits(only(tree, node, tree.groups[0], rng).run()[0], together[node])


@pytest.mark.parametrize("n_siblings", [65, 300, 1000])
@pytest.mark.parametrize("n_past", [0, 63, 700])
def test_hundreds_of_siblings_at_one_position_are_nothing_to_each_other(
    n_siblings: int, n_past: int
) -> None:
    rng = np.random.default_rng(n_siblings + n_past)
    siblings = siblings_on_text(n_past, n_siblings, "f32")
    together = siblings.run(n_threads=2)
    assert relative_error(together, exact_attention(siblings)) <= TOLERANCE
    for node in (0, n_siblings // 2, n_siblings - 1):
        assert same_bits(only(siblings, node, siblings.groups[0], rng).run()[0], together[node])


@pytest.mark.parametrize("n_siblings", [2, 40, 300])
@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
def test_infinities_of_a_sibling_reach_nobody_else(
    value: float, which: str, kind: str, n_siblings: int
) -> None:
    """F16 ends at 65504, and nothing times an infinity is no number."""
    siblings = siblings_on_text(100, n_siblings, kind)
    ill = n_siblings // 2
    inputs_of_ill = {"k": siblings.k.copy(), "v": siblings.v.copy()}
    inputs_of_ill[which][100 + ill, :, ::2] = value
    with np.errstate(over="ignore"):
        together = replace(siblings, **inputs_of_ill).run(n_threads=2)
    well = np.arange(n_siblings) != ill
    assert same_bits(together[well], siblings.run()[well])
    assert not same_bits(together[ill], siblings.run()[ill])


def test_what_is_no_number_hides_no_score() -> None:
    """x86 forgets the first of two numbers if one is none, Arm both. All that the one query sees
    is cell 5, in the same place of a vector as cell 21 behind it, and 37 behind that."""
    siblings = siblings_on_text(0, 80, "f32")
    group = replace(siblings.groups[0], queries=np.zeros(1, np.int32))
    alone = replace(siblings, q=siblings.q[5:6], mask=siblings.mask[5:6], groups=[group])
    expected = alone.run()
    alone.k[21] = np.nan
    assert expected.any()
    assert same_bits(alone.run(), expected)


def long_text(n_queries: int, n_cells: int) -> Inputs:
    """A causal text whose last tokens ask."""
    rng = np.random.default_rng(n_queries)
    cells = np.arange(n_cells, dtype=np.int32)
    last = np.arange(n_cells - n_queries, n_cells)
    mask = np.where(cells <= last[:, None], 0, -np.inf).astype(np.float32)
    q = rng.normal(size=(n_queries, 6, 64)).astype(np.float32)
    k, v = (rng.normal(size=(n_cells, 3, 64)).astype(np.float32) for _ in range(2))
    options = {"max_bias": 0.0, "softcap": 0.0, "sinks": None, "type_k": "f16", "type_v": "f16"}
    group = CellGroup(np.arange(n_queries, dtype=np.int32), cells, cells)
    return Inputs(q, k, v, mask, [group], options)


def test_long_texts_are_the_same_bits_at_any_number_of_queries_and_threads() -> None:
    """From one query, which stock cuts by threads, to as many as a prefill has."""
    whole = long_text(256, 3000)
    together = whole.run(n_threads=1)
    assert relative_error(together, exact_attention(whole)) <= TOLERANCE
    for n_last in (1, 2, 3, 16, 63, 64, 65):
        part = replace(whole, q=whole.q[-n_last:], mask=whole.mask[-n_last:])
        queries = np.arange(n_last, dtype=np.int32)
        part = replace(part, groups=[replace(whole.groups[0], queries=queries)])
        for n_threads in (1, 2, 3, 4):
            assert same_bits(part.run(n_threads=n_threads), together[-n_last:])


def test_stock_gives_other_bits_to_the_same_query_alone() -> None:
    """Otherwise the tests above would show nothing."""
    whole = long_text(70, 3000)
    stock = replace(whole, groups=cast(Any, None))
    alone = replace(stock, q=stock.q[-1:], mask=stock.mask[-1:])
    assert not same_bits(alone.run()[0], stock.run()[-1])
    assert not same_bits(alone.run(n_threads=2)[0], alone.run(n_threads=1)[0])


def test_what_does_not_fit_is_refused() -> None:
    given = long_text(2, 5)
    group = given.groups[0]
    for wrong in (
        lambda: replace(given, groups=[replace(group, queries=group.queries[:1])]).run(),
        lambda: replace(given, groups=[group, group]).run(),
        lambda: replace(given, groups=[replace(group, cells=group.cells + 1)]).run(),
        lambda: replace(given, mask=given.mask[:1]).run(),
        lambda: replace(given, k=given.k[:, :2]).run(),
        lambda: replace(given, v=given.v[:, :, :0]).run(),
        lambda: replace(given, k=given.k[:0], v=given.v[:0], mask=given.mask[:, :0]).run(),
        lambda: replace(given, groups=[replace(group, positions=group.positions - 1)]).run(),
        lambda: replace(
            given, groups=[replace(group, positions=cast(Any, group.positions * 2.0**31))]
        ).run(),
        lambda: given.run(type_k="q6_k"),
        lambda: given.run(sinks=np.zeros(5)),
        lambda: CellGroup(group.queries, group.cells, group.positions[::-1]),
        lambda: CellGroup(group.queries, group.cells, group.positions[1:]),
        lambda: CellGroup(group.queries, group.cells * 0, group.positions),
        lambda: CellGroup(group.queries[:, None], group.cells, group.positions),
    ):
        with pytest.raises(BatchError):
            wrong()


def test_the_order_tells_each_groups_tokens_cells_and_positions() -> None:
    first = CellGroup(np.array([1], np.int32), np.array([4, 2], np.int32), np.array([63, 64]))
    second = CellGroup(np.array([0], np.int32), np.array([7], np.int32), np.array([9]))
    assert cell_order([first, second]).tolist() == [
        *(2, 0, 3, 0, 0),  # groups, teams, cells; first chunks of both tokens
        *(1, 19, 1, 21, 0, 1, 1),
        *(1, 20, 1, 25, 0, 1, 1),
        *(1, 0),  # tokens
        *(0, 1, 29, 2),  # parts
        *(0, 1, 31, 1),
        *(4, 2, 7),  # cells
        *(63, 64, 9),
    ]
