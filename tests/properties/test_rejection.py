"""Rejection is exact in distribution: every outcome enumerated, none sampled.

The drafter's draws and the rule's decisions come from one Chance, so that each outcome is a tree
and a verdict together with its exact probability. What they emit, completed with the target's own
draws, is compared with the target's distribution over whole texts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outcomes import outcomes
from pytreellama.tree import TokenTree
from pytreellama.verify import Chance, Rows, UniformChance, Verdict, match, rejection

Row = np.ndarray
Text = tuple[int, ...]
Model = Callable[[Text], Row]
Drafter = Callable[[Chance], TokenTree]
Rule = Callable[[TokenTree, Rows, Rows, Chance], Verdict]

ROOT = 0
N_NODES = 4
N_TOKENS = 4
EXACT = 1e-9
WRONG = 1e-2

P, Q = (0.1, 0.2, 0.3, 0.4), (0.6, 0.2, 0.1, 0.1)


# --- models and drafters ------------------------------------------------------------------------


def random_model(seed: object, n_vocab: int) -> Model:
    """Distributions that depend on the whole text: spread, with zeros, with ties, or certain."""
    rows: dict[Text, Row] = {}

    def row(text: Text) -> Row:
        if text not in rows:
            rng = random.Random(f"{seed} {text}")
            weights: list[Any] = rng.choice(
                [
                    [rng.random() for _ in range(n_vocab)],
                    [rng.random() ** 4 for _ in range(n_vocab)],
                    [rng.randrange(3) for _ in range(n_vocab)],
                    [0] * n_vocab,
                ]
            )
            weights[rng.randrange(n_vocab)] += rng.choice([0.1, 1])
            rows[text] = np.array(weights) / sum(weights)
        return rows[text]

    return row


def always(*p: float) -> Model:
    """A model that heeds no text."""
    return lambda text: np.array(p)


def random_drafter(draft: Model, seed: int) -> Drafter:
    """Draws trees without replacement; which nodes there are depends on the draws before them."""
    return lambda chance: drawn_tree(
        draft,
        chance,
        lambda text, elder: (
            len(text) < N_TOKENS
            and len(elder) < 3
            and random.Random(f"{seed} {text} {elder}").random() < (0.4 if elder else 0.9)
        ),
    )


def textual_drafter(draft: Model, seed: int) -> Drafter:
    """Draws trees in which the number of a node's children depends on its text alone."""
    return lambda chance: drawn_tree(
        draft,
        chance,
        lambda text, elder: (
            len(text) < 3 and len(elder) < random.Random(f"{seed} {text}").randrange(1, 3)
        ),
        n_nodes=6,
    )


def siblings_drafter(draft: Model, n_children: int) -> Drafter:
    """Draws `n_children` children of the root without replacement, and nothing below."""
    return lambda chance: drawn_tree(
        draft, chance, lambda text, elder: text == (ROOT,) and len(elder) < n_children
    )


def drawn_tree(
    draft: Model,
    chance: Chance,
    wants_another: Callable[[Text, Text], bool],
    n_nodes: int = N_NODES,
) -> TokenTree:
    """A tree of up to `n_nodes` draws; `wants_another(text, elder siblings)` decides on each.

    Where every token with a probability is drawn already, it takes the lowest of the rest.
    """
    tokens, parents = [ROOT], [-1]
    texts: list[Text] = [(ROOT,)]
    for node, text in enumerate(texts):
        left = draft(text).copy()
        elder: Text = ()
        while len(tokens) <= n_nodes and len(elder) < len(left) and wants_another(text, elder):
            if left.any():
                token = chance.draw(left / left.sum())
            else:
                token = min(set(range(len(left))) - set(elder))
            left[token] = 0
            elder += (token,)
            tokens.append(token)
            parents.append(node)
            texts.append((*text, token))
    return TokenTree(tokens, parents)


# --- the comparison -----------------------------------------------------------------------------


def rows_of(model: Model, tree: TokenTree) -> Rows:
    return lambda node: model(tuple(tree.tokens[tree.path(node)].tolist()))


def match_drawing(tree: TokenTree, target: Rows, draft: Rows, chance: Chance) -> Verdict:
    """`match` as a rule like `rejection`: the draft's distribution does not matter to it."""
    return match(tree, lambda node: chance.draw(np.asarray(target(node), np.float64)))


