"""How far the logits of a text depend on what else a context holds, for kinds of tiny models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama import Batch, Context, Model, TokenTree
from tiny_models import tiny_model

Rows = NDArray[np.float32]
Layout = Callable[[Context, list[int]], int]

N_STEPS = 6
"""Last tokens of a text, each decoded in a pass: their rows of logits are compared."""


def text_of(n: int, seed: int = 5) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(40, 250, n)]


# -- how a text gets into the cache: each returns its sequence


def _alone(context: Context, text: list[int]) -> int:
    return context.prefill(text)


def _after_another(context: Context, text: list[int]) -> int:
    context.prefill(text_of(50, seed=6))
    return context.prefill(text)


def _before_another(context: Context, text: list[int]) -> int:
    seq = context.prefill(text)
    context.prefill(text_of(400, seed=6))
    return seq


def _in_turns(context: Context, text: list[int]) -> int:
    """Pieces of three texts follow one another in the cache."""
    seqs = [context.sequences.new() for _ in range(3)]
    for start in range(0, len(text), 11):
        for seq in seqs:
            piece = text[start : start + 11]
            context.prefill(piece if seq == seqs[1] else piece[::-1], seq)
    return seqs[1]


def _in_gaps(context: Context, text: list[int]) -> int:
    """Cells that other texts have left: their order is not that of the positions."""
    first, second, third = (context.prefill(text_of(n, seed=n)) for n in (9, 14, 5))
    seq = context.prefill(text[:10])
    context.sequences.free(second)
    context.prefill(text[10:21], seq)
    context.sequences.free(first)
    context.sequences.free(third)
    context.prefill(text[21:], seq)
    return seq


def _shared(context: Context, text: list[int]) -> int:
    """The first half stands in cells of another text, which goes on otherwise."""
    half = len(text) // 2
    source = context.prefill(text[:half])
    seq = context.sequences.new()
    if context.memory.sharing == "cells":
        context.memory.share(source, seq, half)
        context.prefill(text_of(30, seed=7), source)
        context.prefill(text[half:], seq)
    else:
        context.prefill(text, seq)
    return seq


WIDE = {"n_ctx": 4096, "n_seq_max": 4}
STREAMS = WIDE | {"kv_unified": False}

LAYOUTS: dict[str, tuple[Layout, Mapping[str, Any]]] = {
    "alone": (_alone, {"n_ctx": 1024}),
    "more sequences": (_alone, WIDE),
    "after another": (_after_another, WIDE),
    "before another": (_before_another, WIDE),
    "in turns": (_in_turns, WIDE),
    "in gaps": (_in_gaps, WIDE),
    "shared": (_shared, WIDE),
    "streams": (_in_turns, STREAMS),
}


# -- what is measured


def _steps(context: Context, seq: int, last: Sequence[int]) -> Rows:
    return np.array([context.decode(token, seq=seq).logits[0].copy() for token in last])


def _steps_together(context: Context, seq: int, last: Sequence[int]) -> Rows:
    """Each step shares its pass with tokens of a text that begins there."""
    n_past, other, rows = context.memory.pos_max(seq) + 1, context.sequences.new(), []
    for i, token in enumerate(last):
        batch = Batch(3)
        batch.add([50 + i, 60 + i], [2 * i, 2 * i + 1], other)
        batch.add([token], [n_past + i], seq, logits=True)
        rows.append(context.decode(batch).logits[0].copy())
    return np.array(rows)


def _nodes(context: Context, seq: int, last: Sequence[int]) -> Rows:
    """The path of a tree that has a wrong node before each right one, or a chain."""
    tree, path = TokenTree.chain(last), range(len(last))
    if context.can_branch:
        tokens = [token for right in last for token in (right - 1, right)]
        parents = [-1, -1, *(2 * (i // 2) + 1 for i in range(2 * len(last) - 2))]
        tree, path = TokenTree(tokens, parents), range(1, 2 * len(last), 2)
    rows: Rows = context.decode(tree, seq=seq).logits[path].copy()
    context.discard(seq)
    return rows


def changes(model: Model, n_text: int) -> dict[str, Any]:
    """What contexts promise, how they share prefixes, and the largest change in each layout."""
    text = text_of(n_text + N_STEPS)
    text, last = text[:n_text], text[n_text:]
    promises, sharing, found = [], set(), {}
    expected: Rows | None = None
    for name, (layout, options) in LAYOUTS.items():
        with Context(model, n_threads=1, **options) as context:
            promises.append(context.is_batch_invariant)
            sharing.add(context.memory.sharing)
            seq = layout(context, text)
            nodes = _nodes(context, seq, last)
            rows = (_steps_together if name == "in gaps" else _steps)(context, seq, last)
        expected = rows if expected is None else expected
        found[name] = float(np.abs(rows - expected).max())
        found[f"{name}, a tree"] = float(np.abs(nodes - expected).max())
    return {"promises": promises, "sharing": sorted(sharing), "changes": found}


# -- a process's work


def print_changes(directory: str, n_texts: str, kinds: Sequence[str]) -> None:
    """Print a line of JSON for each kind and length of text; ``n_texts`` is JSON."""
    for kind in kinds:
        path = tiny_model(kind, directory)
        with _child() as is_child:
            if is_child:
                _print_changes(kind, path, json.loads(n_texts))


def _print_changes(kind: str, path: Path, n_texts: Sequence[int]) -> None:
    with Model(path) as model:
        for n_text in n_texts:
            line = {"kind": kind, "n_text": n_text, **changes(model, n_text)}
            print(json.dumps(line), flush=True)


def save_rows(path: str, out: str, n_text: str) -> None:
    """Write the logits of a text's last steps in a context of its own to a file of NumPy's."""
    text = text_of(int(n_text) + N_STEPS)
    with Model(path) as model, Context(model, n_ctx=1024, n_threads=1) as context:
        seq = context.prefill(text[: int(n_text)])
        np.save(out, _steps(context, seq, text[int(n_text) :]))


@contextmanager
def _child() -> Iterator[bool]:
    """Forks; the child ends at the end of the block, for an assertion ends its process alone."""
    child = os.fork()
    if child:
        yield False
        os.waitpid(child, 0)
        return
    try:
        yield True
    finally:
        os._exit(0)
