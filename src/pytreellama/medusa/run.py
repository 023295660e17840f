"""The whole training: texts, heads, and a file of them; goes on where it was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytreellama.medusa.store import Store
from pytreellama.medusa.training import (
    Training,
    TrainingOptions,
    TrainingStep,
)
from pytreellama.model.model import Model
from pytreellama.training.gguf_types import FileType, gguf_for
from pytreellama.training.own_texts import TextOptions
from pytreellama.training.progress import Progress, peak_bytes
from pytreellama.training.pytorch import torch_for_training
from pytreellama.training.target import Target
from pytreellama.training.trained import Trained, output_path
from pytreellama.training.writing import default_folder, text_facts, write_texts

N_DEEP = 2048
"""Tokens that heads after the first can guess: rarer ones seldom get so far into a tree."""

ROW_TYPE: FileType = "q5_1"
"""Of a shortlist's rows: guesses need not be exact, and what they read is what they cost."""


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
    path = output_path(output)
    target = Target(model)
    # what is missing is told now, not when the texts are written
    torch_for_training()
    gguf_for(file_type, target.n_embd)
    whose = text_facts(target, texts)
    store = Store(folder or default_folder("medusa", whose), whose)
    write_texts(model, store, texts, n_tokens, store.add_texts, report)
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
    heads.write(path, file_type)
    return Trained(
        path,
        accuracy,
        store.n_tokens,
        training.n_steps_done,
        store.seconds,
        training.seconds,
        peak_bytes(),
    )


def _training_progress(step: TrainingStep, training: Training) -> Progress:
    left_s = step.seconds / step.step * (step.n_steps - step.step)
    return Progress("training", step.step, step.n_steps, left_s, step.loss)
