"""TokenTree: many continuations of one text, with shared prefixes stored once."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pytreellama.errors import TreeError, did_you_mean
from pytreellama.tree import layout, mask
from pytreellama.tree.arrays import (
    INT32_MAX,
    P_TOLERANCE,
    TRUNK,
    BoolArray,
    Float32Array,
    Int32Array,
    as_integers,
    as_parents,
    as_probabilities,
    as_tokens,
    as_vector,
    read_only,
)
from pytreellama.tree.draw_svg import draw_svg
from pytreellama.tree.draw_text import draw_text
from pytreellama.tree.labels import Labels

_LONGEST_FULL_REPR = 16
_DICT_KEYS = ("tokens", "parents", "p")


_ROOT_PARENTS = read_only(np.array([TRUNK], dtype=np.int32))
_ROOT_DEPTHS = read_only(np.zeros(1, dtype=np.int32))
_ROOT_P = read_only(np.ones(1, dtype=np.float32))


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class TokenTree:
    """An immutable tree of tokens that continues the committed text (the trunk).

    Nodes are in BFS order: parents come before children, and depth never falls. Children of one
    node carry different tokens. Several roots are allowed, and so is an empty tree.

    All arrays are read-only copies. Trees compare and hash by value, ``p`` included. The
    constructor is strict; the ``from_...`` methods sort nodes and merge equal siblings.

    Example:
        tree = TokenTree.from_paths([[11, 12, 13], [11, 14]])
        tree.parents                          # [-1, 0, 0, 1]
        logits = context.decode(tree, seq=seq).logits

    Attributes:
        tokens: int32, shape (n,), token ids.
        parents: int32, shape (n,), index of each node's parent, -1 for a root.
        p: float32, shape (n,), or None: the drafter's estimate of the probability that the whole
            path of a node is accepted. In [0, 1] and never above the parent's; rounding errors up
            to 1e-6 are corrected.
        depths: int32, shape (n,), 0 for a root.

    Raises:
        TreeError: the arrays do not form such a tree.
    """

    tokens: Int32Array
    parents: Int32Array
    p: Float32Array | None = None
    depths: Int32Array = field(init=False)
    _leaves: Int32Array | None = field(init=False)
    _families: tuple[Int32Array, npt.NDArray[np.intp]] | None = field(init=False)
    _child_of: dict[tuple[int, int], int] | None = field(init=False)

    def __init__(
        self, tokens: npt.ArrayLike, parents: npt.ArrayLike, p: npt.ArrayLike | None = None
    ) -> None:
        checked_tokens = as_tokens(tokens)
        checked_parents = as_parents(parents, len(checked_tokens))
        _check_parents_first(checked_parents)
        depths = layout.depths(checked_parents)
        _check_depth_never_falls(depths)
        _check_siblings_differ(checked_tokens, checked_parents)
        checked_p = None if p is None else _as_path_probabilities(p, checked_parents)
        self._fill(checked_tokens, checked_parents, checked_p, depths)

    def _fill(
        self, tokens: Int32Array, parents: Int32Array, p: Float32Array | None, depths: Int32Array
    ) -> None:
        self._set("tokens", read_only(tokens))
        self._set("parents", read_only(parents))
        self._set("p", None if p is None else read_only(p))
        self._set("depths", read_only(depths))
        self._set("_leaves", None)
        self._set("_families", None)
        self._set("_child_of", None)

    def _set(self, name: str, value: object) -> None:
        # The one way round `frozen`: construction, and caches that are functions of the fields.
        object.__setattr__(self, name, value)

    @classmethod
    def _of_valid(
        cls, tokens: Int32Array, parents: Int32Array, p: Float32Array | None, depths: Int32Array
    ) -> TokenTree:
        """A tree of arrays that are valid by the way they were made and belong to nobody else."""
        tree = object.__new__(cls)
        tree._fill(tokens, parents, p, depths)
        return tree

    @classmethod
    def _lone_root(cls, token: Int32Array, has_p: bool) -> TokenTree:
        """A tree of one node: plain decoding makes one for each token it writes."""
        return cls._of_valid(token, _ROOT_PARENTS, _ROOT_P if has_p else None, _ROOT_DEPTHS)

    # --- ways to make one -------------------------------------------------------------------

    @classmethod
    def empty(cls) -> TokenTree:
        """The tree without nodes."""
        return cls([], [])

    @classmethod
    def chain(cls, tokens: npt.ArrayLike, p: npt.ArrayLike | None = None) -> TokenTree:
        """A single path: each token is the only child of the one before.

        Args:
            tokens: integers, shape (n,).
            p: path probabilities, shape (n,), not rising.

        Raises:
            TreeError: invalid tokens or probabilities.
        """
        checked = as_tokens(tokens)
        return cls(checked, np.arange(-1, len(checked) - 1), p)

    @classmethod
    def from_parents(
        cls, tokens: npt.ArrayLike, parents: npt.ArrayLike, p: npt.ArrayLike | None = None
    ) -> TokenTree:
        """A tree of nodes in any order: sorted by depth, equal siblings merged.

        Within a level nodes keep the given order, so arrays in BFS order without equal siblings are
        unchanged.

        Args:
            tokens: integers, shape (n,).
            parents: integers, shape (n,): indices into the given order, -1 for a root.
            p: path probabilities, shape (n,); merged nodes keep the largest (see ``merge``).

        Raises:
            TreeError: a cycle, or invalid tokens or probabilities.
        """
        given_tokens = as_tokens(tokens)
        given_parents = as_parents(parents, len(given_tokens))
        given_p = None if p is None else _as_path_probabilities(p, given_parents)
        order = layout.bfs_order(given_parents)
        place = _inverse(order)
        ordered_tokens = given_tokens[order]
        ordered_parents = _renumber(given_parents[order], place)
        ordered_p = None if given_p is None else given_p[order]
        if len(_repeated_siblings(ordered_tokens, ordered_parents)):
            return _merge_siblings(ordered_tokens, ordered_parents, ordered_p)
        return cls._of_valid(
            ordered_tokens, ordered_parents, ordered_p, layout.depths(ordered_parents)
        )

    @classmethod
    def from_grown(
        cls, tokens: Sequence[int], parents: Sequence[int], p: Sequence[float]
    ) -> TokenTree:
        """A tree of nodes in the order in which a drafter grew them; sorted by depth.

        Like ``from_parents``, but faster for trees of some tens of nodes in lists. Within a level
        nodes keep the given order.

        Args:
            tokens: n token ids.
            parents: n indices of earlier nodes, -1 for a root.
            p: n path probabilities.

        Raises:
            TreeError: a parent that does not precede its node, equal siblings, negative tokens, or
                probabilities that rise or are not in [0, 1].
        """
        depths: list[int] = []
        bounded: list[float] = []
        for node, (parent, p_node) in enumerate(zip(parents, p, strict=True)):
            if not TRUNK <= parent < node:
                raise TreeError(f"parents[{node}] is {parent}; a parent comes before its nodes")
            above = bounded[parent] if parent >= 0 else 1.0
            if not -P_TOLERANCE <= p_node <= above + P_TOLERANCE:
                raise TreeError(f"p[{node}] is {p_node}; allowed is 0..{above}, its parent's")
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
            bounded.append(min(max(p_node, 0.0), above))
        if len(set(zip(parents, tokens, strict=True))) < len(depths):
            raise TreeError("two children of one node carry the same token; merge them")
        if depths and min(tokens) < 0:
            raise TreeError(f"token {min(tokens)} was given; token ids are not negative")
        order = sorted(range(len(depths)), key=depths.__getitem__)
        place = [TRUNK] * (len(order) + 1)  # the last one is that of TRUNK itself
        for new, old in enumerate(order):
            place[old] = new
        return cls._of_valid(
            np.array([tokens[old] for old in order], np.int32),
            np.array([place[parents[old]] for old in order], np.int32),
            np.array([bounded[old] for old in order], np.float32),
            np.array([depths[old] for old in order], np.int32),
        )

    @classmethod
    def from_paths(cls, paths: Iterable[Iterable[int]]) -> TokenTree:
        """The smallest tree that contains all paths of token ids; equal prefixes are merged.

        Levels are numbered from left to right, siblings in the order of their first occurrence.
        ``TokenTree.from_paths(tree.paths())`` gives the same nodes again.

        Raises:
            TreeError: something that is not a token id.
        """
        tokens: list[int] = []
        parents: list[int] = []
        child_of: dict[tuple[int, int], int] = {}
        # A Python loop, one dictionary look-up a given token: paths are lists, not arrays.
        for path in paths:
            node = TRUNK
            for token in _as_path(path):
                child = child_of.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                node = child
        checked_tokens = as_tokens(tokens, "the paths' tokens")
        checked_parents = as_parents(parents)
        left_to_right = layout.dfs_order(checked_parents)
        return cls.from_parents(
            checked_tokens[left_to_right],
            _renumber(checked_parents[left_to_right], _inverse(left_to_right)),
        )

    @classmethod
    def from_choices(
        cls,
        choices: Iterable[Sequence[int]],
        top_k_tokens: npt.ArrayLike,
        top_k_p: npt.ArrayLike | None = None,
    ) -> TokenTree:
        """A tree of fixed shape, filled with the top tokens of each head, as in Medusa.

        Source: Medusa, Cai et al. 2024 (arXiv 2401.10774), "sparse tree".

        Args:
            choices: tuples of ranks; (0, 2) is the third best token of head 1 below the best token
                of head 0. Each prefix of a choice must be a choice too.
            top_k_tokens: integers, shape (n_heads, k), best first: row d fills depth d.
            top_k_p: probabilities of those tokens, same shape; products down a path become ``p``.

        Raises:
            TreeError: ranks or depths beyond the table, or a missing prefix.
        """
        table, p_table = _as_top_k(top_k_tokens, top_k_p)
        # Shortest first: a parent is numbered before its children. One step a distinct choice.
        shape = sorted(dict.fromkeys(map(_as_choice, choices)), key=len)
        node_of = {choice: node for node, choice in enumerate(shape)}
        for choice in shape:
            _check_choice(choice, node_of, table.shape)
        heads = np.array([len(choice) - 1 for choice in shape], np.int64)
        ranks = np.array([choice[-1] for choice in shape], np.int64)
        parents = np.array([node_of.get(choice[:-1], TRUNK) for choice in shape], np.int32)
        p = None if p_table is None else _products_along_paths(p_table[heads, ranks], parents)
        return cls.from_parents(table[heads, ranks], parents, p)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenTree:
        """The tree that ``to_dict`` wrote.

        Raises:
            TreeError: missing or unknown keys, wrong order, or invalid values.
        """
        if not isinstance(data, Mapping):
            raise TreeError(f"a tree is read from a mapping, not from {type(data).__name__}")
        missing = [key for key in _DICT_KEYS[:2] if key not in data]
        unknown = [key for key in data if key not in _DICT_KEYS]
        if missing or unknown:
            raise TreeError(
                f"invalid tree: expected the keys tokens, parents and optionally p; "
                f"missing: {missing}, unknown: {unknown}"
                f"{did_you_mean(unknown[0], _DICT_KEYS) if unknown else ''}"
            )
        return cls(data["tokens"], data["parents"], data.get("p"))

    def to_dict(self) -> dict[str, list[int] | list[float]]:
        """Plain lists under ``tokens``, ``parents`` and, if there are probabilities, ``p``."""
        data: dict[str, list[int] | list[float]] = {
            "tokens": self.tokens.tolist(),
            "parents": self.parents.tolist(),
        }
        if self.p is not None:
            data["p"] = _shortest_decimals(self.p)
        return data

    # --- what it holds ----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.tokens)

    @property
    def n_leaves(self) -> int:
        """Number of nodes without children."""
        return len(self.leaves)

    @property
    def n_levels(self) -> int:
        """Length of the longest path in nodes; 0 for the empty tree."""
        return int(self.depths[-1]) + 1 if len(self) else 0

    @property
    def leaves(self) -> Int32Array:
        """Nodes without children from left to right (depth first), int32[n_leaves], read-only.

        The k-th leaf is the end of ``paths()[k]`` and number k in ``mask.sequence_sets``.
        """
        if self._leaves is None:
            self._set("_leaves", read_only(mask.leaves(self.parents)))
        assert self._leaves is not None
        return self._leaves

    @property
    def roots(self) -> Int32Array:
        """Nodes that continue the trunk, int32[n_roots], read-only."""
        return self.children(TRUNK)

    def child(self, node: int, token: int) -> int | None:
        """The child of ``node`` (-1 for the trunk) that carries ``token``, or None.

        O(1) after the first call on a tree.

        Raises:
            TreeError: no such node.
        """
        self._check_node(node)
        if self._child_of is None:
            family = zip(self.parents.tolist(), self.tokens.tolist(), strict=True)
            self._set("_child_of", dict(zip(family, range(len(self)), strict=True)))
        assert self._child_of is not None
        return self._child_of.get((node, token))

    def children(self, node: int) -> Int32Array:
        """Children of `node` (-1: of the trunk) by rising index, int32[k], read-only. TreeError."""
        self._check_node(node)
        if self._families is None:
            by_parent = np.argsort(self.parents, kind="stable").astype(np.int32)
            starts = np.searchsorted(self.parents[by_parent], np.arange(TRUNK, len(self) + 1))
            self._set("_families", (read_only(by_parent), read_only(starts)))
        assert self._families is not None
        members, bounds = self._families
        return members[bounds[node + 1] : bounds[node + 2]]

    def path(self, node: int) -> Int32Array:
        """Node indices from the root down to `node`, int32[depth + 1]; empty for -1. TreeError."""
        self._check_node(node)
        path = np.empty(int(self.depths[node]) + 1 if node >= 0 else 0, np.int32)
        for level in range(len(path) - 1, -1, -1):
            path[level] = node
            node = int(self.parents[node])
        return path

    def paths(self) -> list[list[int]]:
        """Token ids from the root to each leaf, in the order of `leaves`."""
        return [self.tokens[self.path(leaf)].tolist() for leaf in self.leaves.tolist()]

    def ancestor_mask(self) -> BoolArray:
        """bool[n, n]: row i sees column j when j is i or an ancestor of i. See `mask`."""
        return mask.ancestor_mask(self.parents)

    def nodes_by_p(self) -> Int32Array:
        """Nodes in falling path probability, ties and trees without p in BFS order, int32[n].

        Each prefix of this order is a valid tree, because p never rises with depth.
        """
        if self.p is None:
            return np.arange(len(self), dtype=np.int32)
        return np.argsort(-self.p, kind="stable").astype(np.int32)

    # --- new trees from it ------------------------------------------------------------------

    def merge(self, other: TokenTree) -> TokenTree:
        """The union of the paths of both trees, on the same trunk.

        This tree's nodes come first within each level. A path in both keeps the larger ``p``.

        Raises:
            TreeError: one tree has probabilities and the other, not empty, has none.
        """
        if not isinstance(other, TokenTree):
            raise TreeError(f"merge takes a TokenTree, not {type(other).__name__}")
        if not len(other):
            return self
        if not len(self):
            return other
        below = np.where(other.parents < 0, TRUNK, other.parents + np.int32(len(self)))
        return TokenTree.from_parents(
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.parents, below]),
            _joined_p(self.p, other.p),
        )

    def prune(self, keep: npt.ArrayLike) -> TokenTree:
        """The tree of the kept nodes; a node that is dropped takes its subtree along.

        Args:
            keep: bool, shape (n,), or node indices. The kept nodes stay in order.

        Raises:
            TreeError: a mask of another length, or indices out of range.
        """
        kept = self._as_node_mask(keep)
        n_dropped_above = layout.sums_along_paths(self.parents, (~kept).astype(np.int64))
        return self._take(np.flatnonzero(n_dropped_above == 0))

    def truncate(self, n_nodes: int) -> TokenTree:
        """The ``n_nodes`` nodes with the highest path probability, or the tree itself.

        Ties and trees without ``p`` go in BFS order; see ``nodes_by_p``.

        Raises:
            TreeError: ``n_nodes`` is negative.
        """
        if n_nodes < 0:
            raise TreeError(f"cannot truncate to {n_nodes} nodes; give 0 or more")
        if n_nodes >= len(self):
            return self
        return self._take(np.sort(self.nodes_by_p()[:n_nodes]))

    def with_root(self, token: int) -> TokenTree:
        """A tree with the root ``token``, node 0, above this tree's roots.

        Node i becomes node i + 1. The new root's ``p`` is 1: in speculation it is the last accepted
        token.

        Raises:
            TreeError: a negative token.
        """
        if len(self) == 0:
            return TokenTree._lone_root(as_tokens([token], "the root's token"), self.p is not None)
        p = None if self.p is None else np.append(np.float32(1), self.p)
        return TokenTree._of_valid(
            np.append(as_tokens([token], "the root's token"), self.tokens),
            np.append(np.int32(TRUNK), self.parents + np.int32(1)),
            p,
            np.append(np.int32(0), self.depths + np.int32(1)),
        )

    def with_p(self, p: npt.ArrayLike | None) -> TokenTree:
        """The same nodes with other path probabilities, shape (n,), or with none. TreeError."""
        checked = None if p is None else _as_path_probabilities(p, self.parents)
        return TokenTree._of_valid(self.tokens, self.parents, checked, self.depths)

    # --- how it looks -----------------------------------------------------------------------

    def to_text(
        self, labels: Labels = None, accepted: Iterable[int] = (), *, colour: bool = False
    ) -> str:
        """Draw the tree with box characters, one line per node; arguments as for ``draw_text``."""
        return draw_text(
            self.tokens, self.parents, self.p, labels=labels, accepted=accepted, colour=colour
        )

    def to_svg(
        self, labels: Labels = None, accepted: Iterable[int] = (), *, title: str | None = None
    ) -> str:
        """Draw the tree as a standalone SVG; arguments as for ``draw_svg``."""
        return draw_svg(
            self.tokens, self.parents, self.p, labels=labels, accepted=accepted, title=title
        )

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def __repr__(self) -> str:
        if len(self) <= _LONGEST_FULL_REPR:
            p = "" if self.p is None else f", p={_shortest_decimals(self.p)}"
            return f"TokenTree({self.tokens.tolist()}, {self.parents.tolist()}{p})"
        return (
            f"<TokenTree: {self.n_nodes} nodes, {self.n_leaves} leaves,"
            f" {len(self.roots)} roots, {self.n_levels} levels>"
        )

    # --- value semantics --------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenTree):
            return NotImplemented
        return (
            np.array_equal(self.tokens, other.tokens)
            and np.array_equal(self.parents, other.parents)
            and _equal_p(self.p, other.p)
        )

    def __hash__(self) -> int:
        p_bytes = None if self.p is None else self.p.tobytes()
        return hash((self.tokens.tobytes(), self.parents.tobytes(), p_bytes))

    def __reduce__(self) -> tuple[type[TokenTree], tuple[Any, ...]]:
        # Through the constructor: NumPy's own pickling would bring the arrays back writeable.
        return TokenTree, (self.tokens, self.parents, self.p)

    # --- inside -----------------------------------------------------------------------------

    def _check_node(self, node: int) -> None:
        if not TRUNK <= operator.index(node) < len(self):
            raise TreeError(
                f"node {node} is not in this tree; nodes are 0..{len(self) - 1}, the trunk is -1"
            )

    def _as_node_mask(self, keep: npt.ArrayLike) -> BoolArray:
        array = as_vector(keep, "keep")
        if array.dtype == np.bool_ and len(array) != len(self):
            raise TreeError(f"keep masks {len(array)} nodes, but the tree has {len(self)}")
        kept: BoolArray = np.zeros(len(self), np.bool_)
        if array.dtype == np.bool_:
            kept |= array
            return kept
        kept[as_integers(array, "keep", 0, len(self) - 1)] = True
        return kept

    def _take(self, nodes: npt.NDArray[np.intp] | Int32Array) -> TokenTree:
        """The tree of these nodes: rising, and each with its parent."""
        place = np.empty(len(self), np.int32)
        place[nodes] = np.arange(len(nodes), dtype=np.int32)
        return TokenTree._of_valid(
            self.tokens[nodes],
            _renumber(self.parents[nodes], place),
            None if self.p is None else self.p[nodes],
            self.depths[nodes],
        )


def _check_parents_first(parents: Int32Array) -> None:
    late = np.flatnonzero(parents >= np.arange(len(parents)))
    if late.size:
        node = int(late[0])
        raise TreeError(
            f"node {node} has parent {int(parents[node])}, which does not come before it;"
            " TokenTree.from_parents accepts nodes in any order"
        )


def _check_depth_never_falls(depths: Int32Array) -> None:
    falls = np.flatnonzero(np.diff(depths) < 0)
    if falls.size:
        node = int(falls[0]) + 1
        raise TreeError(
            f"node {node} has depth {int(depths[node])} after one of depth {int(depths[node - 1])};"
            " nodes stand in BFS order: TokenTree.from_parents sorts them"
        )


def _check_siblings_differ(tokens: Int32Array, parents: Int32Array) -> None:
    repeated = _repeated_siblings(tokens, parents)
    if len(repeated):
        node = int(repeated[0])
        raise TreeError(
            f"node {node} repeats token {int(tokens[node])} among the children of node"
            f" {int(parents[node])}; TokenTree.from_parents merges equal siblings"
        )


def _repeated_siblings(tokens: Int32Array, parents: Int32Array) -> npt.NDArray[np.intp]:
    """Nodes, sorted by key, whose parent has an earlier child with the same token."""
    keys = (parents.astype(np.int64) + 1) * (INT32_MAX + 1) + tokens
    by_key = np.argsort(keys, kind="stable")
    is_repeat: BoolArray = np.diff(keys[by_key]) == 0
    return by_key[1:][is_repeat]


def _merge_siblings(tokens: Int32Array, parents: Int32Array, p: Float32Array | None) -> TokenTree:
    """The tree of nodes in BFS order, with equal siblings (and then their children) made one."""
    kept_of: list[int] = []
    node_of: dict[tuple[int, int], int] = {}
    # Only a parent's merger tells whether its children are siblings, so levels depend on each
    # other: one dictionary look-up a node, and only for trees that have equal siblings at all.
    for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True):
        above = kept_of[parent] if parent >= 0 else TRUNK
        kept_of.append(node_of.setdefault((above, token), len(node_of)))
    merged = np.array([(token, parent) for parent, token in node_of], np.int32).reshape(-1, 2)
    merged_parents = merged[:, 1].copy()
    merged_p = None
    if p is not None:
        # The maximum, not 1 - (1 - p1)(1 - p2): that counts the estimates as independent chances,
        # but two drafters that guess the same path are two opinions about one event, mostly
        # formed from the same text. The larger is a bound that the union cannot fall below.
        merged_p = np.zeros(len(node_of), np.float32)
        np.maximum.at(merged_p, np.array(kept_of), p)
    return TokenTree._of_valid(
        merged[:, 0].copy(), merged_parents, merged_p, layout.depths(merged_parents)
    )


def _as_path_probabilities(p: npt.ArrayLike, parents: Int32Array) -> Float32Array:
    """p checked against the parents, and lowered to the parent's where rounding made it higher."""
    checked = as_probabilities(p, len(parents))
    bounded = layout.minima_along_paths(parents, checked)
    rising = np.flatnonzero(checked > bounded + P_TOLERANCE)
    if rising.size:
        node = int(rising[0])
        raise TreeError(
            f"p[{node}] is {checked[node]}, higher than {bounded[node]} above it; p is the"
            " probability of the whole path: multiply each node's own by its parent's"
        )
    return bounded


