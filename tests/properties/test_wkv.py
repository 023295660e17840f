"""RWKV's recurrent ops: right for heads of any size, and a node of a tree has its path's bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.testing.wkv import GLA_SCALE, N_INPUTS, WKV_OPS, WkvOp, wkv
from strategies import parent_lists, path_to

TOLERANCE = 1e-5
HEAD_SIZES = (1, 3, 16, 24, 48, 64, 65, 80)  # a vector step of AVX-512 is 64

Array = np.ndarray


@dataclass(frozen=True)
class Inputs:
    """The arguments of one op."""

    op: WkvOp
    inputs: Array
    bonus: Array
    states: Array

    def over(self, path: list[int], states: Array) -> tuple[Array, Array]:
        """The op over some of the tokens, as one text."""
        return wkv(self.op, self.inputs[:, path], self.bonus, states)


def drawn(op: WkvOp, n_embd: int, n_tokens: int, n_states: int, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((N_INPUTS[op], n_tokens, 2, n_embd), np.float32)
    decay = {"wkv6": 3, "wkv7": 1, "gla": 3}[op]
    inputs[decay] = rng.uniform(0.3, 0.99, inputs[decay].shape)
    if op == "wkv7":
        inputs[4:] *= 0.3 / np.sqrt(n_embd)
    states = rng.standard_normal((n_states, 2, n_embd, n_embd), np.float32)
    return Inputs(op, inputs, rng.standard_normal((2, n_embd), np.float32), states)


def one_step(op: WkvOp, token: Array, bonus: Array, state: Array) -> tuple[Array, Array]:
    """Output and next state of all heads, float64."""
    if op == "wkv7":
        r, w, k, v, a, b = token
        s_a = np.einsum("hij,hj->hi", state, a)
        state = state * w[:, None] + np.einsum("hi,hj->hij", v, k)
        state += np.einsum("hi,hj->hij", s_a, b)
        return np.einsum("hij,hj->hi", state, r), state
    k, v, q, decay = token
    kv = np.einsum("hi,hj->hij", k, v)
    after = state * decay[..., None] + kv
    if op == "wkv6":
        return np.einsum("hij,hi->hj", state + kv * bonus[..., None], q), after
    return np.einsum("hij,hi->hj", after, q * GLA_SCALE), after


def one_by_one(case: Inputs) -> tuple[Array, Array]:
    """The op in float64."""
    tokens = case.inputs.astype(np.float64).swapaxes(0, 1)
    outputs, states = [], []
    for text, state in zip(np.split(tokens, len(case.states)), case.states, strict=True):
        for token in text:
            out, state = one_step(case.op, token, case.bonus, state)
            outputs.append(out)
        states.append(state)
    return np.array(outputs), np.array(states)


def is_close(found: Array, expected: Array) -> bool:
    return bool(np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("n_texts", [1, 3])
@pytest.mark.parametrize("n_embd", HEAD_SIZES)
@pytest.mark.parametrize("op", WKV_OPS)
def test_texts_are_right_for_heads_of_any_size(op: WkvOp, n_embd: int, n_texts: int) -> None:
    case = drawn(op, n_embd, 6 * n_texts, n_texts, seed=n_embd)
    for found, expected in zip(
        wkv(op, case.inputs, case.bonus, case.states), one_by_one(case), strict=True
    ):
        assert is_close(found, expected)


@pytest.mark.parametrize("op", WKV_OPS)
def test_texts_are_those_of_the_reference(op: WkvOp) -> None:
    case = drawn(op, 64, 12, 2, seed=1)
    ours, theirs = (
        wkv(op, case.inputs, case.bonus, case.states, use_reference=reference)
        for reference in (False, True)
    )
    assert is_close(ours[0], theirs[0])
    assert is_close(ours[1], theirs[1])


@given(
    op=st.sampled_from(WKV_OPS),
    n_embd=st.sampled_from(HEAD_SIZES),
    parents=parent_lists(min_nodes=1, max_nodes=12),
    n_threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_a_node_has_the_bits_of_its_path(
    op: WkvOp, n_embd: int, parents: list[int], n_threads: int, seed: int, data: st.DataObject
) -> None:
    case = drawn(op, n_embd, len(parents), 3, seed)
    roots = [data.draw(st.integers(-4, -1)) if p < 0 else p for p in parents]
    rows, _ = wkv(op, case.inputs, case.bonus, case.states, parents=roots, n_threads=n_threads)
    for node in range(len(parents)):
        path = path_to(parents, node)
        begin = roots[path[0]]
        state = np.zeros_like(case.states[:1]) if begin == -1 else case.states[[-2 - begin]]
        assert (rows[node] == case.over(path, state)[0][-1]).all()


@pytest.mark.parametrize("op", WKV_OPS)
def test_a_text_goes_on_as_if_it_were_one(op: WkvOp) -> None:
    case = drawn(op, 48, 10, 1, seed=2)
    whole, end = case.over(list(range(10)), case.states)
    first, middle = case.over(list(range(4)), case.states)
    second, last = case.over(list(range(4, 10)), middle)
    assert (whole == np.concatenate([first, second])).all()
    assert (end == last).all()
