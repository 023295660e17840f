"""What models do, each in a process of its own: an assertion of llama.cpp ends a process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

from pytreellama import Context, Model
from tiny_architectures.parts import attends
from tiny_models import N_VOCAB_MIN, tiny_model

N_VOCAB = 320
MAX_LAYER = 8
N_SHORT, N_LONG = 40, 600
DISTANCES = (1, 4, 20)
"""How far before the last token of a text another stands: 20 is outside of the window of -swa."""


def facts(path: Path, n_texts: tuple[int, ...]) -> dict[str, Any]:
    """Of one model: its memory, and how far its logits depend on the history."""
    with Model(path) as model, Context(model, n_ctx=1024, n_threads=1) as context:
        return {
            "architecture": model.architecture,
            "memory": _memory(model),
            "can_branch": model.can_branch,
            "texts": {n: _text_facts(context, _text(n)) for n in n_texts},
        }


def _text_facts(context: Context, text: list[int]) -> dict[str, Any]:
    logits = _last_logits(context, text)
    distances = DISTANCES if len(text) == N_SHORT else DISTANCES[:1]
    others = {d: _last_logits(context, _changed(text, d)) for d in distances}
    return {
        "is_finite": bool(np.isfinite(logits).all()),
        "spread": float(logits.std()),
        "changes": {d: float(np.abs(o - logits).max()) for d, o in others.items()},
    }


def state_change(path: Path, kind: str) -> float:
    """The change of logits by a token 4 places back where states alone hold the history."""
    silent = path.with_suffix(".silent")
    shutil.copy(path, silent)
    everywhere = kind == "falcon-h1"
    _silence_attention(silent, [i for i in range(MAX_LAYER) if everywhere or attends(i)])
    with Model(silent) as model, Context(model, n_ctx=256, n_threads=1) as context:
        text = _text(N_SHORT)
        logits, other = (_last_logits(context, t) for t in (text, _changed(text, 4)))
    silent.unlink()
    return float(np.abs(other - logits).max())


def _silence_attention(path: Path, layers: Sequence[int]) -> None:
    """Zero what attention adds in some layers."""
    outputs = {f"blk.{layer}.attn_output.weight" for layer in layers}
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name in outputs:
            tensor.data[:] = 0


def _memory(model: Model) -> str:
    if model.is_hybrid:
        return "hybrid"
    return "recurrent" if model.is_recurrent else "kv"


def _text(n: int) -> list[int]:
    letters = range(N_VOCAB_MIN - 26, N_VOCAB)
    return [letters[i] for i in np.random.default_rng(5).integers(len(letters), size=n)]


def _changed(text: list[int], distance: int) -> list[int]:
    """The text with another token so many places before the last one."""
    other = list(text)
    other[-1 - distance] = N_VOCAB - 1 if text[-1 - distance] < N_VOCAB - 1 else N_VOCAB - 2
    return other


def _last_logits(context: Context, text: list[int]) -> NDArray[np.float32]:
    seq = context.prefill(text[:-1])
    logits: NDArray[np.float32] = context.decode(text[-1], seq=seq).logits[0]
    context.sequences.free(seq)
    return logits


def print_facts(directory: str, options: str, n_texts: str, kinds: list[str]) -> None:
    """Print a line of JSON for each kind.

    Args:
        options: of ``write_tiny_model``, in JSON.
        n_texts: lengths of texts, in JSON.
    """
    for kind in kinds:
        path = tiny_model(kind, directory, **json.loads(options))
        child = os.fork()
        if child == 0:
            _report(kind, path, tuple(json.loads(n_texts)))
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"kind": kind, "status": status}), flush=True)


def _report(kind: str, path: Path, n_texts: tuple[int, ...]) -> None:
    """Print a line and end this process, without what the parent would do at its end."""
    try:
        found = facts(path, n_texts)
        if found["memory"] == "hybrid":
            found["state_change"] = state_change(path, kind)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"kind": kind, **found}), flush=True)
    os._exit(0)
