"""Sampler: llama.cpp's chain, drawn right, repeatable, cloneable, and never a crash."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chi_square import assert_drawn_from
from pytreellama import Model
from pytreellama.context.context import Context
from pytreellama.errors import GrammarError, PyTreeLlamaError, SamplerError
from pytreellama.model.vocab import Vocab
from pytreellama.sampling.params import SamplingParams
from pytreellama.sampling.sampler import Sampler

N_DRAWS = 20_000


@pytest.fixture(scope="session")
def vocab(tiny_model: Callable[..., Model]) -> Vocab:
    return tiny_model("rope").vocab


@pytest.fixture
def row(vocab: Vocab) -> np.ndarray:
    return np.random.default_rng(5).normal(0.0, 2.0, vocab.n_tokens).astype(np.float32)


def sampler(vocab: Vocab, **options: Any) -> Sampler:
    return Sampler(vocab, SamplingParams(**options))


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max())
    return p / p.sum()


def frequencies(drawer: Sampler, logits: np.ndarray, n: int = N_DRAWS) -> np.ndarray:
    tokens = [drawer.sample_row(logits) for _ in range(n)]
    return np.bincount(tokens, minlength=len(logits))


def test_the_defaults_take_the_likeliest_token(vocab: Vocab, row: np.ndarray) -> None:
    greedy = Sampler(vocab)
    assert greedy.is_argmax
    assert greedy.sample_row(row) == row.argmax()


def test_the_first_of_equal_logits_is_taken_on_both_greedy_paths(
    vocab: Vocab, row: np.ndarray
) -> None:
    row[[7, 70, 200]] = 50.0
    assert Sampler(vocab).sample_row(row) == 7
    assert sampler(vocab, logit_bias={3: -1.0}).sample_row(row) == 7


def test_a_row_of_a_context_is_drawn_from_like_an_array(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("rope")
    with Context(model, n_ctx=64) as context:
        context.prefill([1, 5, 9], logits=True)
        logits = context.outputs.logits[0]
        assert Sampler(model.vocab).sample(context.outputs, 0) == logits.argmax()
        options = {"temperature": 1.0, "seed": 8}
        from_context, from_array = sampler(model.vocab, **options), sampler(model.vocab, **options)
        tokens = [from_context.sample(context.outputs, 0) for _ in range(20)]
        assert tokens == [from_array.sample_row(logits) for _ in range(20)]


def test_temperature_one_draws_from_the_softmax(vocab: Vocab, row: np.ndarray) -> None:
    counts = frequencies(sampler(vocab, temperature=1.0, seed=11), row)
    assert_drawn_from(counts, softmax(row))


def test_a_temperature_divides_the_logits(vocab: Vocab, row: np.ndarray) -> None:
    counts = frequencies(sampler(vocab, temperature=0.5, seed=12), row)
    assert_drawn_from(counts, softmax(row / 0.5))


def test_top_k_keeps_the_k_likeliest(vocab: Vocab, row: np.ndarray) -> None:
    counts = frequencies(sampler(vocab, temperature=1.0, top_k=5, seed=13), row)
    kept = np.where(row >= np.sort(row)[-5], row, -np.inf)
    assert_drawn_from(counts, softmax(kept))


def test_min_p_keeps_tokens_near_the_likeliest(vocab: Vocab, row: np.ndarray) -> None:
    counts = frequencies(sampler(vocab, temperature=1.0, min_p=0.2, seed=14), row)
    p = softmax(row)
    kept = np.where(p >= 0.2 * p.max(), row, -np.inf)
    assert_drawn_from(counts, softmax(kept))


def test_top_p_keeps_the_smallest_set_that_has_the_mass(vocab: Vocab, row: np.ndarray) -> None:
    counts = frequencies(sampler(vocab, temperature=1.0, top_p=0.6, seed=15), row)
    p = np.sort(softmax(row))[::-1]
    n_kept = int(np.searchsorted(np.cumsum(p), 0.6)) + 1
    kept = np.where(row >= np.sort(row)[-n_kept], row, -np.inf)
    assert_drawn_from(counts, softmax(kept))


def test_a_grammar_leaves_the_distribution_of_what_it_allows(vocab: Vocab, row: np.ndarray) -> None:
    allowed = [i for i, piece in enumerate(vocab.pieces) if piece in (b"a", b"b", b"c")]
    counts = np.zeros(len(row), dtype=np.int64)
    for seed in range(3000):
        drawer = sampler(vocab, temperature=1.0, grammar="root ::= [abc]", seed=seed)
        counts[drawer.sample_row(row)] += 1
    kept = np.full_like(row, -np.inf)
    kept[allowed] = row[allowed]
    assert_drawn_from(counts, softmax(kept))


def test_the_same_seed_draws_the_same_tokens(vocab: Vocab, row: np.ndarray) -> None:
    first = sampler(vocab, temperature=1.0, seed=42)
    second = sampler(vocab, temperature=1.0, seed=42)
    other = sampler(vocab, temperature=1.0, seed=43)
    tokens = [[s.sample_row(row) for _ in range(50)] for s in (first, second, other)]
    assert tokens[0] == tokens[1] != tokens[2]


def test_no_seed_means_a_fresh_one_that_repeats_the_draws(vocab: Vocab, row: np.ndarray) -> None:
    fresh, another = sampler(vocab, temperature=1.0), sampler(vocab, temperature=1.0)
    assert fresh.seed != another.seed
    again = sampler(vocab, temperature=1.0, seed=fresh.seed)
    assert [fresh.sample_row(row) for _ in range(30)] == [again.sample_row(row) for _ in range(30)]


EVERY_STATE = [
    {"temperature": 1.0},
    {"temperature": 1.0, "repeat_penalty": 1.5, "penalty_last_n": 8},
    {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "presence_penalty": 1.0},
    {"temperature": 1.0, "dry_multiplier": 2.0, "dry_allowed_length": 1},
    {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"temperature": 1.0, "mirostat": 1},
    {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 3.0},
    {"temperature": 1.0, "dynatemp_range": 0.5, "typical_p": 0.8, "top_n_sigma": 2.0},
    {"temperature": 1.0, "grammar": "root ::= [a-z]*"},
]


@pytest.mark.parametrize("options", EVERY_STATE)
def test_a_clone_goes_on_as_its_original_would(
    vocab: Vocab, row: np.ndarray, options: dict[str, Any]
) -> None:
    original = sampler(vocab, seed=3, **options)
    for _ in range(20):
        if original.sample_row(row) in vocab.eog_tokens:
            original.reset()
    clone = original.clone()
    continuation = [clone.sample_row(row) for _ in range(5)]
    assert [original.sample_row(row) for _ in range(5)] == continuation


@pytest.mark.parametrize("options", EVERY_STATE)
def test_reset_starts_over(vocab: Vocab, row: np.ndarray, options: dict[str, Any]) -> None:
    drawer = sampler(vocab, seed=4, **options)
    first = [drawer.sample_row(row) for _ in range(5)]
    drawer.reset()
    assert [drawer.sample_row(row) for _ in range(5)] == first


def test_what_a_clone_draws_its_original_does_not_see(vocab: Vocab, row: np.ndarray) -> None:
    options = {"repeat_penalty": 1000.0, "grammar": "root ::= [a-z]+"}
    original = sampler(vocab, **options)
    expected = sampler(vocab, **options).sample_row(row)
    clone = original.clone()
    for _ in range(3):
        clone.sample_row(row)
    assert original.sample_row(row) == expected


@pytest.mark.parametrize(
    "penalty",
    [{"repeat_penalty": 10.0}, {"frequency_penalty": 20.0}, {"presence_penalty": 20.0}],
)
def test_penalties_change_the_choice(
    vocab: Vocab, row: np.ndarray, penalty: dict[str, Any]
) -> None:
    row[9], row[8] = 12.0, 11.0
    drawer = sampler(vocab, penalty_last_n=4, **penalty)
    assert [drawer.sample_row(row) for _ in range(2)] == [9, 8]


def test_the_prompt_counts_for_penalties_as_far_as_they_look_back(
    vocab: Vocab, row: np.ndarray
) -> None:
    row[9], row[8] = 12.0, 11.0
    drawer = sampler(vocab, repeat_penalty=10.0, penalty_last_n=2)
    drawer.accept_prompt([9, 3, 4])
    assert drawer.sample_row(row) == 9
    drawer.reset()
    drawer.accept_prompt(np.array([3, 9, 4]))
    assert drawer.sample_row(row) == 8


def test_dry_stops_a_repetition(vocab: Vocab, row: np.ndarray) -> None:
    row[:] = 0.0
    row[40] = 1.0
    drawer = sampler(vocab, dry_multiplier=10.0, dry_allowed_length=2)
    assert drawer.sample_row(row) == 40
    drawer.reset()
    drawer.accept_prompt([30, 31, 40, 50, 30, 31])
    assert drawer.sample_row(row) != 40


def test_a_bias_of_minus_infinity_bans(vocab: Vocab, row: np.ndarray) -> None:
    best, second = np.argsort(row)[::-1][:2]
    assert sampler(vocab, logit_bias={int(best): -math.inf}).sample_row(row) == second


def test_a_bias_lifts(vocab: Vocab, row: np.ndarray) -> None:
    assert sampler(vocab, logit_bias={5: 100.0}).sample_row(row) == 5


def test_xtc_leaves_out_the_likely(vocab: Vocab, row: np.ndarray) -> None:
    row[:] = -10.0
    row[[3, 4]] = 5.0, 4.0
    drawer = sampler(vocab, temperature=1.0, xtc_probability=1.0, xtc_threshold=0.1, seed=1)
    assert {drawer.sample_row(row) for _ in range(50)} == {4}


@pytest.mark.parametrize("options", [{"typical_p": 0.9}, {"mirostat": 1}, {"mirostat": 2}])
def test_probabilities_that_underflow_do_not_spoil_logarithms(
    vocab: Vocab, row: np.ndarray, options: dict[str, Any]
) -> None:
    row[:] = -500.0
    row[[3, 4]] = 5.0, 4.5
    drawer = sampler(vocab, temperature=1.0, seed=1, **options)
    assert {drawer.sample_row(row) for _ in range(100)} <= {3, 4}


def test_a_grammar_is_followed_to_its_end(vocab: Vocab, row: np.ndarray) -> None:
    drawer = sampler(vocab, temperature=1.0, grammar='root ::= "yes" | "no"', seed=2)
    tokens: list[int] = []
    while not tokens or tokens[-1] not in vocab.eog_tokens:
        tokens.append(drawer.sample_row(row))
    assert vocab.decode_bytes(tokens[:-1]) in (b"yes", b"no")


def test_greedy_choice_under_a_grammar_is_the_likeliest_that_fits(
    vocab: Vocab, row: np.ndarray
) -> None:
    pieces = vocab.pieces
    fitting = [i for i, piece in enumerate(pieces) if piece and b"yes".startswith(piece)]
    expected = max(fitting, key=lambda i: row[i])
    assert sampler(vocab, grammar='root ::= "yes"').sample_row(row) == expected


def test_accepting_a_token_that_does_not_fit_changes_nothing(vocab: Vocab, row: np.ndarray) -> None:
    drawer = sampler(vocab, grammar='root ::= "yes"')
    expected = drawer.clone().sample_row(row)
    wrong = next(i for i, piece in enumerate(vocab.pieces) if piece == b"z")
    for token in (wrong, *vocab.eog_tokens):
        with pytest.raises(GrammarError, match=f"token {token} "):
            drawer.accept(token)
    assert drawer.sample_row(row) == expected


def test_accepted_tokens_lead_on_in_the_grammar(vocab: Vocab, row: np.ndarray) -> None:
    drawer = sampler(vocab, grammar='root ::= "yes"')
    for token in vocab.encode("yes", add_special=False):
        if vocab.pieces[token].strip():
            drawer.accept(token)
    assert drawer.sample_row(row) in vocab.eog_tokens


def test_a_grammar_whose_tokens_are_all_banned_is_an_error_when_drawing(
    vocab: Vocab, row: np.ndarray
) -> None:
    allowed = [i for i, piece in enumerate(vocab.pieces) if piece == b"a"]
    bans = {token: -math.inf for token in allowed}
    for temperature in (0.0, 1.0):
        drawer = sampler(vocab, grammar='root ::= "a"', logit_bias=bans, temperature=temperature)
        with pytest.raises(GrammarError, match="banned"):
            drawer.sample_row(row)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_when_every_token_is_banned_there_is_an_error_and_no_token(
    vocab: Vocab, row: np.ndarray, temperature: float
) -> None:
    bans = {token: -math.inf for token in range(vocab.n_tokens)}
    drawer = sampler(vocab, temperature=temperature, logit_bias=bans)
    with pytest.raises(SamplerError, match="no token to choose from"):
        drawer.sample_row(row)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{"top_k": 3}, {"typical_p": 0.5}, {"mirostat": 2}])
def test_logits_that_are_not_finite_are_an_error(
    vocab: Vocab, row: np.ndarray, value: Any, options: dict[str, Any]
) -> None:
    row[17] = value
    with pytest.raises(SamplerError, match=r"NaN or \+infinity"):
        sampler(vocab, temperature=1.0, **options).sample_row(row)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_row_without_any_logit_is_an_error(vocab: Vocab, row: np.ndarray, value: Any) -> None:
    row[:] = value
    for temperature in (0.0, 1.0):
        with pytest.raises(SamplerError):
            sampler(vocab, temperature=temperature).sample_row(row)


def test_tokens_and_rows_that_are_none_of_the_vocabularys_are_refused(
    vocab: Vocab, row: np.ndarray
) -> None:
    drawer = sampler(vocab, repeat_penalty=1.5)
    for token in (-1, vocab.n_tokens, 2**40):
        with pytest.raises(SamplerError, match="vocabulary"):
            drawer.accept(token)
        with pytest.raises(SamplerError, match="vocabulary"):
            drawer.accept_prompt([1, token])
    with pytest.raises(SamplerError, match="shape"):
        drawer.sample_row(row[:-1])
    with pytest.raises(SamplerError, match="vocabulary ends"):
        sampler(vocab, logit_bias={vocab.n_tokens: 1.0})


def test_a_closed_sampler_raises_whatever_is_asked(vocab: Vocab, row: np.ndarray) -> None:
    drawer = sampler(vocab, temperature=1.0, grammar='root ::= "a"')
    with drawer:
        pass
    drawer.close()
    assert drawer.closed
    for use in (
        lambda: drawer.sample_row(row),
        lambda: drawer.accept(1),
        lambda: drawer.accept_prompt([1]),
        drawer.reset,
        drawer.clone,
    ):
        with pytest.raises(PyTreeLlamaError, match="closed"):
            use()


def test_a_sampler_outlives_its_model(
    tiny_model_path: Callable[..., Path], row: np.ndarray
) -> None:
    from pytreellama import Model

    model = Model(tiny_model_path("rope"))
    drawer = sampler(model.vocab, grammar="root ::= [a-z]+")
    model.close()
    del model
    gc.collect()
    assert drawer.sample_row(row) >= 0
