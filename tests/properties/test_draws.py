"""Draws from a row: what llama.cpp's chain keeps, and its distribution, for the usual stages.

What should be kept is told twice: by NumPy in float64, and by llama.cpp's own chain, whose sums are
float32. Rows on which a rounding decides are left out.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chi_square import assert_drawn_from
from pytreellama.errors import SamplerError
from pytreellama.native.draws import RowSampler
from pytreellama.native.logits import float_row
from pytreellama.native.sampling import SamplerChain
from pytreellama.sampling.params import SamplingParams
from pytreellama.sampling.stages import new_chain, new_row_sampler, new_stages
from pytreellama.testing.kept import kept_of_chain, kept_of_row

SEED = 7
ROUNDING = 1e-4
"""How near to ``top_p`` a sum must not come: float32 sums of a row's weights are so exact."""

LENGTHS = (1, 2, 3, 15, 16, 17, 100, 255, 256, 257, 1000, 1023, 1025, 4097)


@dataclass
class Case:
    """A row, and what is asked of it."""

    logits: np.ndarray
    params: SamplingParams
    biases: dict[int, float] = field(default_factory=dict)
    history: list[int] = field(default_factory=list)
    allowed: np.ndarray | None = None
    """bool, one a token; None allows all."""

    @property
    def vocab(self) -> Any:
        return SimpleNamespace(n_tokens=len(self.logits))

    @property
    def mask(self) -> np.ndarray | None:
        if self.allowed is None:
            return None
        padded = np.zeros(-(-len(self.allowed) // 32) * 32, dtype=bool)
        padded[: len(self.allowed)] = self.allowed
        return np.packbits(padded, bitorder="little").view(np.uint32)

    def told(self, stages: Any) -> Any:
        if self.history:
            stages.accept_all(np.array(self.history, dtype=np.int32))
        return stages

    def row_sampler(self) -> RowSampler:
        return self.told(new_row_sampler(self.vocab, self.params, self.biases, SEED))

    def chain(self) -> SamplerChain:
        return self.told(new_chain(self.vocab, self.params, self.biases, SEED))

    def edited(self) -> np.ndarray:
        """The row after bias, penalties and the mask, in float32."""
        row = self.logits.copy()
        for token, bias in self.biases.items():
            row[token] += np.float32(bias)
        p = self.params
        if p.has_penalties:
            recent = self.history[-p.penalty_last_n :]
            for token in set(recent):
                repeat = np.float32(p.repeat_penalty)
                row[token] = row[token] * repeat if row[token] <= 0 else row[token] / repeat
                row[token] -= np.float32(recent.count(token)) * np.float32(
                    p.frequency_penalty
                ) + np.float32(p.presence_penalty)
        if self.allowed is not None:
            row[~self.allowed] = -np.inf
        return row

    def kept(self) -> np.ndarray:
        """The ids that the stages leave, falling, ties by id; float64."""
        row, p = self.edited(), self.params
        ids = np.lexsort((np.arange(len(row)), -row))
        if p.top_k:
            ids = ids[: p.top_k]
        if p.top_p < 1.0:
            ids = ids[: int((np.cumsum(weights(row[ids])) < p.top_p).sum()) + 1]
        if p.min_p > 0.0:
            least = np.float32(row[ids[0]] + np.float32(math.log(np.float32(p.min_p))))
            ids = ids[row[ids] >= least]
        return ids


def weights(row: np.ndarray) -> np.ndarray:
    p = np.exp(row.astype(np.float64) - row.max())
    return p / p.sum()


def assume_decided(case: Case) -> None:
    """Some token is possible, and no rounding decides which ones ``top_p`` keeps."""
    row = case.edited()
    assume(row.max() > -np.inf)
    if case.params.top_p == 1.0:
        return
    falling = np.sort(row)[::-1][: case.params.top_k or None]
    assume(np.abs(np.cumsum(weights(falling)) - case.params.top_p).min() > ROUNDING)


ONE = st.just(1.0)


@st.composite
def cases(draw: Any, temperature: Any = ONE) -> Case:
    n = draw(st.sampled_from(LENGTHS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.normal(0.0, draw(st.sampled_from([0.3, 1.0, 3.0, 10.0])), n)
    if draw(st.booleans()):
        logits = np.round(logits)  # many ties, and zeros of both signs
    logits[rng.random(n) < draw(st.sampled_from([0.0, 0.3]))] = -np.inf
    logits[rng.integers(n)] = 1.5
    penalties = draw(st.booleans())
    params = SamplingParams(
        temperature=draw(temperature),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 10, 40, 500, 10**6])),
        top_p=draw(st.sampled_from([1.0, 0.95, 0.5, 0.999, 0.01])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0])),
        repeat_penalty=draw(st.sampled_from([0.5, 1.0, 1.3])) if penalties else 1.0,
        frequency_penalty=draw(st.sampled_from([-0.5, 0.0, 0.7])) if penalties else 0.0,
        presence_penalty=draw(st.sampled_from([0.0, 0.4])) if penalties else 0.0,
        penalty_last_n=draw(st.sampled_from([1, 8, 64])),
    )
    tokens = st.integers(0, n - 1)
    return Case(
        logits.astype(np.float32),
        params,
        biases=draw(st.dictionaries(tokens, st.sampled_from([-2.0, 3.5, -math.inf]), max_size=5)),
        history=draw(st.lists(tokens, max_size=100)),
        allowed=rng.random(n) < 0.7 if draw(st.booleans()) else None,
    )