def rule_of(draw: Callable[[Iterable[int], Row, Row, Chance], int]) -> Rule:
    """The rule that takes `draw(children's tokens, p, q, chance)` at each node of its walk."""
    return lambda tree, target, draft, chance: match(
        tree,
        lambda node: draw(
            tree.tokens[tree.children(node)].tolist(), target(node), draft(node), chance
        ),
    )


def plain(target: Model, text: Text, n_tokens: int) -> np.ndarray:
    """Probability of each continuation of `n_tokens` tokens, shape (n_vocab,) * n_tokens."""
    if n_tokens == 0:
        return np.array(1.0)
    row = target(text)
    return np.stack(
        [p * plain(target, (*text, token), n_tokens - 1) for token, p in enumerate(row.tolist())]
    )


def emitted(
    rule: Rule, drafter: Drafter, target: Model, draft: Model, n_tokens: int = N_TOKENS
) -> np.ndarray:
    """As `plain`, when `rule` on a tree of `drafter`'s comes first, plain decoding behind it."""
    total = np.zeros((len(target((ROOT,))),) * n_tokens)
    for tokens, p in token_distribution(rule, drafter, target, draft).items():
        head = tokens[:n_tokens]
        total[head] += p * plain(target, (ROOT, *head), n_tokens - len(head))
    return total


def token_distribution(
    rule: Rule, drafter: Drafter, target: Model, draft: Model
) -> dict[Text, float]:
    """The probability of each run of tokens that a verdict emits."""
    total: Counter[Text] = Counter()
    for verdict, p in verdicts(rule, drafter, target, draft):
        total[verdict.tokens] += p  # type: ignore[assignment]
    return dict(total)


def verdicts(
    rule: Rule, drafter: Drafter, target: Model, draft: Model
) -> Iterable[tuple[Verdict, float]]:
    def run(chance: Chance) -> Verdict:
        tree = drafter(chance)
        return rule(tree, rows_of(target, tree), rows_of(draft, tree), chance)

    return outcomes(run)


def distance(p: np.ndarray, q: np.ndarray) -> float:
    """Total variation: the largest difference in the probability of any event."""
    return float(np.abs(p - q).sum()) / 2


def error(
    rule: Rule, drafter: Drafter, target: Model, draft: Model, n_tokens: int = N_TOKENS
) -> float:
    """How far from the target's distribution over texts the rule's is."""
    plainly = plain(target, (ROOT,), n_tokens)
    return distance(emitted(rule, drafter, target, draft, n_tokens), plainly)


def mean_accepted(rule: Rule, drafter: Drafter, target: Model, draft: Model) -> float:
    return sum(v.n_accepted * p for v, p in verdicts(rule, drafter, target, draft))


seeds = st.integers(0, 10_000)
vocabularies = st.integers(2, 4)


# --- exactness ----------------------------------------------------------------------------------


@given(vocabularies, seeds, seeds)
def test_rejection_emits_texts_with_the_target_s_probabilities(
    n_vocab: int, seed: int, shape_seed: int
) -> None:
    target = random_model(f"target {seed}", n_vocab)
    draft = random_model(f"draft {seed}", n_vocab)
    assert error(rejection, random_drafter(draft, shape_seed), target, draft) < EXACT


@given(vocabularies, seeds, seeds)
def test_matching_emits_texts_with_the_target_s_probabilities(
    n_vocab: int, seed: int, shape_seed: int
) -> None:
    target = random_model(f"target {seed}", n_vocab)
    draft = random_model(f"draft {seed}", n_vocab)
    assert error(match_drawing, random_drafter(draft, shape_seed), target, draft) < EXACT


@given(vocabularies, seeds, seeds)
def test_rejection_is_exact_when_the_drafter_is_the_target(
    n_vocab: int, seed: int, shape_seed: int
) -> None:
    model = random_model(seed, n_vocab)
    assert error(rejection, random_drafter(model, shape_seed), model, model) < EXACT


@given(vocabularies, seeds, st.lists(st.lists(st.integers(0, 1), max_size=3), max_size=5))
def test_a_tree_that_nobody_drew_is_verified_as_matching_does(
    n_vocab: int, seed: int, guesses: list[list[int]]
) -> None:
    tree = TokenTree.from_paths([[ROOT], *([ROOT, *guess] for guess in guesses)])
    target = random_model(seed, n_vocab)

    def certain_first_child(text: Text) -> Row:
        [node] = [n for n in range(len(tree)) if tuple(tree.tokens[tree.path(n)]) == text]
        return np.eye(n_vocab)[tree.tokens[tree.children(node)[0]]]

    rejected = token_distribution(rejection, lambda chance: tree, target, certain_first_child)
    matched = token_distribution(match_drawing, lambda chance: tree, target, certain_first_child)
    assert rejected == pytest.approx(matched, abs=EXACT)