def _joined_p(p: Float32Array | None, other_p: Float32Array | None) -> Float32Array | None:
    if p is None and other_p is None:
        return None
    if p is None or other_p is None:
        raise TreeError(
            "one tree has path probabilities and the other has none, so they cannot be ranked"
            " together; give both p, or drop it with tree.with_p(None)"
        )
    return np.concatenate([p, other_p])


def _as_path(path: Iterable[int]) -> Iterable[int]:
    if isinstance(path, np.ndarray):
        return list(as_tokens(path, "path").tolist())
    try:
        return [operator.index(token) for token in path]
    except TypeError as error:
        raise TreeError(
            f"{path!r} is not a path of token ids ({error});"
            " paths are sequences of integers, and one path alone is TokenTree.chain(tokens)"
        ) from error


def _as_choice(choice: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(rank) for rank in choice)
    except TypeError as error:
        raise TreeError(f"choice {choice!r} is not a tuple of ranks such as (0, 2)") from error


def _check_choice(
    choice: tuple[int, ...], node_of: Mapping[tuple[int, ...], int], shape: tuple[int, ...]
) -> None:
    n_heads, k = shape
    if not choice:
        raise TreeError("choice () is the trunk itself; leave it out")
    if len(choice) > n_heads:
        raise TreeError(f"choice {choice} is {len(choice)} deep, but there are {n_heads} heads")
    if not 0 <= choice[-1] < k:
        raise TreeError(f"choice {choice} has rank {choice[-1]}; allowed is 0..{k - 1}")
    if len(choice) > 1 and choice[:-1] not in node_of:
        raise TreeError(f"choice {choice} needs its prefix {choice[:-1]} among the choices; add it")


