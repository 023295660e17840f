"""Which encoder keeps the trees of a context."""

from __future__ import annotations

from collections.abc import Callable

from pytreellama.context.ancestor_trees import AncestorTrees
from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.native_chains import NativeChains
from pytreellama.context.native_context import NativeContext
from pytreellama.context.sequence_trees import SequenceTrees
from pytreellama.context.state_chains import StateChains
from pytreellama.context.tree_encoding import TreeEncoder, TreeEncoding
from pytreellama.errors import ContextError
from pytreellama.model.model import Model


def choose_encoding(
    model: Model, native: NativeContext, wanted: TreeEncoding | None
) -> TreeEncoding:
    """The encoding asked for, or the best that the model's memory can hold.

    Raises:
        ContextError: the memory cannot hold the one asked for.
    """
    refusal = native.tree_refusal
    if refusal is None:
        return wanted or TreeEncoding.ANCESTORS
    if wanted is TreeEncoding.ANCESTORS and model.can_branch:
        raise ContextError(
            f"this model's memory cannot hold trees by ancestors: {refusal}; leave tree_encoding "
            "out, or take TreeEncoding.SEQUENCES"
        )
    return TreeEncoding.SEQUENCES


def make_encoder(
    model: Model,
    cache: Cache,
    native: NativeContext,
    encoding: TreeEncoding,
    window_drops_cells: bool,
    decode: Callable[[Batch], object],
) -> TreeEncoder:
    """The encoder for a model.

    Args:
        window_drops_cells: the cache of a sliding window has no room for text that left it.
        decode: runs a batch of text, which recurrent models need at commit.
    """
    if encoding is TreeEncoding.ANCESTORS:
        return AncestorTrees(native, cache, None if model.can_branch else native.n_ubatch)
    if not model.can_branch:
        chains = NativeChains if native.n_chain_max > 0 else StateChains
        return chains(native, cache, decode)
    return SequenceTrees(native, cache, window_drops_cells)