# --- acceptance ---------------------------------------------------------------------------------


@given(vocabularies, seeds, seeds)
def test_a_drafter_that_is_the_target_is_accepted_down_to_a_leaf(
    n_vocab: int, seed: int, shape_seed: int
) -> None:
    model = random_model(seed, n_vocab)

    def run(chance: Chance) -> tuple[TokenTree, Verdict]:
        tree = random_drafter(model, shape_seed)(chance)
        return tree, rejection(tree, rows_of(model, tree), rows_of(model, tree), chance)

    for (tree, verdict), _ in outcomes(run):
        assert not len(tree.children(verdict.path[-1]))


@given(st.integers(2, 3), seeds, seeds)
def test_of_a_drawn_tree_rejection_accepts_no_less_than_matching(
    n_vocab: int, seed: int, shape_seed: int
) -> None:
    # Not always so where the shape depends on siblings or a budget: which one is accepted matters.
    target = random_model(f"target {seed}", n_vocab)
    draft = random_model(f"draft {seed}", n_vocab)
    drafter = textual_drafter(draft, shape_seed)
    rejected = mean_accepted(rejection, drafter, target, draft)
    assert rejected > mean_accepted(match_drawing, drafter, target, draft) - EXACT


@pytest.mark.parametrize("n_children", [1, 2, 3])
def test_where_draft_and_target_overlap_rejection_accepts_more_than_matching(
    n_children: int,
) -> None:
    models = always(*P), always(*Q)
    drafter = siblings_drafter(models[1], n_children)
    assert mean_accepted(rejection, drafter, *models) > 0.1 + mean_accepted(
        match_drawing, drafter, *models
    )


# --- the comparison can fail --------------------------------------------------------------------


def two_children(n_tokens: int = 1) -> tuple[Drafter, Model, Model, int]:
    return siblings_drafter(always(*Q), 2), always(*P), always(*Q), n_tokens


def test_the_rule_itself_is_exact_where_its_wrong_variants_are_not() -> None:
    assert error(rejection, *two_children()) < EXACT
    assert error(match_drawing, *two_children()) < EXACT


def test_a_draft_row_that_is_not_renormalised_is_caught() -> None:
    def draw(tokens: Iterable[int], p: Row, q: Row, chance: Chance) -> int:
        q = q.copy()
        for token in tokens:
            if chance.accept(min(1.0, p[token] / q[token])):
                return token
            p = np.maximum(p - q, 0)
            p /= p.sum()
            q[token] = 0
        return chance.draw(p)

    assert error(rule_of(draw), *two_children()) == pytest.approx(0.01875)


def test_a_second_draw_from_the_target_itself_is_caught() -> None:
    def draw(tokens: Iterable[int], p: Row, q: Row, chance: Chance) -> int:
        for token in tokens:
            if chance.accept(min(1.0, p[token] / q[token])):
                return token
        return chance.draw(p)

    assert error(rule_of(draw), *two_children()) > WRONG


def test_children_in_another_order_than_drawn_are_caught() -> None:
    drafter, target, draft, n_tokens = two_children()

    def turned(chance: Chance) -> TokenTree:
        root, *children = drafter(chance).tokens.tolist()
        return TokenTree([root, *reversed(children)], [-1, 0, 0])

    assert error(rejection, turned, target, draft, n_tokens) > WRONG


def test_keeping_the_likeliest_of_the_children_drawn_is_caught() -> None:
    drafter, target, draft, n_tokens = two_children()

    def pruned(chance: Chance) -> TokenTree:
        root, *children = drafter(chance).tokens.tolist()
        return TokenTree([root, max(children, key=lambda token: Q[token])], [-1, 0])

    assert error(rejection, pruned, target, draft, n_tokens) > WRONG


# --- llama.cpp's stochastic tree ----------------------------------------------------------------


