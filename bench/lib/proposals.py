"""What drafters propose at every token of answers, recorded once, and proposed again in replays."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lib.report import shown
from pytreellama import Engine, Model
from pytreellama.draft import EMPTY_TREE, Drafter, DrafterFactory, Tokens
from pytreellama.draft.calibration import Calibration, TextCalibration
from pytreellama.draft.growth import TRUNK, Growth, Level, Row, growing
from pytreellama.draft.level_cost import LevelCost
from pytreellama.draft.several import SeveralDrafters, SeveralFactories
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import grown
from pytreellama.tree.grown import NOTHING, Grown

N_CTX = 4096
N_RECORDED = 128
"""Nodes of a recorded tree: more than 8 levels of 4 nodes with 4 children each give."""

Prompt = tuple[int, ...]

TREE, CHAIN = "tree", "chain"
"""Passes of a draft model over as many nodes as a level has, or over one."""

_UNKNOWN = -2


@dataclass
class Proposals:
    """The trees of one drafter by prompt and number of tokens after it, and what each took.

    Attributes:
        growth: how they grew, a level a pass of a draft model; None if without such passes.
    """

    growth: Growth | None = None
    trees: dict[tuple[Prompt, int], TokenTree] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Seconds of a proposal."""
        return statistics.median(self.seconds)


# -- recording


class Recorder(SeveralDrafters):
    """Keeps what its drafters would propose, and proposes nothing: so every token is a step."""

    name = "recorder"

    def __init__(self, drafters: Sequence[Drafter], books: Sequence[Proposals]) -> None:
        super().__init__(drafters)
        self._books = books
        self._text: list[int] = []
        self._n_prompt = 0

    def observe(self, tokens: Tokens) -> None:
        self._text += list(tokens)
        for drafter in self._drafters:
            drafter.observe(tokens)

    def propose(self, n_nodes: int) -> TokenTree:
        self._n_prompt = self._n_prompt or len(self._text)
        prompt, n_written = tuple(self._text[: self._n_prompt]), len(self._text) - self._n_prompt
        for drafter, book in zip(self._drafters, self._books, strict=True):
            started_s = time.perf_counter()
            tree = drafter.propose(N_RECORDED)
            if len(tree):
                book.seconds.append(time.perf_counter() - started_s)
            book.trees[prompt, n_written] = tree
        return EMPTY_TREE


class RecorderFactory(SeveralFactories):
    """Factory of recorders; ``books`` has one of each drafter."""

    def __init__(self, factories: Sequence[DrafterFactory], books: Sequence[Proposals]) -> None:
        super().__init__(factories, "record")
        self.books = books

    def __call__(self) -> Recorder:
        return Recorder(self._new_drafters(), self.books)


def record(
    model: Model,
    recorder: RecorderFactory,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    n_threads: int,
) -> None:
    """Answer prompts greedily, and fill the recorder's books."""
    with (
        shown(f"recording drafts for {model.path.name}") as progress,
        Engine(model, recorder, n_ctx=N_CTX, n_threads=n_threads) as engine,
    ):
        for i, prompt in enumerate(prompts):
            engine.generate(list(prompt), max_tokens=n_tokens, temperature=0)
            progress((i + 1) / len(prompts))


# -- replays


def pass_name(name: str, kind: str) -> str:
    """What passes of a drafter are counted under."""
    return f"{name} {kind}"