@given(cases())
def test_the_stages_keep_what_float64_says(case: Any) -> None:
    assume_decided(case)
    kept = kept_of_row(case.row_sampler(), case.logits, case.mask)
    assert sorted(possible(case, kept)) == sorted(possible(case, case.kept()))


@given(cases())
def test_the_stages_keep_what_llama_cpps_chain_keeps(case: Any) -> None:
    assume_decided(case)
    kept = possible(case, kept_of_row(case.row_sampler(), case.logits, case.mask))
    theirs = possible(case, kept_of_chain(case.chain(), case.logits, case.mask))
    row = case.edited()
    assert sorted(row[kept]) == sorted(row[theirs])  # llama.cpp sorts equals as it happens


def possible(case: Case, ids: np.ndarray) -> np.ndarray:
    """Without tokens of logit -infinity, which are never drawn."""
    return ids[case.edited()[ids] > -np.inf]


@given(cases(st.sampled_from([0.0, 1e-6, 0.3, 0.7, 1.0, 1.5, 100.0])))
def test_what_is_drawn_is_possible_and_kept(case: Any) -> None:
    sampler = case.row_sampler()
    if case.edited().max() == -np.inf:
        assert sampler.draw(float_row(case.logits), case.mask) is None
        return
    if case.params.temperature:
        assume_decided(case)
    kept = set(case.kept() if case.params.temperature else [case.edited().argmax()])
    for _ in range(20):
        token = sampler.draw(float_row(case.logits), case.mask)
        assert token in kept
        assert case.edited()[token] > -np.inf


USUAL = [
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.3, "min_p": 0.02},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.0, "top_p": 0.9, "repeat_penalty": 1.2, "penalty_last_n": 16},
    {"temperature": 0.0, "frequency_penalty": 0.8, "penalty_last_n": 16},
]


@pytest.mark.parametrize("options", USUAL, ids=str)
def test_random_numbers_are_llama_cpps_and_so_are_nearly_all_draws(options: dict[str, Any]) -> None:
    """Only where a random number or ``top_p`` falls into a rounding of llama.cpp's sums."""
    rng = np.random.default_rng(3)
    case = Case(likely_row(rng, 5000), SamplingParams(**options), biases={17: 2.0})
    ours, theirs = case.row_sampler(), case.chain()
    n_same = 0
    for _ in range(2000):
        row = float_row(likely_row(rng, 5000))
        token = theirs.draw(row)
        n_same += ours.draw(row) == token
        assert token is not None
        ours.accept(token)
        theirs.accept(token)
    assert n_same >= 1998


def likely_row(rng: np.random.Generator, n: int) -> np.ndarray:
    """A row as models make them: most tokens unlikely, some dozens not."""
    row = rng.normal(0.0, 2.0, n)
    row[rng.integers(0, n, 30)] += np.linspace(3.0, 11.0, 30)
    return row.astype(np.float32)


@pytest.mark.parametrize("options", USUAL[:-1], ids=str)
def test_draws_have_the_distribution_of_float64(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    history = rng.integers(0, 1500, 40).tolist()
    case = Case(rng.normal(0.0, 1.5, 1500).astype(np.float32), SamplingParams(**options))
    case.history = history
    sampler, row = case.row_sampler(), float_row(case.logits)
    counts = np.bincount([cast(int, sampler.draw(row)) for _ in range(20_000)], minlength=1500)
    p = np.zeros(1500)
    kept = case.kept()
    p[kept] = weights(case.edited()[kept] / np.float32(case.params.temperature))
    assert_drawn_from(counts, p)


def test_a_flat_row_is_drawn_from_all_over() -> None:
    case = Case(np.zeros(1000, np.float32), SamplingParams(temperature=1.0, top_p=0.9985))
    sampler, row = case.row_sampler(), float_row(case.logits)
    counts = np.bincount([cast(int, sampler.draw(row)) for _ in range(20_000)], minlength=1000)
    assert_drawn_from(counts, np.where(np.arange(1000) < 999, 1 / 999, 0.0))


@given(cases(st.sampled_from([0.0, 0.7, 1.0])), st.lists(st.integers(0, 30), max_size=10))
def test_clones_and_resets_go_on_and_start_over(case: Any, tokens: Any) -> None:
    assume(case.edited().max() > -np.inf)
    row = float_row(case.logits)

    def written(sampler: RowSampler) -> list[int | None]:
        drawn = []
        for token in tokens:
            drawn.append(sampler.draw(row, case.mask))
            sampler.accept(token % len(case.logits))
        return drawn

    sampler = new_row_sampler(case.vocab, case.params, case.biases, SEED)
    first = written(sampler)
    clone = sampler.clone()
    assert written(clone) == written(sampler)
    sampler.reset()
    assert written(sampler) == first


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [*USUAL, {"temperature": 1.0, "top_k": 3}], ids=str)
def test_rows_that_are_not_finite_are_an_error_unless_a_mask_hides_it(
    options: dict[str, Any], value: Any
) -> None:
    logits = likely_row(np.random.default_rng(1), 500)
    logits[499] = value
    case = Case(logits, SamplingParams(**options), allowed=np.arange(500) < 499)
    assert cast(int, case.row_sampler().draw(float_row(logits), case.mask)) < 499
    with pytest.raises(SamplerError, match=r"NaN or \+infinity"):
        case.row_sampler().draw(float_row(logits))


