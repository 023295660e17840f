"""A tree as lines of text with box characters, for terminals, logs and docstrings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pytreellama.tree.arrays import BoolArray, Float32Array, Int32Array
from pytreellama.tree.labels import Labels, accepted_nodes, node_labels, probability_text
from pytreellama.tree.layout import dfs_order

ACCEPTED_MARK = "\N{CHECK MARK}"
_ANSI_ACCEPTED = "\x1b[1;32m"
_ANSI_RESET = "\x1b[0m"


def draw_text(
    tokens: Int32Array,
    parents: Int32Array,
    p: Float32Array | None = None,
    *,
    labels: Labels = None,
    accepted: Iterable[int] = (),
    colour: bool = False,
) -> str:
    """The tree as text, a line a node, depth first below a line for the trunk.

    Arrays are those of a valid TokenTree. `labels` is a function from token id to text or a
    sequence of one text a node; `accepted` lists nodes to mark with a check. `colour` paints those
    with ANSI codes. Raises TreeError where labels or accepted nodes do not fit the tree.
    """
    texts = node_labels(tokens, labels)
    marked = accepted_nodes(accepted, len(tokens))
    if not texts:
        return "trunk (no nodes)"
    is_youngest = _is_youngest_sibling(parents)
    indents = [""] * len(texts)
    lines = ["trunk"]
    for node in dfs_order(parents).tolist():
        parent = int(parents[node])
        if parent >= 0:
            indents[node] = indents[parent] + ("   " if is_youngest[parent] else "│  ")
        line = texts[node]
        if p is not None:
            line += f"  p={probability_text(float(p[node]))}"
        if node in marked:
            line += f"  {ACCEPTED_MARK}"
        if colour and node in marked:
            line = f"{_ANSI_ACCEPTED}{line}{_ANSI_RESET}"
        lines.append(f"{indents[node]}{'└─' if is_youngest[node] else '├─'} {line}")
    return "\n".join(lines)


def _is_youngest_sibling(parents: Int32Array) -> BoolArray:
    by_parent = np.argsort(parents, kind="stable")
    youngest = np.empty(len(parents), np.bool_)
    youngest[by_parent] = np.append(np.diff(parents[by_parent]) != 0, True)
    return youngest
