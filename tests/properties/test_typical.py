"""Typical acceptance on random trees: what it accepts, and how its two thresholds rule that."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, match_greedy, typical
from strategies import path_to, token_trees

N_VOCAB = 5

trees = token_trees(min_nodes=1, max_nodes=12, max_roots=1, n_vocab=N_VOCAB)
seeds = st.integers(0, 10_000)
epsilons = st.floats(0, 1)
deltas = st.floats(0, 20)


def random_rows(tree: TokenTree, seed: int) -> np.ndarray:
    """A distribution for each node, float64 (n_nodes, N_VOCAB): peaked, flat, with zeros."""
    rng = np.random.default_rng(seed)
    weights = rng.random((len(tree), N_VOCAB)) ** rng.choice([0.1, 1.0, 8.0], (len(tree), 1))
    weights[rng.random(weights.shape) < 0.3] = 0
    weights[np.arange(len(tree)), rng.integers(0, N_VOCAB, len(tree))] += 0.1
    return weights / weights.sum(axis=1, keepdims=True)


def p_of(tree: TokenTree, rows: np.ndarray, node: int) -> float:
    """What the target gives the token of `node`, at its parent."""
    return float(rows[tree.parents[node], tree.tokens[node]])


def paths_below(tree: TokenTree) -> list[list[int]]:
    """The drafted nodes on the way to each node; to the root, none."""
    return [path_to(tree.parents.tolist(), node)[1:] for node in range(len(tree))]


def threshold(row: np.ndarray, epsilon: float, delta: float) -> float:
    entropy = -math.fsum(p * math.log(p) for p in row.tolist() if p > 0)
    return min(epsilon, delta * math.exp(-entropy))


def verdict_of(tree: TokenTree, rows: np.ndarray, epsilon: float, delta: float) -> Verdict:
    return typical(tree, rows.__getitem__, epsilon, delta)


@given(trees, seeds, epsilons, deltas)
def test_no_accepted_path_is_longer_and_none_that_long_is_likelier(
    tree: TokenTree, seed: int, epsilon: float, delta: float
) -> None:
    rows = random_rows(tree, seed)
    verdict = verdict_of(tree, rows, epsilon, delta)

    def worth(path: list[int]) -> tuple[int, float]:
        return len(path), math.prod(p_of(tree, rows, node) for node in path)

    accepted = [
        path
        for path in paths_below(tree)
        if all(
            p_of(tree, rows, node) > threshold(rows[tree.parents[node]], epsilon, delta)
            for node in path
        )
    ]
    length, p = worth(list(verdict.path[1:]))
    best_length, best_p = max(map(worth, accepted))
    assert list(verdict.path[1:]) in accepted
    assert length == best_length
    assert math.isclose(p, best_p, rel_tol=1e-12)


@given(trees, seeds, epsilons, deltas)
def test_the_path_s_tokens_are_emitted_and_then_the_target_s_likeliest(
    tree: TokenTree, seed: int, epsilon: float, delta: float
) -> None:
    rows = random_rows(tree, seed)
    verdict = verdict_of(tree, rows, epsilon, delta)
    assert list(verdict.path) == tree.path(verdict.path[-1]).tolist()
    assert list(verdict.tokens[:-1]) == tree.tokens[list(verdict.path[1:])].tolist()
    assert verdict.next_token == rows[verdict.path[-1]].argmax()


@given(trees, seeds, st.tuples(epsilons, epsilons), st.tuples(deltas, deltas))
def test_higher_thresholds_never_accept_more(
    tree: TokenTree, seed: int, two_epsilons: tuple[float, float], two_deltas: tuple[float, float]
) -> None:
    rows = random_rows(tree, seed)
    lenient = verdict_of(tree, rows, min(two_epsilons), min(two_deltas))
    strict = verdict_of(tree, rows, max(two_epsilons), max(two_deltas))
    assert strict.n_accepted <= lenient.n_accepted


@given(trees, seeds, st.sampled_from([(0.0, 0.0), (0.0, 1.0), (0.5, 0.0)]))
def test_a_threshold_of_zero_accepts_the_longest_path_that_is_possible(
    tree: TokenTree, seed: int, thresholds: tuple[float, float]
) -> None:
    rows = random_rows(tree, seed)
    possible = [
        path for path in paths_below(tree) if all(p_of(tree, rows, node) > 0 for node in path)
    ]
    assert verdict_of(tree, rows, *thresholds).n_accepted == max(map(len, possible))


@given(trees, seeds)
def test_an_epsilon_next_to_one_accepts_only_what_is_certain_and_one_nothing(
    tree: TokenTree, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    certain = np.eye(N_VOCAB)[rng.integers(0, N_VOCAB, len(tree))]
    rows = np.where(rng.random((len(tree), 1)) < 0.7, certain, random_rows(tree, seed))
    sure = [path for path in paths_below(tree) if all(p_of(tree, rows, node) == 1 for node in path)]
    below_one = math.nextafter(1.0, 0.0)
    assert verdict_of(tree, rows, below_one, N_VOCAB).n_accepted == max(map(len, sure))
    # exp(-entropy) is 1 / N_VOCAB at least: the threshold is 1, which no probability exceeds
    assert verdict_of(tree, rows, 1.0, N_VOCAB + 1).n_accepted == 0


@given(trees, seeds)
def test_the_defaults_accept_no_less_than_greedy_matching(tree: TokenTree, seed: int) -> None:
    rows = random_rows(tree, seed)
    greedy = match_greedy(tree, rows.argmax(axis=1).astype(np.int32))
    assert typical(tree, rows.__getitem__).n_accepted >= greedy.n_accepted


@given(trees, seeds, st.integers(1, 6))
def test_stopping_cuts_the_text_is_asked_for_each_token_and_changes_nothing_before(
    tree: TokenTree, seed: int, max_tokens: int
) -> None:
    rows = random_rows(tree, seed)
    asked: list[int] = []

    def at_limit(token: int) -> bool:
        asked.append(token)
        return len(asked) == max_tokens

    whole = typical(tree, rows.__getitem__)
    stopped = typical(tree, rows.__getitem__, stop=at_limit)
    assert stopped == Verdict(whole.path[:max_tokens], whole.tokens[:max_tokens])
    assert tuple(asked) == stopped.tokens


@given(trees, seeds)
def test_rows_are_asked_for_once_and_only_at_accepted_nodes(tree: TokenTree, seed: int) -> None:
    rows = random_rows(tree, seed)
    asked: list[int] = []

    def target(node: int) -> np.ndarray:
        asked.append(node)
        return rows[node]

    verdict = typical(tree, target)
    assert len(asked) == len(set(asked))
    for node in set(asked) - set(verdict.path):
        assert len(tree.children(node))
        assert p_of(tree, rows, node) > threshold(rows[tree.parents[node]], 0.09, 0.3)
