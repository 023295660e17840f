"""The prefix cache in a file, for the next engine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.array_files import ArraysFile, arrays_file
from pytreellama.context.context import Context
from pytreellama.engine.known_costs import circumstances
from pytreellama.engine.kv.checkpoints import Checkpoint, Checkpoints
from pytreellama.engine.kv.prefix_cache import CachedPrefix, PrefixCache, n_common
from pytreellama.errors import CacheFullError, ContextError, MemoryStateError
from pytreellama.files import parse_json, replaced_file

_log = logging.getLogger(__name__)

Int32 = NDArray[np.int32]


def save_prefix_cache(
    cache: PrefixCache, checkpoints: Checkpoints, context: Context, path: str | os.PathLike[str]
) -> int:
    """Write all cached prefixes, with their keys and values and checkpoints; returns how many.

    Those of LoRA adapters are left out: names do not tell whether a later file is the same.

    Raises:
        FileError: the file cannot be written.
    """
    arrays: dict[str, Any] = {"of": _bytes(json.dumps(_of(context), sort_keys=True).encode())}
    prefixes = cache.of(())
    for i, prefix in enumerate(prefixes):
        arrays[f"tokens{i}"] = prefix.ids
        arrays[f"state{i}"] = _bytes(context.memory.save(prefix.seq_id))
    for i, checkpoint in enumerate(checkpoints):
        if checkpoint.adapters:
            continue
        if any(n_common(checkpoint.ids, p.ids) == len(checkpoint.ids) for p in prefixes):
            arrays[f"checkpoint_tokens{i}"] = checkpoint.ids
            arrays[f"checkpoint_state{i}"] = _bytes(checkpoint.data)
    with replaced_file(path) as file:
        os.chmod(file.name, 0o600)  # it contains prompts and outputs
        np.savez(file, **arrays)
    return len(prefixes)


def load_prefix_cache(
    cache: PrefixCache, checkpoints: Checkpoints, context: Context, path: str | os.PathLike[str]
) -> int:
    """Restore what ``save_prefix_cache`` wrote, as far as there is room; returns how many prefixes.

    A file that cannot be read, or is of another model, build or KV cache, is ignored with a warning
    in the log: without it, prompts are prefilled.
    """
    if not Path(path).exists():
        return 0
    try:
        # its arrays are not compressed: they are no larger than the file
        with arrays_file(path, max_bytes=os.path.getsize(path)) as file:
            if parse_json(file["of"].tobytes(), "what it is of") != _of(context):
                _log.warning("%s is of another model, build or cache, and is ignored", path)
                return 0
            prefixes = _states(file, context, "tokens", "state")
            n_restored = sum(_restore(cache, context, ids, state) for ids, state in prefixes)
            if n_restored > 0:
                for ids, data in _states(file, context, "checkpoint_tokens", "checkpoint_state"):
                    checkpoints.add(Checkpoint(ids, data))
            return n_restored
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); prompts are prefilled", path, error)
        return 0


def _states(
    file: ArraysFile, context: Context, tokens: str, state: str
) -> Iterator[tuple[Int32, bytes]]:
    """Token ids and state of each array of such names; raises ValueError for invalid ids."""
    for name in file.names:
        if not name.startswith(tokens):
            continue
        ids = file[name]
        if ids.dtype != np.int32 or ids.ndim != 1 or not len(ids):
            raise ValueError(f"{name} are no token ids")
        if ids.min() < 0 or ids.max() >= context.n_vocab:
            raise ValueError(f"{name} has token ids that are not in the vocabulary")
        yield ids, file[state + name.removeprefix(tokens)].tobytes()


def _restore(cache: PrefixCache, context: Context, ids: Int32, state: bytes) -> bool:
    """Insert one prefix; False if there is no room for it."""
    if cache.is_full:
        return False
    try:
        seq_id = context.sequences.new()
    except ContextError:
        return False
    try:
        context.memory.load(state, seq_id)
    except (MemoryStateError, CacheFullError):
        context.sequences.free(seq_id)
        return False
    if context.sequences.n_past(seq_id) != len(ids):
        context.sequences.free(seq_id)
        return False
    cache.add(CachedPrefix(ids, seq_id))
    return True


def _bytes(data: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, np.uint8)


def _of(context: Context) -> dict[str, Any]:
    """What keys and values depend on, for JSON."""
    known = circumstances(context)
    del known["n_threads"], known["trees"]
    return known
