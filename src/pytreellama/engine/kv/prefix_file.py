"""Texts that are kept in the cache, written to a file for the next engine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pytreellama.array_files import ArraysFile, arrays_file
from pytreellama.context.context import Context
from pytreellama.engine.known_costs import circumstances
from pytreellama.engine.kv.prefix_cache import KeptText, KeptTexts
from pytreellama.errors import CacheFullError, ContextError, MemoryStateError
from pytreellama.files import parse_json, replaced_file

_log = logging.getLogger(__name__)


def save_kept(kept: KeptTexts, context: Context, path: str | os.PathLike[str]) -> int:
    """Write all texts that are kept, with their keys and values; returns how many.

    Raises:
        FileError: it cannot be written.
    """
    arrays: dict[str, Any] = {"of": _bytes(json.dumps(_of(context), sort_keys=True).encode())}
    for i, text in enumerate(kept):
        arrays[f"tokens{i}"] = text.shareable
        arrays[f"state{i}"] = _bytes(context.memory.save(text.seq_id))
    with replaced_file(path) as file:
        os.chmod(file.name, 0o600)  # it holds what users wrote
        np.savez(file, **arrays)
    return len(kept)


def load_kept(kept: KeptTexts, context: Context, path: str | os.PathLike[str]) -> int:
    """Put back what ``save_kept`` wrote, as far as there is room; returns how many texts.

    A file that cannot be read, or is of another model, build or cache, is told in the log and left
    alone: it saves time and nothing else.
    """
    if not Path(path).exists():
        return 0
    try:
        # its arrays are not packed: they are no larger than the file
        with arrays_file(path, max_bytes=os.path.getsize(path)) as file:
            if parse_json(file["of"].tobytes(), "what it is of") != _of(context):
                _log.warning("%s is of another model, build or cache, and is not read", path)
                return 0
            return sum(
                _put_back(kept, context, tokens, state) for tokens, state in _texts(file, context)
            )
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); prompts are read anew", path, error)
        return 0


def _texts(file: ArraysFile, context: Context) -> Iterator[tuple[np.ndarray[Any, Any], bytes]]:
    """The texts in the file; raises ValueError for tokens that none can have."""
    n_texts = sum(name.startswith("tokens") for name in file.names)
    for i in range(n_texts):
        tokens = file[f"tokens{i}"]
        if tokens.dtype != np.int32 or tokens.ndim != 1 or not len(tokens):
            raise ValueError(f"text {i} has no token ids")
        if tokens.min() < 0 or tokens.max() >= context.n_vocab:
            raise ValueError(f"text {i} has token ids that are not in the vocabulary")
        yield tokens, file[f"state{i}"].tobytes()


def _put_back(
    kept: KeptTexts, context: Context, tokens: np.ndarray[Any, Any], state: bytes
) -> bool:
    if kept.is_full:
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
    if context.sequences.n_past(seq_id) != len(tokens):
        context.sequences.free(seq_id)
        return False
    kept.add(KeptText(tokens, seq_id))
    return True


def _bytes(data: bytes) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, np.uint8)


def _of(context: Context) -> dict[str, Any]:
    """What keys and values depend on."""
    known = circumstances(context)
    del known["n_threads"], known["trees"]
    return known
