"""The table of the recycling drafter: likeliest successors behind one, two and three tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft.files import load_arrays, save_arrays
from pytreellama.draft.protocol import Float32Array, Int32Array
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree

MAX_ORDER: Final = 3
"""Tokens of the longest context."""

_KIND = "a table of successors"
_KEY_BITS = 21  # three ids in one key; no vocabulary has two million tokens
_MAX_TOKEN = (1 << _KEY_BITS) - 1
_NO_TOKEN = -1

# classes of a successor's share of what its row kept: their bounds, and what to take them for
_SHARE_BOUNDS = np.array([0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99], np.float32)
_SHARES = np.array([0.005, 0.02, 0.05, 0.1, 0.22, 0.4, 0.6, 0.77, 0.9, 0.97, 0.995])

# Until told otherwise, this much of a share is believed: by the length of the context that the row
# was found under, then the same where a longer context had a row as well.
_PRIOR_TRUST = np.array([[0.35, 0.6, 0.75], [0.1, 0.2, 0.3]])
_PRIOR_WEIGHT = 6.0
_N_PRIOR_RIGHT = _PRIOR_WEIGHT * _PRIOR_TRUST[:, :, None] * _SHARES
_DECAY = 0.999  # a token; of what was counted a thousand tokens ago, a third is left

Row = tuple[list[int], list[int]]
"""Tokens, and the class of each one's share."""


class SuccessorTable:
    """Rows of successors by context, and how often successors of each kind came true.

    A row that was computed behind the same three tokens says more than one behind the same last
    one. How much more is learned: by length of context and class of share, the table counts how
    often such a successor was the text's next token.

    Args:
        max_entries: contexts of each length that are remembered; of more, the oldest go.
    """

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._rows: list[dict[int, Row]] = [{} for _ in range(MAX_ORDER)]  # by length - 1
        shape = (*_PRIOR_TRUST.shape, len(_SHARES))
        self._n_seen: NDArray[np.float64] = np.zeros(shape)
        self._n_right: NDArray[np.float64] = np.zeros(shape)
        self._estimate()

    def __len__(self) -> int:
        """Contexts of all lengths."""
        return sum(map(len, self._rows))

    # -- what it knows

    def learn(
        self, before: tuple[int, ...], tree: TokenTree, tokens: Int32Array, logits: Float32Array
    ) -> None:
        """Keep the successors of every node of a pass.

        Args:
            before: the text before node 0; its last two tokens matter.
            tree: with one root.
            tokens, logits: of each node's successors, falling, shape (n_nodes, k).
        """
        if int(tree.tokens.max()) > _MAX_TOKEN:
            return
        shares = np.exp(logits - logits[:, :1])
        shares /= shares.sum(axis=1, keepdims=True)
        classes = np.searchsorted(_SHARE_BOUNDS, shares)
        rows = list(zip(tokens.tolist(), classes.tolist(), strict=True))
        for of_length, keys in zip(self._rows, _keys_of_nodes(before, tree), strict=True):
            for key, row in zip(keys, rows, strict=True):
                if key >= 0:
                    of_length.pop(key, None)  # so that it counts as the newest
                    of_length[key] = row
            self._forget_oldest(of_length)

    def _forget_oldest(self, of_length: dict[int, Row]) -> None:
        while len(of_length) > self.max_entries:
            del of_length[next(iter(of_length))]

    def successors(self, context: tuple[int, ...], min_p: float = 0.0) -> list[tuple[int, float]]:
        """What may follow, with estimated probabilities, which sum to no more than 1.

        Longer contexts come first; shorter ones add what those do not have. What is less likely
        than `min_p` is left out.
        """
        found: list[tuple[int, float]] = []
        known: set[int] = set()
        left = 1.0
        for length, row in self._rows_behind(context):
            estimates = self._estimates[bool(known)][length]
            for token, share in zip(*row, strict=True):
                if token not in known:
                    known.add(token)
                    p = estimates[share]
                    p = p if p < left else left
                    left -= p
                    if p >= min_p:
                        found.append((token, p))
        return found

    def _rows_behind(self, context: tuple[int, ...]) -> Iterator[tuple[int, Row]]:
        """The row under each length of context, less 1; the longest first."""
        for length in range(min(len(context), MAX_ORDER) - 1, -1, -1):
            row = self._rows[length].get(_key(context[-1 - length :]))
            if row is not None:
                yield length, row

    # -- how far to believe it

    def judge(self, text: tuple[int, ...], went_on: tuple[int, ...]) -> None:
        """Count which successors were right along the tokens that the text went on with.

        To be called before `learn` takes in the pass that they came from.
        """
        context = text
        for token in went_on:
            self._judge_one(context, token)
            context = (*context[1 - MAX_ORDER :], token)
        keep = _DECAY ** len(went_on)
        self._n_seen *= keep
        self._n_right *= keep
        self._estimate()

    def _judge_one(self, context: tuple[int, ...], actual: int) -> None:
        known: set[int] = set()
        for length, row in self._rows_behind(context):
            backed_off = int(bool(known))
            for token, share in zip(*row, strict=True):
                if token not in known:
                    known.add(token)
                    self._n_seen[backed_off, length, share] += 1
                    self._n_right[backed_off, length, share] += token == actual

    def _estimate(self) -> None:
        p = (_N_PRIOR_RIGHT + self._n_right) / (_PRIOR_WEIGHT + self._n_seen)
        self._estimates: list[list[list[float]]] = p.tolist()

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, which is replaced only when all is written."""
        arrays: dict[str, NDArray[np.generic]] = {"seen": self._n_seen, "right": self._n_right}
        for length, rows in enumerate(self._rows):
            k = max((len(tokens) for tokens, _ in rows.values()), default=0)
            arrays[f"keys{length}"] = np.fromiter(rows, np.int64, len(rows))
            for name, part in (("tokens", 0), ("shares", 1)):
                padded = [row[part] + [_NO_TOKEN] * (k - len(row[part])) for row in rows.values()]
                arrays[f"{name}{length}"] = np.array(padded, np.int32).reshape(len(rows), k)
        save_arrays(path, _KIND, arrays)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take what `save` wrote in place of what is known. Raises DraftError; nothing changed."""
        arrays = load_arrays(path, _KIND)
        try:
            rows = [_rows_from(arrays, length) for length in range(MAX_ORDER)]
            n_seen, n_right = arrays["seen"], arrays["right"]
        except (KeyError, ValueError) as error:
            raise DraftError(f"{path} does not hold {_KIND} of this version: {error}") from error
        if n_seen.shape != self._n_seen.shape or n_right.shape != self._n_seen.shape:
            raise DraftError(f"{path} does not hold {_KIND} of this version")
        self._rows = rows
        self._n_seen, self._n_right = n_seen.astype(np.float64), n_right.astype(np.float64)
        for of_length in self._rows:
            self._forget_oldest(of_length)
        self._estimate()


