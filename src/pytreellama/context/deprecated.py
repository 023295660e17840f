"""The names that ``Context`` had before its outputs and sequences became objects.

Each works for one release and warns. Type checkers do not see them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytreellama.errors import MemoryStateError

if TYPE_CHECKING:
    from pytreellama.context.batch import Batch
    from pytreellama.context.context import Context
    from pytreellama.context.outputs import Float32
    from pytreellama.tree import TokenTree


class DeprecatedNames:
    """Looks up what ``Context`` itself no longer has."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The old attribute; ``AttributeError`` if there never was one."""
            if name not in MOVED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            new, look_up = MOVED[name]
            warnings.warn(
                f"Context.{name} is deprecated and goes with the next release; use Context.{new}",
                DeprecationWarning,
                stacklevel=2,
            )
            return look_up(self)


def _decode_one(context: Context) -> Callable[[int, int], None]:
    def decode_one(seq: int, token: int) -> None:
        context.decode(token, seq=seq)

    return decode_one


def _decode_tree(context: Context) -> Callable[[int, TokenTree], Float32]:
    def decode_tree(seq: int, tree: TokenTree) -> Float32:
        return context.decode(tree, seq=seq).logits

    return decode_tree


def _decode_one_tree(context: Context) -> Callable[[int, TokenTree], None]:
    def decode_one_tree(seq: int, tree: TokenTree) -> None:
        context.decode(tree, seq=seq)

    return decode_one_tree


def _decode_trees(context: Context) -> Callable[[Batch, Sequence[int]], None]:
    def decode_trees(batch: Batch, seqs: Sequence[int]) -> None:
        for seq in seqs:
            if seq not in batch.tree_sequences:
                raise MemoryStateError(f"sequence {seq} has no nodes in this batch; use place")
        context.decode(batch)

    return decode_trees


def _grow_tree(context: Context) -> Callable[[int, Sequence[int], Sequence[int]], Float32]:
    def grow_tree(seq: int, tokens: Sequence[int], parents: Sequence[int]) -> Float32:
        return context.grow(seq, tokens, parents).logits

    return grow_tree


def _at(path: str) -> tuple[str, Callable[[Context], Any]]:
    owner, name = path.split(".")
    return path, lambda context: getattr(getattr(context, owner), name)


MOVED: dict[str, tuple[str, Callable[[Context], Any]]] = {
    "decode_one": ("decode(token, seq=seq)", _decode_one),
    "decode_tree": ("decode(tree, seq=seq).logits", _decode_tree),
    "decode_one_tree": ("decode(tree, seq=seq)", _decode_one_tree),
    "decode_trees": ("decode(batch)", _decode_trees),
    "add_tree": ("place(batch, seq, tree)", lambda context: context.place),
    "grow_tree": ("grow(seq, tokens, parents).logits", _grow_tree),
    "new_sequence": _at("sequences.new"),
    "free_sequence": _at("sequences.free"),
    "n_past": _at("sequences.n_past"),
    "is_pending": _at("sequences.is_pending"),
    "n_spare_leaves": _at("sequences.n_spare_leaves"),
    "n_outputs": _at("outputs.n_rows"),
    "logits": _at("outputs.logits"),
    "logits_view": _at("outputs.logits_view"),
    "logits_pointer": _at("outputs.logits_pointer"),
    "logit": _at("outputs.logit"),
    "argmax": _at("outputs.argmax"),
    "top_k": _at("outputs.top_k"),
    "logp": _at("outputs.token_logps"),
    "row_logp": _at("outputs.logp"),
    "row_top_logp": _at("outputs.top_logp"),
    "keep_hidden": _at("outputs.keep_hidden"),
    "hidden": _at("outputs.hidden"),
    "embedding": _at("outputs.embedding"),
}
"""Old name -> what to write instead, and where the old thing is."""
