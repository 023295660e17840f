"""The model drafter against plain decoding of every path, on texts that go on at random."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Batch, Context, Model, draft
from pytreellama.context.passes import Passes
from pytreellama.draft.growth import TRUNK, Grow, Growth, Row, grow_tree
from pytreellama.testing.cells import read_cells
from pytreellama.tree import TokenTree
from strategies import node_paths
from tiny_models import BRANCHING_KINDS, KINDS

TinyModel = Callable[..., Model]
Path = tuple[int, ...]

N_VOCAB = 320
SIZES = {"n_ctx": 256, "n_threads": 1}
tokens = st.integers(261, N_VOCAB - 1)
texts = st.lists(tokens, min_size=1, max_size=12)
seeds = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Grown:
    """The same options, for a factory and for a reference."""

    grow: Grow = "best"
    top: int = 3
    width: int = 3
    n_levels: int = 4
    min_p: float = 0.01

    def factory(self, model: Model, **options: Any) -> draft.Model:
        return draft.Model(
            model,
            grow=self.grow,
            top=self.top,
            width=self.width,
            n_levels=self.n_levels,
            min_p=self.min_p,
            **{"n_seq_max": 4, "calibrate": False, **SIZES, **options},
        )

    @property
    def growth(self) -> Growth:
        return Growth.of(
            self.grow, top=self.top, width=self.width, n_levels=self.n_levels, min_p=self.min_p
        )


GROWN = [
    Grown(),
    Grown(top=2, width=8, n_levels=3),
    Grown(width=1),
    Grown("chain"),
    Grown((3, 2, 1), min_p=0.0),
]
by_growth = pytest.mark.parametrize("grown", GROWN, ids=lambda grown: f"{grown.grow}{grown.width}")


class PlainDecoding:
    """The next token's distribution behind any text, by plain steps in a context of its own."""

    def __init__(self, model: Model) -> None:
        self._context = Context(model, n_ctx=256, n_threads=1)
        self._known: dict[Path, np.ndarray] = {}

    def p(self, text: Sequence[int]) -> np.ndarray:
        key = tuple(text)
        if key not in self._known:
            self._context.memory.clear(data=False)
            for token in key:
                self._context.decode(token, seq=0)
            logits = self._context.outputs.logits[0].astype(np.float64)
            weights = np.exp(logits - logits.max())
            self._known[key] = weights / weights.sum()
        return self._known[key]


