"""Trees on recurrent states: what passes, commits and pending nodes cost, and what they gain.

    python bench/hybrid.py [--json] [--shapes NAME ...] [--repeats N] [--threads N]

The models have random weights (Q4_K_M) in the shape of a Qwen3.5 and of an LFM2 of about 0.5
billion weights; they are made once, by ``lib/random_models.py``, within two minutes. Behind
``--depth`` tokens of text, these take turns: a plain step, trees and chains whose nodes begin with
their parents' states; and chains of which half is accepted: by rollback (``n_rs_seq``), and by
copies of the state through host memory. A drafter that knows the text (three right tokens, and a
wrong one beside each) shows what speculation can gain.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psutil

from lib.random_models import hybrid_model
from lib.report import Figure, Spread, note, publish
from pytreellama import Context, Engine, Model, TokenTree, TreeEncoding
from pytreellama.draft import Tokens

SIZES = (8, 16)
N_TRUE = 3
N_CHAIN = 8


# -- passes


@dataclass(frozen=True)
class Costs:
    """What things take at one depth, in milliseconds.

    Attributes:
        node_bytes: what a pending node takes: resident memory in a tree, the state in a chain by
            rollback.
    """

    ms: dict[str, Spread]
    node_bytes: dict[str, float]

    def steps(self, name: str) -> float:
        """Something's median in plain steps."""
        return self.ms[name].median / self.ms["plain step"].median


def costs_of(model: Model, depth: int, n_repeats: int, n_threads: int | None) -> Costs:
    rng = np.random.default_rng(3)
    text = rng.integers(3, model.vocab.n_tokens, depth).tolist()
    options: dict[str, Any] = {"n_ctx": depth + 2048, "n_threads": n_threads}
    with (
        Context(model, **options) as context,
        Context(model, n_rs_seq=max(SIZES), **options) as rollback,
        Context(model, tree_encoding=TreeEncoding.SEQUENCES, **options) as copies,
    ):
        seq = context.prefill(text)
        works = _works(context, seq, rng)
        works += _half_chains("rollback", rollback, rollback.prefill(text), rng)
        works += _half_chains("copies", copies, copies.prefill(text), rng)
        times: dict[str, list[float]] = {}
        for i in range(n_repeats + 1):
            for work in works:
                for part, seconds in work().items():
                    if i:  # the first is a warm-up
                        times.setdefault(part, []).append(1e3 * seconds)
        node_bytes = {"tree": _bytes_of_node(context, seq, rng)}
        node_bytes["chain by rollback"] = float(rollback.node_bytes)
    return Costs({name: Spread.of(those) for name, those in times.items()}, node_bytes)


Work = Callable[[], dict[str, float]]
"""Does something; returns the seconds of its parts by name."""


