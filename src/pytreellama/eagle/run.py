"""The whole training: texts, a head, and its file; goes on where it was interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pytreellama.eagle.features import FeatureReader, head_layers
from pytreellama.eagle.lessons import add_lessons, load_lessons
from pytreellama.eagle.training import EagleOptions, EagleTraining
from pytreellama.errors import ContextError, MedusaError
from pytreellama.model.model import Model
from pytreellama.training.gguf_types import FileType, gguf_for
from pytreellama.training.own_texts import TextOptions
from pytreellama.training.parts import Parts
from pytreellama.training.progress import Progress, peak_bytes
from pytreellama.training.pytorch import torch_for_training
from pytreellama.training.target import Target
from pytreellama.training.text import Text
from pytreellama.training.trained import Trained, output_path
from pytreellama.training.writing import default_folder, text_facts, write_texts


def train(
    model: Model,
    output: str | os.PathLike[str],
    *,
    n_tokens: int = 1_000_000,
    texts: TextOptions | None = None,
    options: EagleOptions | None = None,
    file_type: FileType = "q8_0",
    folder: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Let a model write, train an EAGLE-3 head on it, and write the head to a file.

    Args:
        n_tokens: of answers that the model writes before training; what is on disk counts.
        texts, options: how it writes, and what is trained.
        file_type: of the head's matrices in the file.
        folder: for texts and checkpoints; by default in the user's cache. It takes 2 bytes for
            each of the 3 * n_embd features of a token, and of n_embd more for a token of an answer.
        report: called with the progress.

    Raises:
        MedusaError: PyTorch is missing, the model cannot be hooked, or the folder holds something
            else.
        OSError: something cannot be written.
    """
    texts, options = texts or TextOptions(), options or EagleOptions()
    path = output_path(output)
    target = Target(model)
    # what is missing is told now, not when the texts are written
    torch_for_training()
    gguf_for(file_type, target.n_embd)
    layers = head_layers(model.n_layer)
    whose = text_facts(target, texts) | {"layers": list(layers)}
    reader = _feature_reader(model, layers, texts)
    try:
        parts = Parts(folder or default_folder("eagle", whose), whose)
        add = partial(_add_texts, parts, reader)
        write_texts(model, parts, texts, n_tokens, add, report)
    finally:
        reader.close()
    training = EagleTraining(target, layers, load_lessons(parts), options, parts.folder)
    training.run(report)
    accuracy = training.accuracy()
    facts = {
        "training.n_tokens": parts.n_tokens,
        "training.n_steps": training.n_steps_done,
        "training.writing_seconds": parts.seconds,
        "training.seconds": training.seconds,
        **{f"training.{name}": value for name, value in asdict(options).items()},
        "accuracy.top1": list(accuracy.top1),
        "accuracy.top5": list(accuracy.top5),
    }
    replace(training.head_file(), facts=facts).write(path, target, file_type)
    return Trained(
        path,
        accuracy,
        parts.n_tokens,
        training.n_steps_done,
        parts.seconds,
        training.seconds,
        peak_bytes(),
    )


def _feature_reader(model: Model, layers: Sequence[int], options: TextOptions) -> FeatureReader:
    try:
        return FeatureReader(model, layers, options.n_parallel * options.n_text)
    except ContextError as error:
        raise MedusaError(
            f"no EAGLE-3 head can be trained for {model.path.name}: {error}"
        ) from error


def _add_texts(parts: Parts, reader: FeatureReader, texts: Sequence[Text], seconds: float) -> None:
    """Read texts again for their hidden states, and put them on disk."""
    started_s = time.perf_counter()
    lessons = [reader.read(text.prompt, text.tokens) for text in texts if len(text.tokens)]
    add_lessons(parts, lessons, seconds + time.perf_counter() - started_s)