class PlainForesight:
    """What plain decoding expects below a text: a ``Foresight`` without a tree or a cache."""

    def __init__(self, plain: PlainDecoding, text: Sequence[int], n_top: int) -> None:
        self._plain, self._text, self._n_top = plain, tuple(text), n_top
        self._paths: list[Path] = []

    def children(self, node: int) -> Row:
        path = () if node == TRUNK else self._paths[node]
        p = self._plain.p(self._text + path)
        likeliest = np.argsort(-p, kind="stable")[: self._n_top]
        return likeliest.tolist(), p[likeliest].tolist()

    def add(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        first = len(self._paths)
        for token, above in zip(tokens, parents, strict=True):
            self._paths.append((*(() if above == TRUNK else self._paths[above]), token))
        return list(range(first, len(self._paths)))


def reference(plain: PlainDecoding, text: Sequence[int], grown: Grown, n_nodes: int) -> TokenTree:
    foresight = PlainForesight(plain, text, grown.growth.n_top)
    return grow_tree(foresight, grown.growth, n_nodes, lambda p: p)


def assert_same(tree: TokenTree, expected: TokenTree, abs_p: float = 1e-5) -> None:
    found, wanted = node_paths(tree), node_paths(expected)
    assert found.keys() == wanted.keys()
    assert [found[path] for path in wanted] == pytest.approx(list(wanted.values()), abs=abs_p)


def turns(seed: int, n_turns: int = 6) -> Iterator[Callable[[TokenTree], list[int]]]:
    """How a text goes on: along a proposed path for a while, then often elsewhere."""
    rng = np.random.default_rng(seed)
    for _ in range(n_turns):

        def accept(tree: TokenTree) -> list[int]:
            node = int(rng.integers(-1, len(tree)))
            path = tree.tokens[tree.path(node)].tolist()
            return path + rng.integers(261, N_VOCAB, rng.integers(0, 3)).tolist()

        yield accept


@pytest.fixture(scope="module")
def plain_of(tiny_model: TinyModel) -> Callable[[str], PlainDecoding]:
    made: dict[str, PlainDecoding] = {}

    def get(kind: str) -> PlainDecoding:
        if kind not in made:
            made[kind] = PlainDecoding(tiny_model(kind))
        return made[kind]

    return get


@by_growth
@given(text=texts, n_nodes=st.integers(1, 16))
def test_a_proposal_is_what_plain_decoding_of_its_paths_gives(
    tiny_model: TinyModel,
    plain_of: Callable[[str], PlainDecoding],
    grown: Grown,
    text: list[int],
    n_nodes: int,
) -> None:
    with grown.factory(tiny_model("rope")) as factory:
        drafter = factory()
        drafter.observe(text)
        tree = drafter.propose(n_nodes)
    assert_same(tree, reference(plain_of("rope"), text, grown, n_nodes))


@given(text=texts, n_nodes=st.integers(1, 12))
def test_with_width_to_spare_the_likeliest_of_all_paths_are_proposed(
    tiny_model: TinyModel,
    plain_of: Callable[[str], PlainDecoding],
    text: list[int],
    n_nodes: int,
) -> None:
    plain = plain_of("rope")
    paths: dict[Path, float] = {}
    level: list[tuple[Path, float]] = [((), 1.0)]
    for _ in range(3):
        expected = [(path, p_path, plain.p([*text, *path])) for path, p_path in level]
        level = [
            ((*path, token), p_path * p[token])
            for path, p_path, p in expected
            for token in np.argsort(-p)[:3].tolist()
        ]
        paths |= dict(level)
    best = dict(sorted(paths.items(), key=lambda item: -item[1])[:n_nodes])
    with Grown(top=3, width=n_nodes, n_levels=3, min_p=0.0).factory(tiny_model("rope")) as factory:
        drafter = factory()
        drafter.observe(text)
        found = node_paths(drafter.propose(n_nodes))
    assert found.keys() == best.keys()
    assert [found[path] for path in best] == pytest.approx(list(best.values()), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, seed=seeds, n_nodes=st.integers(1, 12))
def test_a_followed_cache_expects_what_a_fresh_one_does(
    tiny_model: TinyModel, kind: str, text: list[int], seed: int, n_nodes: int
) -> None:
    with Grown().factory(tiny_model(kind)) as factory:
        drafter, written = factory(), list(text)
        drafter.observe(text)
        for accept in turns(seed):
            tree = drafter.propose(n_nodes)
            assert drafter.propose(n_nodes) == tree, "proposing changed something"
            fresh = factory()
            fresh.observe(written)
            assert_same(tree, fresh.propose(n_nodes), abs_p=1e-4)
            new = accept(tree)
            written += new
            drafter.observe(new)


@given(text=texts, seed=seeds)
def test_proposals_of_other_sizes_between_change_nothing(
    tiny_model: TinyModel, text: list[int], seed: int
) -> None:
    with Grown().factory(tiny_model("rope")) as factory:
        one, other = factory(), factory()
        one.observe(text)
        other.observe(text)
        for accept in turns(seed, n_turns=3):
            tree = one.propose(5)
            for n_nodes in (16, 1, 0):
                other.propose(n_nodes)
            assert_same(other.propose(5), tree)
            new = accept(tree)
            one.observe(new)
            other.observe(new)


@pytest.mark.parametrize("kind", ["rope", "swa", "recurrent"])
@given(opening=st.lists(texts, min_size=2, max_size=3), seed=seeds, order=st.randoms())
def test_sequences_in_one_cache_do_not_disturb_each_other(
    tiny_model: TinyModel, kind: str, opening: list[list[int]], seed: int, order: object
) -> None:
    def drafted(drafter: draft.ModelDrafter, index: int) -> Iterator[TokenTree]:
        drafter.observe(opening[index])
        for accept in turns(seed + index):
            tree = drafter.propose(8)
            yield tree
            drafter.observe(accept(tree))

    alone: list[list[TokenTree]] = []
    for index in range(len(opening)):
        with Grown().factory(tiny_model(kind), calibrate=True) as factory:
            alone.append(list(drafted(factory(), index)))

    with Grown().factory(tiny_model(kind), calibrate=True) as factory:
        runs = [drafted(factory(), index) for index in range(len(opening))]
        turn_order = [index for index, trees in enumerate(alone) for _ in trees]
        order.shuffle(turn_order)  # type: ignore[attr-defined]
        n_seen = [0] * len(runs)
        for index in turn_order:
            assert_same(next(runs[index]), alone[index][n_seen[index]], abs_p=1e-4)
            n_seen[index] += 1


@given(text=texts, seed=seeds)
def test_calibrated_estimates_stay_those_of_paths(
    tiny_model: TinyModel, text: list[int], seed: int
) -> None:
    with Grown(min_p=0.0).factory(tiny_model("rope"), calibrate=True) as factory:
        drafter = factory()
        drafter.observe(text)
        for accept in turns(seed, n_turns=8):
            tree = drafter.propose(12)
            assert tree.p is not None
            for node in range(-1, len(tree)):
                p = 1.0 if node < 0 else float(tree.p[node])
                children = tree.p[tree.parents == node]
                assert children.sum() <= p + 1e-6
            drafter.observe(accept(tree))


class Spy:
    """Counts the tokens that contexts decode, pass by pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[int] = []
        run, token = Passes._run, Passes.token

        def counted_run(passes: Passes, batch: Batch) -> None:
            self.passes.append(len(batch))
            run(passes, batch)

        def counted_one(passes: Passes, *rest: int) -> None:
            self.passes.append(1)
            token(passes, *rest)

        monkeypatch.setattr(Passes, "_run", counted_run)
        monkeypatch.setattr(Passes, "token", counted_one)

    def during(self, act: Callable[[], TokenTree]) -> tuple[TokenTree, list[int]]:
        self.passes.clear()
        tree = act()
        return tree, list(self.passes)


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_only_what_is_new_is_decoded_one_pass_a_level(
    tiny_model: TinyModel, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    with Grown(width=2, n_levels=4, min_p=0.0).factory(tiny_model(kind)) as factory:
        drafter = factory()
        drafter.observe(range(270, 300))
        tree, passes = spy.during(lambda: drafter.propose(9))
        assert passes == [30, 2, 2, 2]
        assert spy.during(lambda: drafter.propose(9)) == (tree, [])

        deepest = int(tree.depths.argmax())
        accepted = tree.tokens[tree.path(int(tree.parents[deepest]))].tolist()
        assert len(accepted) >= 1
        drafter.observe([*accepted, 265])  # what has children was decoded; 265 is the target's own
        _, passes = spy.during(lambda: drafter.propose(9))
        assert passes[0] == 1
        assert len(passes) <= 4

        drafter.observe([266])  # nothing accepted
        _, passes = spy.during(lambda: drafter.propose(9))
        assert passes[0] == 1


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_a_text_that_ends_at_a_decoded_guess_needs_no_pass_before_its_first_level(
    tiny_model: TinyModel, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    with Grown("chain", min_p=0.0).factory(tiny_model(kind)) as factory:
        drafter = factory()
        drafter.observe([270, 271])
        tree = drafter.propose(8)
        drafter.observe(tree.tokens[:2])
        _, passes = spy.during(lambda: drafter.propose(1))
        assert passes == []


def test_a_recurrent_model_reads_accepted_guesses_again_in_the_pass_over_what_is_new(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    with Grown(n_levels=4, min_p=0.0).factory(tiny_model("qwen4exp")) as factory:
        drafter = factory()
        drafter.observe([270, 271, 272])
        tree, passes = spy.during(lambda: drafter.propose(8))
        assert tree.n_levels == len(tree) == 4
        assert passes == [3, 1, 1, 1]
        drafter.observe([*tree.tokens[:2], 265])
        _, passes = spy.during(lambda: drafter.propose(8))
        assert passes == [3, 1, 1, 1]
        tree = drafter.propose(8)
        drafter.observe([*tree.tokens, 265])  # all was right: its state is that of the text
        _, passes = spy.during(lambda: drafter.propose(8))
        assert passes == [2, 1, 1, 1]


def test_the_cache_holds_the_text_and_what_hangs_below_it(tiny_model: TinyModel) -> None:
    with Grown(min_p=0.0).factory(tiny_model("rope")) as factory:
        drafter = factory()
        context = factory._cache._context
        written = [270, 271, 272]
        drafter.observe(written)
        for accept in itertools.islice(turns(3), 5):
            tree = drafter.propose(8)
            cells = read_cells(context, 0)
            assert cells is not None
            is_text = (cells.positions >= 0) & (cells.nodes < 0)
            assert sorted(cells.positions[is_text].tolist()) == list(range(len(written)))
            new = accept(tree)
            written += new
            drafter.observe(new)
