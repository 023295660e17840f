"""What a drawing writes on a node: token labels, made safe to print on one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from pytreellama.errors import TreeError
from pytreellama.tree.arrays import Int32Array, as_integers

Labels: TypeAlias = Callable[[int], str] | Sequence[str] | None
"""A function from token id to text, or one text a node, or None for the token ids themselves."""

OPEN_BOX = "\N{OPEN BOX}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def node_labels(tokens: Int32Array, labels: Labels) -> list[str]:
    """One printable, single-line label a node; TreeError where `labels` does not fit the tree."""
    if labels is None:
        return [str(token) for token in tokens.tolist()]
    if callable(labels):
        texts = [labels(token) for token in tokens.tolist()]
    elif isinstance(labels, str):
        raise TreeError("labels is one string; give a list with one label a node, or a function")
    elif not isinstance(labels, Iterable):
        raise TreeError(
            f"invalid labels of type {type(labels).__name__}: give a function of a token id, such "
            "as vocab.piece_text, or a list with one label a node"
        )
    else:
        texts = list(labels)
    if len(texts) != len(tokens):
        raise TreeError(f"{len(tokens)} nodes but {len(texts)} labels; give one a node")
    for node, text in enumerate(texts):
        if not isinstance(text, str):
            raise TreeError(f"the label of node {node} is {text!r}; a label is a string")
    return [visible(text) for text in texts]


def visible(text: str) -> str:
    """The text with nothing hidden: control characters as escapes, outer spaces as open boxes.

    Lone surrogates (from half a UTF-8 character) and whatever XML forbids are escaped as well.
    """
    if not text:
        return "(empty)"
    body = text.strip(" ")
    n_before = len(text) - len(text.lstrip(" "))
    n_after = len(text) - len(body) - n_before if body else 0
    return OPEN_BOX * n_before + "".join(map(_visible_character, body)) + OPEN_BOX * n_after


def _visible_character(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")


def shorten(text: str, n_characters: int) -> str:
    """The text, cut to at most `n_characters` with an ellipsis at the end."""
    return text if len(text) <= n_characters else text[: n_characters - 1] + ELLIPSIS


def accepted_nodes(accepted: Iterable[int], n_nodes: int) -> frozenset[int]:
    """The nodes to mark as accepted; TreeError if one of them is not in the tree."""
    nodes = accepted if isinstance(accepted, np.ndarray) else list(accepted)
    return frozenset(as_integers(nodes, "accepted", 0, n_nodes - 1).tolist())


def probability_text(p: float) -> str:
    """A probability in two significant digits."""
    return f"{p:.2g}"