def _timed(function: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    function()
    return time.perf_counter() - started_s


def _half_chains(how: str, context: Context, seq: int, rng: np.random.Generator) -> list[Work]:
    """A plain step, and chains of which half becomes text."""

    def plain() -> dict[str, float]:
        for _ in range(2):
            token = int(rng.integers(3, context.n_vocab))
            spent = _timed(lambda token=token: context.decode(token, seq=seq))  # type: ignore[misc]
        return {f"plain step, {how}": spent}

    def chain(n_nodes: int) -> dict[str, float]:
        nodes = TokenTree.chain(rng.integers(3, context.n_vocab, n_nodes))

        def step() -> None:
            context.decode(nodes, seq=seq)
            context.commit(seq, range(n_nodes // 2))

        return {f"chain of {n_nodes} by {how}": _timed(step)}

    return [plain, *(partial(chain, n) for n in SIZES)]


def _works(context: Context, seq: int, rng: np.random.Generator) -> list[Work]:
    n_vocab = context.n_vocab

    def plain() -> dict[str, float]:
        # the second: the first after other sizes finds other graphs and caches
        for _ in range(2):
            tree = TokenTree.chain(rng.integers(3, n_vocab, 1))
            spent = _timed(lambda tree=tree: context.decode(tree, seq=seq))  # type: ignore[misc]
            context.discard(seq)
        return {"plain step": spent}

    def tree(n_nodes: int, parents: Sequence[int]) -> dict[str, float]:
        nodes = TokenTree.from_parents(rng.integers(3, n_vocab, n_nodes), parents)
        spent = _timed(lambda: context.decode(nodes, seq=seq))
        path = nodes.path(n_nodes - 1)[: n_nodes // 2].tolist()
        what = "chain" if nodes.n_levels == n_nodes else "tree"
        found = {f"{what} of {n_nodes}": spent}
        if what == "chain":
            found[f"commit of {len(path)}"] = _timed(lambda: context.commit(seq, path))
        else:
            context.discard(seq)
        return found

    works: list[Work] = [plain]
    for n in SIZES:
        branching = [-1, *(int(rng.integers(max(0, i - 4), i)) for i in range(1, n))]
        works += [partial(tree, n, branching), partial(tree, n, range(-1, n - 1))]
    return works


def _bytes_of_node(context: Context, seq: int, rng: np.random.Generator) -> float:
    """Resident memory that 512 pending nodes take beyond 256, by node; with its row of logits."""
    resident = []
    for n_nodes in (256, 512):
        context.decode(TokenTree.chain(rng.integers(3, context.n_vocab, n_nodes)), seq=seq)
        resident.append(psutil.Process().memory_info().rss)
        context.discard(seq)
    return float(max(0, resident[1] - resident[0])) / 256


# -- answers


class Oracle:
    """Proposes what the model will write, with wrong tokens beside it."""

    name = "oracle"

    def __init__(self, text: Sequence[int]) -> None:
        self._text, self._n_seen = list(text), -1

    def observe(self, tokens: Tokens) -> None:
        self._n_seen = 0 if self._n_seen < 0 else self._n_seen + len(tokens)

    def propose(self, n_nodes: int) -> TokenTree:
        true = self._text[self._n_seen : self._n_seen + N_TRUE]
        paths = [[*true[:i], token] for i in range(len(true)) for token in (true[i], true[i] ^ 1)]
        tree = TokenTree.from_paths(paths) if paths else TokenTree.empty()
        return tree.truncate(n_nodes).with_p(
            [0.5 ** (d + 1) for d in tree.truncate(n_nodes).depths]
        )

    def reset(self) -> None:
        self._n_seen = -1


def times_plain(
    model: Model,
    depth: int,
    n_tokens: int,
    n_repeats: int,
    n_threads: int | None,
    n_rs_seq: int | None = None,
) -> Spread:
    """Speed with the oracle in speeds of plain decoding, in turns; raises if a text differs."""
    prompt = np.random.default_rng(5).integers(3, model.vocab.n_tokens, depth).tolist()
    asked: dict[str, Any] = {"max_tokens": n_tokens, "ignore_eos": True}
    sizes: dict[str, Any] = {"n_ctx": depth + n_tokens + 64, "n_threads": n_threads}
    with Engine(model, "none", **sizes) as plain:
        text = plain.generate(prompt, **asked).tokens
        with Engine(model, lambda: Oracle(text), n_rs_seq=n_rs_seq, **sizes) as engine:
            ratios = []
            for _ in range(n_repeats):
                slow, fast = plain.generate(prompt, **asked), engine.generate(prompt, **asked)
                if fast.tokens != text or slow.tokens != text:
                    raise SystemExit("a speculative text is not the plain one")
                ratios.append(fast.stats.tokens_per_s / slow.stats.tokens_per_s)
    return Spread.of(ratios)


def figures_of(kind: str, costs: Costs, gain: Spread) -> list[Figure]:
    copied = costs.steps("chain of 8 by copies")
    commits = (costs.steps(name) for name in costs.ms if name.startswith("commit"))
    return [
        Figure.at_most(f"{kind}: tree of 8, plain steps", costs.steps("tree of 8"), 2.0),
        Figure.at_most(
            f"{kind}: chain of 8, of that by copies", costs.steps("chain of 8") / copied, 0.6
        ),
        Figure.at_most(
            f"{kind}: chain of 8 by rollback, of that by copies",
            costs.steps("chain of 8 by rollback") / copied, 0.8,
        ),
        Figure.at_most(
            f"{kind}: plain step with room for chains, of one without",
            costs.steps("plain step, rollback") / costs.steps("plain step, copies"), 1.05,
        ),
        Figure.at_most(f"{kind}: commit, plain steps", max(commits), 0.3),
        Figure.at_least(f"{kind}: oracle, times plain", gain.median, 1.3),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--shapes", nargs="+", choices=("qwen35", "lfm2"), default=["qwen35", "lfm2"]
    )
    parser.add_argument("--depth", type=int, default=256, help="tokens of text before each pass")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    rows: list[tuple[str, Any]] = []
    figures: list[Figure] = []
    for kind in args.shapes:
        with Model(hybrid_model(kind)) as model:
            note(f"{kind}: passes")
            costs = costs_of(model, args.depth, args.repeats, args.threads)
            note(f"{kind}: answers")
            asked = (model, args.depth, args.tokens, max(2, args.repeats // 2), args.threads)
            gain = times_plain(*asked)
            others = {"rollback": times_plain(*asked, n_rs_seq=N_CHAIN)}
        rows += [(f"{kind}: {name}, ms", spread) for name, spread in costs.ms.items()]
        rows += [
            (f"{kind}: memory of a pending node, {name}, KiB", round(n_bytes / 1024))
            for name, n_bytes in costs.node_bytes.items()
        ]
        rows += [(f"{kind}: oracle, times plain", gain)]
        rows += [(f"{kind}: oracle by {how}, times plain", by) for how, by in others.items()]
        figures += figures_of(kind, costs, gain)
    publish("Trees on recurrent states", rows, figures, args.json)


if __name__ == "__main__":
    main()