def _as_top_k(
    top_k_tokens: npt.ArrayLike, top_k_p: npt.ArrayLike | None
) -> tuple[Int32Array, npt.NDArray[np.float64] | None]:
    try:
        table = np.asarray(top_k_tokens)
        p_table = None if top_k_p is None else np.asarray(top_k_p, np.float64)
    except (ValueError, TypeError) as error:
        raise TreeError(f"top_k_tokens or top_k_p cannot be read as a table: {error}") from error
    if table.ndim != 2:
        raise TreeError(f"top_k_tokens has shape {table.shape}; give (n_heads, k)")
    if p_table is None:
        return as_tokens(table.ravel(), "top_k_tokens").reshape(table.shape), None
    if p_table.shape != table.shape:
        raise TreeError(f"top_k_p has shape {p_table.shape}, but top_k_tokens {table.shape}")
    if not ((p_table >= 0) & (p_table <= 1)).all():
        raise TreeError("top_k_p holds a number that is no probability; allowed is 0..1")
    return as_tokens(table.ravel(), "top_k_tokens").reshape(table.shape), p_table


def _products_along_paths(
    p: npt.NDArray[np.float64], parents: Int32Array
) -> npt.NDArray[np.float64]:
    """Product of each node's own probability and all above it; parents come before children."""
    products: npt.NDArray[np.float64] = p.copy()
    for node in np.flatnonzero(parents >= 0).tolist():
        products[node] *= products[parents[node]]
    return products


def _renumber(parents: Int32Array, place: Int32Array) -> Int32Array:
    """Parents in another numbering: node i is now `place[i]`."""
    renumbered: Int32Array = parents.copy()
    inner = parents >= 0
    renumbered[inner] = place[parents[inner]]
    return renumbered


def _inverse(order: Int32Array) -> Int32Array:
    place: Int32Array = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place


def _shortest_decimals(p: Float32Array) -> list[float]:
    """The shortest decimals that read back as the same float32."""
    return [float(decimal) for decimal in p.astype(np.str_)]


def _equal_p(p: Float32Array | None, other_p: Float32Array | None) -> bool:
    if p is None or other_p is None:
        return p is other_p
    return np.array_equal(p, other_p)
