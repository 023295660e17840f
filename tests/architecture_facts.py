"""What models do, each in a process of its own: an assertion of llama.cpp ends a process.

Run as a program with a directory of models and the names of kinds, it prints a line a kind.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama import Context, Model
from tiny_models import N_VOCAB_MIN, tiny_model

N_VOCAB = 320
N_TEXT = 40
DISTANCES = (1, 4, 20)
"""How far before the last token of a text another stands: 20 is outside of the window of -swa."""


def facts(path: Path) -> dict[str, Any]:
    """Of one model: its memory, and how far its logits hang on history."""
    with Model(path) as model:
        found = {
            "architecture": model.architecture,
            "memory": _memory(model),
            "can_branch": model.can_branch,
        }
        text = _text(N_TEXT)
        logits = _last_logits(model, text)
        found["is_finite"] = bool(np.isfinite(logits).all())
        found["spread"] = float(logits.std())
        found["repeats"] = bool((logits == _last_logits(model, text)).all())
        others = {d: _last_logits(model, _changed(text, d)) for d in DISTANCES}
        found["changes"] = {d: float(np.abs(o - logits).max()) for d, o in others.items()}
        return found


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


def _last_logits(model: Model, text: list[int]) -> NDArray[np.float32]:
    with Context(model, n_ctx=256, n_threads=1) as context:
        seq = context.prefill(text[:-1])
        logits: NDArray[np.float32] = context.decode(text[-1], seq=seq).logits[0]
        return logits


def main(directory: str, kinds: list[str]) -> None:
    for kind in kinds:
        path = tiny_model(kind, directory)
        child = os.fork()
        if child == 0:
            _report(kind, path)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"kind": kind, "status": status}), flush=True)


def _report(kind: str, path: Path) -> None:
    """Print a line and end this process, without what the parent would do at its end."""
    try:
        found = facts(path)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"kind": kind, **found}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