def paired_by_index(tokens: Iterable[int], p: Row, q: Row, chance: Chance) -> int:
    """One node of llama.cpp's stochastic verification (examples/speculative, 0c1e57098), reduced.

    Target and draft each bring the candidates that their sampling filters left, sorted by id when
    it comes to the residual; entry i of the one is subtracted from entry i of the other, whatever
    tokens these are. Branches are tried in random order, and the draft's candidates stay as they
    are. Kinder than the original in that a drafted token that the target has filtered out has
    probability 0 there, not that of the branch tried before.
    """
    candidates = {token: p[token] for token in np.flatnonzero(p).tolist()}
    drafted = q[q > 0]
    branches = list(tokens)
    while branches:
        token = branches.pop(chance.draw(np.full(len(branches), 1 / len(branches))))
        if chance.accept(min(1.0, candidates.get(token, 0.0) / q[token])):
            return token
        left = np.array(list(candidates.values()))
        n_pairs = min(len(left), len(drafted))
        left[:n_pairs] -= drafted[:n_pairs]
        left = np.maximum(left, 0)
        candidates = dict(zip(candidates, left / left.sum(), strict=True))
    return list(candidates)[chance.draw(np.array(list(candidates.values())))]


llama_cpp = rule_of(paired_by_index)


def test_llama_cpp_s_rule_is_exact_for_one_drawn_branch_of_unfiltered_candidates() -> None:
    drafter = siblings_drafter(always(*Q), 1)
    assert error(llama_cpp, drafter, always(*P), always(*Q), n_tokens=1) < EXACT


def test_llama_cpp_s_rule_is_not_exact_once_candidates_are_filtered() -> None:
    # The target's filter has dropped token 1: its second entry, token 2, meets the draft's token 1.
    target, draft = always(0.5, 0.0, 0.5), always(0.2, 0.3, 0.5)
    drafter = siblings_drafter(draft, 1)
    first = emitted(llama_cpp, drafter, target, draft, n_tokens=1)
    assert first == pytest.approx([0.38, 0.0, 0.62])
    assert error(llama_cpp, drafter, target, draft, n_tokens=1) == pytest.approx(0.12)
    assert error(rejection, drafter, target, draft, n_tokens=1) < EXACT


def test_llama_cpp_s_rule_is_not_exact_for_the_likeliest_tokens_that_it_drafts() -> None:
    # They are chosen, not drawn, but accepted as if the draft model had drawn them.
    target, draft = always(0.5, 0.5), always(0.6, 0.4)
    tree = TokenTree([ROOT, 0], [-1, 0])
    first = emitted(llama_cpp, lambda chance: tree, target, draft, n_tokens=1)
    assert first == pytest.approx([5 / 6, 1 / 6])
    assert error(llama_cpp, lambda chance: tree, target, draft, n_tokens=1) == pytest.approx(1 / 3)
    assert error(match_drawing, lambda chance: tree, target, draft, n_tokens=1) < EXACT


# --- the walk -----------------------------------------------------------------------------------


@given(vocabularies, seeds, seeds)
def test_rows_are_asked_for_once_along_the_path_and_draft_s_only_above_children(
    n_vocab: int, seed: int, shape_seed: int
) -> None:
    target = random_model(f"target {seed}", n_vocab)
    draft = random_model(f"draft {seed}", n_vocab)
    chance = UniformChance(random.Random(seed).random)
    tree = random_drafter(draft, shape_seed)(chance)
    asked: dict[str, list[int]] = {"target": [], "draft": []}

    def noted(name: str, model: Model) -> Rows:
        rows = rows_of(model, tree)

        def row(node: int) -> Row:
            asked[name].append(node)
            return rows(node)

        return row

    verdict = rejection(tree, noted("target", target), noted("draft", draft), chance)
    assert asked["target"] == list(verdict.path)
    assert asked["draft"] == [node for node in verdict.path if len(tree.children(node))]


@given(vocabularies, seeds, seeds, st.integers(1, N_TOKENS))
def test_stopping_cuts_the_text_is_asked_for_each_token_and_changes_nothing_before(
    n_vocab: int, seed: int, shape_seed: int, max_tokens: int
) -> None:
    target = random_model(f"target {seed}", n_vocab)
    draft = random_model(f"draft {seed}", n_vocab)
    asked: list[int] = []

    def at_limit(token: int) -> bool:
        asked.append(token)
        return len(asked) == max_tokens

    def run(stop: Callable[[int], bool] | None) -> Verdict:
        chance = UniformChance(random.Random(seed).random)
        tree = random_drafter(draft, shape_seed)(chance)
        return rejection(tree, rows_of(target, tree), rows_of(draft, tree), chance, stop)

    whole, stopped = run(None), run(at_limit)
    assert stopped == Verdict(whole.path[:max_tokens], whole.tokens[:max_tokens])
    assert tuple(asked) == stopped.tokens
