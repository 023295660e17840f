"""Matching is exact: for deterministic models in text, for random ones in distribution."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, match, match_greedy

VOCAB = range(3)

Text = tuple[int, ...]
Distribution = dict[Text, Fraction]
Model = Callable[[Text], list[Fraction]]
Rule = Callable[[TokenTree, Callable[[int], int]], Verdict]


@st.composite
def rooted_trees(draw: st.DrawFn) -> TokenTree:
    """Trees under one root, as the engine verifies them; paths over the vocabulary and beyond."""
    root = draw(st.sampled_from(VOCAB))
    guesses = draw(st.lists(st.lists(st.integers(0, len(VOCAB)), max_size=3), max_size=6))
    return TokenTree.from_paths([[root], *([root, *guess] for guess in guesses)])


def text_at(tree: TokenTree, node: int) -> Text:
    """The text that the target has read at `node`."""
    return tuple(tree.tokens[tree.path(node)].tolist())


def random_model(seed: int) -> Model:
    """A target whose next-token distribution depends on the whole text."""

    def probabilities(text: Text) -> list[Fraction]:
        rng = random.Random(f"{seed} {text}")
        weights = [rng.randrange(4) for _ in VOCAB]
        weights[rng.randrange(len(VOCAB))] += 1
        return [Fraction(weight, sum(weights)) for weight in weights]

    return probabilities


def likeliest(model: Model, text: Text) -> int:
    probabilities = model(text)
    return probabilities.index(max(probabilities))


def plain_decoding(model: Model, text: Text, n_tokens: int) -> Text:
    emitted: Text = ()
    while len(emitted) < n_tokens:
        emitted += (likeliest(model, text + emitted),)
    return emitted


def plain_distribution(model: Model, text: Text, n_tokens: int) -> Distribution:
    """Probability of each continuation of `n_tokens` tokens."""
    if n_tokens == 0:
        return {(): Fraction(1)}
    return {
        (token, *rest): p_token * p_rest
        for token, p_token in enumerate(model(text))
        if p_token
        for rest, p_rest in plain_distribution(model, (*text, token), n_tokens - 1).items()
    }


class _NeedsDrawError(Exception):
    """The script of draws ran out at this node."""

    def __init__(self, node: int) -> None:
        self.node = node


def enumerated_outcomes(rule: Rule, tree: TokenTree, model: Model) -> Distribution:
    """Run `rule` once for every possible sequence of draws; the probability of what it emits."""
    outcomes: Counter[Text] = Counter()
    pending: list[tuple[Text, Fraction]] = [((), Fraction(1))]
    while pending:
        script, p_script = pending.pop()
        left = list(script)

        def draw(node: int, left: list[int] = left) -> int:
            if not left:
                raise _NeedsDrawError(node)
            return left.pop(0)

        try:
            verdict = rule(tree, draw)
        except _NeedsDrawError as needed:
            for token, p_token in enumerate(model(text_at(tree, needed.node))):
                if p_token:
                    pending.append(((*script, token), p_script * p_token))
        else:
            outcomes[verdict.tokens] += p_script  # type: ignore[assignment]
    return dict(outcomes)  # type: ignore[arg-type]


def speculative_distribution(
    rule: Rule, tree: TokenTree, model: Model, n_tokens: int
) -> Distribution:
    """As plain_distribution, when the first pass is `rule` on `tree` and plain decoding follows."""
    total: Counter[Text] = Counter()
    root = text_at(tree, 0)
    for emitted, p_emitted in enumerated_outcomes(rule, tree, model).items():
        rest = plain_distribution(model, root + emitted, n_tokens - len(emitted))
        for text, p_text in rest.items():
            total[emitted + text] += p_emitted * p_text  # type: ignore[assignment]
    return dict(total)  # type: ignore[arg-type]


@given(rooted_trees(), st.integers(0, 10_000))
def test_matching_emits_what_plain_decoding_would(tree: TokenTree, seed: int) -> None:
    model = random_model(seed)
    verdict = match(tree, lambda node: likeliest(model, text_at(tree, node)))
    assert verdict.tokens == plain_decoding(model, text_at(tree, 0), len(verdict.tokens))


@given(rooted_trees(), st.integers(0, 10_000))
def test_the_path_spells_the_emitted_tokens_but_the_last_and_cannot_be_longer(
    tree: TokenTree, seed: int
) -> None:
    model = random_model(seed)
    verdict = match(tree, lambda node: likeliest(model, text_at(tree, node)))
    assert verdict.path == tuple(tree.path(verdict.path[-1]).tolist())
    assert len(verdict.path) == len(verdict.tokens)
    assert text_at(tree, verdict.path[-1]) == (int(tree.tokens[0]), *verdict.tokens[:-1])
    assert tree.child(verdict.path[-1], verdict.tokens[-1]) is None


@given(rooted_trees(), st.integers(0, 10_000))
def test_the_greedy_form_agrees_with_the_generic_one(tree: TokenTree, seed: int) -> None:
    model = random_model(seed)
    argmax = [likeliest(model, text_at(tree, node)) for node in range(len(tree))]
    assert match_greedy(tree, np.array(argmax, np.int32)) == match(tree, argmax.__getitem__)


@given(rooted_trees(), st.integers(0, 10_000), st.integers(1, 4))
def test_stopping_cuts_the_text_and_changes_nothing_before(
    tree: TokenTree, seed: int, max_tokens: int
) -> None:
    model = random_model(seed)
    budget = iter(range(1, 100))
    choices = [likeliest(model, text_at(tree, node)) for node in range(len(tree))]
    whole = match(tree, choices.__getitem__)
    stopped = match(tree, choices.__getitem__, stop=lambda token: next(budget) == max_tokens)
    assert stopped.tokens == whole.tokens[:max_tokens]
    assert stopped.path == whole.path[:max_tokens]


@given(rooted_trees(), st.integers(0, 10_000))
def test_the_distribution_of_text_is_the_target_s_whatever_the_tree(
    tree: TokenTree, seed: int
) -> None:
    model = random_model(seed)
    n_tokens = int(tree.depths.max()) + 1
    expected = plain_distribution(model, text_at(tree, 0), n_tokens)
    assert speculative_distribution(match, tree, model, n_tokens) == expected


def test_the_enumeration_catches_a_rule_that_draws_again_after_a_miss() -> None:
    def match_with_a_second_try(tree: TokenTree, draw: Callable[[int], int]) -> Verdict:
        token = draw(0)
        return Verdict((0,), (token if tree.child(0, token) is not None else draw(0),))

    def coin(text: Text) -> list[Fraction]:
        return [Fraction(1, 2), Fraction(1, 2), Fraction(0)]

    tree = TokenTree.from_paths([[0, 1]])
    wrong = speculative_distribution(match_with_a_second_try, tree, coin, 2)
    right = speculative_distribution(match, tree, coin, 2)
    assert wrong[(1, 0)] + wrong[(1, 1)] == Fraction(3, 4)
    assert right[(1, 0)] + right[(1, 1)] == Fraction(1, 2)
    assert right == plain_distribution(coin, (0,), 2) != wrong
