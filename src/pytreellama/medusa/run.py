"""The whole training: texts, heads, and a file of them; goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pytreellama.errors import MedusaError
from pytreellama.medusa.own_texts import OwnTexts, TextOptions
from pytreellama.medusa.store import Store
from pytreellama.medusa.target import Target
from pytreellama.medusa.training import (
    Accuracy,
    Training,
    TrainingOptions,
    TrainingStep,
    torch_for_training,
)
from pytreellama.medusa.weights import FileType, gguf_for
from pytreellama.model.model import Model

N_DEEP = 2048
"""Tokens that heads after the first can guess: rarer ones seldom get so far into a tree."""

ROW_TYPE: FileType = "q5_1"
"""Of a shortlist's rows: guesses need not be exact, and what they read is what they cost."""

Phase = Literal["writing", "training"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. n_done, n_all: tokens or steps; left_s: as the last ones went."""

    phase: Phase
    n_done: int
    n_all: int
    left_s: float
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made. Times in seconds, of interrupted runs too.

    peak_bytes: most memory that this process has had; None where that is not told.
    """

    path: Path
    accuracy: Accuracy
    n_tokens: int
    writing_s: float
    training_s: float
    peak_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "n_tokens": self.n_tokens,
            "writing_s": self.writing_s,
            "training_s": self.training_s,
            "peak_bytes": self.peak_bytes,
            **asdict(self.accuracy),
        }


def default_folder(model: Model, options: TextOptions) -> Path:
    """Where the texts of a model are kept, in the user's cache."""
    import platformdirs

    facts = json.dumps(_facts(Target(model), options), sort_keys=True)
    key = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("pytreellama", appauthor=False)) / "medusa" / key


def train(
    model: Model,
    output: str | os.PathLike[str],
    *,
    n_tokens: int = 1_000_000,
    texts: TextOptions | None = None,
    options: TrainingOptions | None = None,
    n_deep: int = N_DEEP,
    file_type: FileType = "q4_1",
    folder: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Let a model write, train heads on it, and write them to a file.

    Args:
        n_tokens: that the model writes before training; what is on disk already counts.
        texts, options: how it writes, and what is trained.
        n_deep: tokens that heads after the first can guess, the most frequent, where each takes a
            product of its own; 0 for all of the shortlist.
        file_type: of the heads' weights in the file.
        folder: where texts and half-trained heads are kept; by default in the user's cache. It
            takes 4 + 2 * n_embd bytes a token.
        report: told of progress.

    Raises:
        MedusaError: PyTorch is missing, or the folder holds something else.
        OSError: something cannot be written.
    """
    texts, options = texts or TextOptions(), options or TrainingOptions()
    output = Path(output)
    if not output.parent.is_dir():
        raise MedusaError(f"there is no folder {output.parent} to write {output.name} into")
    if output.is_dir():
        raise MedusaError(f"{output} is a folder; give the name of a file to write the heads into")
    target = Target(model)
    # what is missing is told now, not when the texts are written
    torch_for_training()
    gguf_for(file_type, target.n_embd)
    store = Store(folder or default_folder(model, texts), _facts(target, texts))
    _write_texts(model, store, texts, n_tokens, report)
    training = Training(target, store.load(), options, store.folder)
    training.run(lambda step: report(_training_progress(step, training)))
    accuracy = training.accuracy()
    facts = {
        "training.n_tokens": store.n_tokens,
        "training.writing_seconds": store.seconds,
        "accuracy.top1": [float(share) for share in accuracy.top1],
        "accuracy.top5": [float(share) for share in accuracy.top5],
    }
    heads = training.heads_file(facts)
    if heads.sees == "path" and heads.shortlist is not None and 0 < n_deep < len(heads.shortlist):
        heads = replace(heads, n_deep_rows=n_deep)
    if heads.shortlist is not None:
        heads = replace(heads, row_type=ROW_TYPE)
    heads.write(output, file_type)
    return Trained(output, accuracy, store.n_tokens, store.seconds, training.seconds, _peak_bytes())


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:
        return None  # Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


def _facts(target: Target, options: TextOptions) -> dict[str, Any]:
    facts = asdict(options)
    prompts = "\0".join(options.prompts)
    facts["prompts"] = hashlib.sha256(prompts.encode()).hexdigest() if prompts else None
    return {"model": target.hash, "model_name": target.name, **facts}


def _write_texts(
    model: Model,
    store: Store,
    options: TextOptions,
    n_tokens: int,
    report: Callable[[Progress], None],
) -> None:
    n_done = store.n_tokens
    if n_done >= n_tokens:
        return
    own = OwnTexts(model, options)
    try:
        started_s, n_before = time.perf_counter(), n_done
        round_s = started_s
        for texts in own.rounds(store.n_parts):
            now_s = time.perf_counter()
            if not texts:
                raise MedusaError(
                    f"{model.path.name} had nothing to say to any of {options.n_round} turns; give "
                    "it --prompts"
                )
            store.add(texts, now_s - round_s)
            round_s = now_s
            n_done += sum(len(text.tokens) for text in texts)
            left_s = (n_tokens - n_done) * (now_s - started_s) / max(n_done - n_before, 1)
            report(Progress("writing", min(n_done, n_tokens), n_tokens, max(left_s, 0.0)))
            if n_done >= n_tokens:
                return
    finally:
        own.close()


def _training_progress(step: TrainingStep, training: Training) -> Progress:
    left_s = step.seconds / step.step * (step.n_steps - step.step)
    return Progress("training", step.step, step.n_steps, left_s, step.loss)