@pytest.mark.parametrize("size", [1e30, -1e30])
def test_cold_draws_of_huge_logits_are_the_likeliest(size: int) -> None:
    logits = np.full(100, size - abs(size), np.float32)
    logits[40] = size
    case = Case(logits, SamplingParams(temperature=1e-6))
    case.logits[3] = -np.inf
    assert case.row_sampler().draw(float_row(logits)) == 40
    case.params = SamplingParams(temperature=1e-6, top_p=0.9)
    assert case.row_sampler().draw(float_row(logits)) == 40


ORDERS = {
    "rising": np.arange(50_000),
    "falling": -np.arange(50_000),
    "equal": np.zeros(50_000),
    "a peak": -np.abs(np.arange(50_000) - 25_000),
    "a valley": np.abs(np.arange(50_000) - 25_000),
    "teeth": np.arange(50_000) % 300,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_p": 0.0}], ids=str)
def test_no_order_of_a_row_makes_draws_take_long(order: Any, options: dict[str, Any]) -> None:
    """Cuts at the median of three took 300 times as long for sorted rows; 20 leaves room."""
    params = SamplingParams(temperature=1.0, top_k=49_999, **options)
    usual = np.random.default_rng(2).permutation(ORDERS[order])
    in_order, shuffled = (seconds_of_a_draw(row, params) for row in (ORDERS[order], usual))
    assert in_order < 20 * max(shuffled, 1e-3)


def seconds_of_a_draw(row: np.ndarray, params: SamplingParams) -> float:
    """The least of some, of this thread's own time."""
    case = Case((row * 1e-4).astype(np.float32), params)
    sampler, logits, seconds = case.row_sampler(), float_row(case.logits), []
    for _ in range(5):
        started_s = time.thread_time()
        sampler.draw(logits)
        seconds.append(time.thread_time() - started_s)
    return min(seconds)


def test_other_samplers_keep_llama_cpps_chain() -> None:
    vocab: Any = SimpleNamespace(n_tokens=100)
    for other in (
        {"typical_p": 0.9},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 0.5},
        {"mirostat": 2},
        {"dynatemp_range": 0.5},
    ):
        params = SamplingParams(temperature=1.0, **other)
        assert isinstance(new_stages(vocab, params, {}, SEED), SamplerChain)
    usual = SamplingParams(temperature=1.0, top_p=0.5)
    assert isinstance(new_stages(vocab, usual, {}, SEED), RowSampler)


GOLDEN = [
    ({}, [2033, 2892, 8815, 4081, 2806, 2416, 823, 3805]),
    ({"min_p": 0.01}, [2033, 2892, 8815, 4081, 2806, 2416, 829, 3808]),
    ({"top_p": 0.97, "temperature": 1.3}, [1692, 2356, 1476, 3324, 3320, 7176, 2907, 2367]),
    ({"top_k": 700, "temperature": 0.9}, [2652, 6973, 1906, 623, 2956, 5139, 1478, 6823]),
]


def exact_row() -> np.ndarray:
    """Made of sums of powers of two alone, so that it is the same on every machine."""
    ids = np.arange(9001, dtype=np.int64)
    return ((ids * 7919 % 1024) / 128 + (ids * 104729 % 37) / 16).astype(np.float32)


@pytest.mark.parametrize(("options", "tokens"), GOLDEN, ids=str)
def test_a_seed_draws_the_same_tokens_on_every_machine(
    options: dict[str, Any], tokens: Any
) -> None:
    case = Case(exact_row(), SamplingParams(**{"temperature": 1.0, **options}))
    sampler, row = case.row_sampler(), float_row(case.logits)
    assert [sampler.draw(row) for _ in tokens] == tokens
