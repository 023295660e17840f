"""hypothesis strategies for random token trees, shared by every test that needs one."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from pytreellama.draft import SuffixOptions
from pytreellama.tree import TokenTree


@st.composite
def parent_lists(
    draw: st.DrawFn, min_nodes: int = 0, max_nodes: int = 40, max_roots: int | None = None
) -> list[int]:
    """Parents of a random forest, each before its children, in no particular order of depth.

    A parent is drawn as a distance back, so that shrinking leads to chains.
    """
    n_nodes = draw(st.integers(min_nodes, max_nodes))
    parents: list[int] = []
    n_roots = 0
    for node in range(n_nodes):
        may_be_root = max_roots is None or n_roots < max_roots
        back = draw(st.integers(1, node + 1 if may_be_root or not node else node))
        parents.append(node - back)
        n_roots += back == node + 1
    return parents


@st.composite
def path_probabilities(draw: st.DrawFn, parents: list[int]) -> list[float]:
    """Probabilities that never rise with depth; parents come before their children."""
    p: list[float] = []
    for parent in parents:
        own = draw(st.sampled_from([1.0, 0.9, 0.5, 0.3, 0.01]))
        p.append(own * (p[parent] if parent >= 0 else 1.0))
    return p


@st.composite
def token_trees(
    draw: st.DrawFn,
    min_nodes: int = 0,
    max_nodes: int = 40,
    max_roots: int | None = None,
    n_vocab: int = 64,
    with_p: bool | None = False,
) -> TokenTree:
    """A random tree with token ids below `n_vocab`.

    `with_p`: whether it carries path probabilities; None leaves that to chance. Siblings that drew
    the same token are merged, so a tree may have fewer than `min_nodes` nodes, but at least one.
    """
    parents = draw(parent_lists(min_nodes, max_nodes, max_roots))
    token = st.integers(0, n_vocab - 1)
    tokens = draw(st.lists(token, min_size=len(parents), max_size=len(parents)))
    carries_p = draw(st.booleans()) if with_p is None else with_p
    p = draw(path_probabilities(parents)) if carries_p else None
    return TokenTree.from_parents(tokens, parents, p)


@st.composite
def shuffled_trees(
    draw: st.DrawFn, n_vocab: int = 64
) -> tuple[TokenTree, list[int], list[int], list[float]]:
    """A tree with p, and its tokens, parents and p with the nodes in any order."""
    tree = draw(token_trees(n_vocab=n_vocab, with_p=True))
    assert tree.p is not None
    order = draw(st.permutations(range(len(tree))))
    place = {node: index for index, node in enumerate(order)}
    parents = [place.get(int(tree.parents[node]), -1) for node in order]
    nodes = np.array(order, np.int64)
    return tree, tree.tokens[nodes].tolist(), parents, tree.p[nodes].tolist()


def path_to(parents: list[int], node: int) -> list[int]:
    """The nodes from a root down to `node`; of -1, none."""
    path: list[int] = []
    while node >= 0:
        path.insert(0, node)
        node = parents[node]
    return path


def node_paths(tree: TokenTree) -> dict[tuple[int, ...], float | None]:
    """Each node's token path with its p: what a tree says, whatever the order of its nodes."""
    paths: dict[tuple[int, ...], float | None] = {}
    for node in range(len(tree)):
        p = None if tree.p is None else float(tree.p[node])
        paths[tuple(tree.tokens[tree.path(node)].tolist())] = p
    return paths


@st.composite
def texts_of_pieces(draw: st.DrawFn, highest: tuple[int, int], max_size: int) -> list[int]:
    """Tokens up to one that is drawn from `highest`; half of the texts of repeated pieces."""
    letters = st.integers(0, draw(st.integers(*highest)))
    if draw(st.booleans()):
        return draw(st.lists(letters, max_size=max_size))
    pieces = draw(st.lists(st.lists(letters, min_size=1, max_size=6), min_size=1, max_size=3))
    picked = draw(st.lists(st.sampled_from(pieces), max_size=max_size // 6))
    return [token for piece in picked for token in piece]


suffix_options = st.builds(
    SuffixOptions,
    min_match=st.integers(1, 3),
    max_match=st.integers(3, 8),
    max_depth=st.integers(1, 6),
    max_fanout=st.integers(1, 4),
    min_p=st.sampled_from([0.0, 0.05, 0.3]),
)