def _key(context: tuple[int, ...]) -> int:
    key = 0
    for token in context:
        key = key << _KEY_BITS | token
    return key


def _keys_of_nodes(before: tuple[int, ...], tree: TokenTree) -> list[list[int]]:
    """By length of context, the key of each node's path; negative where the text is too short."""
    n_nodes = len(tree)
    # behind the nodes stand the tokens before the tree, as ancestors of its root
    trunk = [_NO_TOKEN] * MAX_ORDER + list(before)
    tokens = np.concatenate([tree.tokens, trunk[: -1 - MAX_ORDER : -1]]).astype(np.int64)
    parents = np.arange(1, len(tokens) + 1)
    parents[:n_nodes] = np.where(tree.parents < 0, n_nodes, tree.parents)
    node, key = np.arange(n_nodes), np.zeros(n_nodes, np.int64)
    keys = []
    for length in range(MAX_ORDER):
        token = tokens[node]
        key = np.where((key < 0) | (token < 0), -1, key | token << _KEY_BITS * length)
        keys.append(key.tolist())
        node = parents[node]
    return keys


def _rows_from(arrays: dict[str, NDArray[np.generic]], length: int) -> dict[int, Row]:
    keys, tokens, shares = (arrays[f"{name}{length}"] for name in ("keys", "tokens", "shares"))
    if tokens.shape != shares.shape or len(tokens) != len(keys) or tokens.ndim != 2:
        raise ValueError("arrays do not fit together")
    if shares.size and not (shares.min() >= _NO_TOKEN and shares.max() < len(_SHARES)):
        raise ValueError("unknown classes of shares")
    n_known = (tokens != _NO_TOKEN).sum(axis=1).tolist()
    columns = zip(keys.tolist(), tokens.tolist(), shares.tolist(), n_known, strict=True)
    return {key: (row[:n], classes[:n]) for key, row, classes, n in columns}