class ReplayedDrafter:
    """Proposes what was recorded for the text, as large a tree as is asked for.

    A tree that grew by passes grows again by ``growth``, with the recorded nodes: it is the very
    tree that its drafter would have grown, as far as the recorded one reaches.

    Args:
        kind: of its levels' passes; the first pass, over the text's new tokens, is a chain's.
        passes: counts those that the draft model would have run, by ``pass_name``; proposals, if
            there are none.
        level_cost: of all texts, by which a plan leaves levels out.
        pass_s: seconds of a level.
        calibration: of all texts, as in ``draft.Eagle3``; None to keep the recorded probabilities.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        proposals: Proposals,
        growth: Growth | None,
        passes: Counter[str],
        level_cost: LevelCost,
        pass_s: float,
        calibration: Calibration | None = None,
    ) -> None:
        self.name, self._level_pass = name, pass_name(name, kind)
        self._shared = calibration
        self._proposals, self._growth, self._passes = proposals, growth, passes
        self._level_cost, self._pass_s = level_cost, pass_s
        self.reset()

    def reset(self) -> None:
        self._prompt: Prompt = ()
        self._n_written = 0
        self._token_s: float | None = None
        self._calibration = TextCalibration(self._shared)
        self._read: dict[int, Row] = {}  # of the tree that grew last, the nodes that were read

    def observe(self, tokens: Tokens) -> None:
        if self._prompt:
            self._calibration.learn(self._outcomes(tokens))
            self._n_written += len(tokens)
        else:
            self._prompt = tuple(tokens)
        self._token_s = None

    def announce(
        self, n_nodes: int, min_p: float | None = None, token_s: float | None = None
    ) -> None:
        self._token_s = token_s

    def propose(self, n_nodes: int) -> TokenTree:
        return self.grow_likely(n_nodes, 0.0).tree()

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        tree = self._tree
        if n_nodes < 1 or not len(tree):
            return NOTHING
        if self._growth is None:
            self._passes[self._level_pass] += 1
            return _likely(tree, n_nodes, min_p)
        return self._regrown(tree, n_nodes, replace(self._growth, min_p=min_p))

    @property
    def _tree(self) -> TokenTree:
        """What was recorded here."""
        return self._proposals.trees.get((self._prompt, self._n_written), EMPTY_TREE)

    def _outcomes(self, tokens: Tokens) -> Iterator[tuple[Row, int]]:
        """What was expected wherever the draft had read the text, and what came instead."""
        tree, node = self._tree, TRUNK
        for token in map(int, tokens):
            if node not in self._read:
                break
            yield self._read[node], token
            node = _child(tree, node, token)
        self._read = {}

    def _regrown(self, tree: TokenTree, n_nodes: int, growth: Growth) -> Grown:
        rows = _rows(tree)
        belief = self._calibration.belief
        steps = growing(lambda node: rows.get(node, ([], [])), growth, n_nodes, belief)
        self._passes[pass_name(self.name, CHAIN)] += 1
        self._read = {TRUNK: rows[TRUNK]}
        try:
            level = next(steps)
            while True:
                nodes = _numbers(tree, level) if self._pays(level) else []
                self._passes[self._level_pass] += bool(nodes)
                self._read |= {node: rows[node] for node in nodes if node in rows}
                level = steps.send(nodes)
        except StopIteration as end:
            return grown(end.value, self.name)

    def _pays(self, level: Level) -> bool:
        self._level_cost.learn(len(level.tokens), self._pass_s)
        return self._level_cost.pays([level], [self._token_s])


def _rows(tree: TokenTree) -> dict[int, Row]:
    """The children of each node, and their probabilities given their parent; likeliest first."""
    assert tree.p is not None
    p = [*tree.p.tolist(), 1.0]  # the last one is the root's parent
    rows: dict[int, Row] = {}
    for node in tree.nodes_by_p().tolist():
        parent = int(tree.parents[node])
        tokens, values = rows.setdefault(parent, ([], []))
        tokens.append(int(tree.tokens[node]))
        values.append(p[node] / p[parent] if p[parent] else 0.0)
    return rows


def _numbers(tree: TokenTree, level: Level) -> list[int]:
    """The recorded nodes of a level."""
    places = zip(level.parents, level.tokens, strict=True)
    return [_child(tree, parent, token) for parent, token in places]


def _child(tree: TokenTree, parent: int, token: int) -> int:
    """A recorded child; ``_UNKNOWN`` if there is none."""
    siblings = tree.roots if parent == TRUNK else tree.children(parent)
    return next((int(node) for node in siblings if tree.tokens[node] == token), _UNKNOWN)


def _likely(tree: TokenTree, n_nodes: int, min_p: float) -> Grown:
    """The likeliest nodes of a tree."""
    assert tree.p is not None
    return grown(tree.prune(tree.p >= min_p).truncate(n_nodes), "recorded")
