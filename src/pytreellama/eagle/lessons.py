"""Lessons on disk: texts with the hidden states that a head is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.eagle.features import Float16, Int32, Lesson
from pytreellama.errors import MedusaError
from pytreellama.training.parts import Parts

_HELD_OUT_ONE_IN = 20


def add_lessons(parts: Parts, lessons: Sequence[Lesson], seconds: float) -> None:
    """Put lessons on disk as a part that took so long to make."""
    arrays: dict[str, NDArray[Any]] = {
        "prompt_lengths": np.array([len(one.prompt) for one in lessons], np.int64),
        "answer_lengths": np.array([len(one.answer) for one in lessons], np.int64),
        "tokens": np.concatenate([ids for one in lessons for ids in (one.prompt, one.answer)]),
        "features": np.concatenate([one.features for one in lessons]),
        "states": np.concatenate([one.states for one in lessons]),
    }
    parts.add(arrays, int(arrays["answer_lengths"].sum()), seconds)


@dataclass(frozen=True, slots=True)
class _Part:
    """The arrays of a part, and where each of its lessons begins in them."""

    tokens: Int32
    features: Float16
    states: Float16
    prompt_lengths: NDArray[np.int64]
    answer_lengths: NDArray[np.int64]

    def lessons(self) -> list[Lesson]:
        found, token, row, state = [], 0, 0, 0
        for n_prompt, n_answer in zip(self.prompt_lengths, self.answer_lengths, strict=True):
            answer, end = token + n_prompt, token + n_prompt + n_answer
            n_rows = n_prompt + n_answer - 1
            found.append(
                Lesson(
                    self.tokens[token:answer],
                    self.tokens[answer:end],
                    self.features[row : row + n_rows],
                    self.states[state : state + n_answer],
                )
            )
            token, row, state = end, row + n_rows, state + n_answer
        return found


def load_lessons(parts: Parts) -> list[Lesson]:
    """All lessons; their hidden states stay on disk until they are read.

    Raises:
        MedusaError: there is nothing, or a part is damaged.
    """
    if parts.n_parts == 0:
        raise MedusaError(f"{parts.folder} holds no texts yet")
    return [lesson for i in range(parts.n_parts) for lesson in _part(parts, i).lessons()]


def _part(parts: Parts, i: int) -> _Part:
    part = _Part(
        parts.array(i, "tokens"),
        parts.array(i, "features", mapped=True),
        parts.array(i, "states", mapped=True),
        parts.array(i, "prompt_lengths"),
        parts.array(i, "answer_lengths"),
    )
    n_answer = part.answer_lengths.sum()
    n_tokens = part.prompt_lengths.sum() + n_answer
    n_rows = n_tokens - len(part.answer_lengths)
    if (len(part.tokens), len(part.features), len(part.states)) != (n_tokens, n_rows, n_answer):
        raise MedusaError(
            f"part {i:05} of {parts.folder} is damaged: {len(part.tokens)} tokens, "
            f"{len(part.features)} and {len(part.states)} states for texts of {n_tokens} tokens, "
            f"{n_answer} of answers; remove the folder"
        )
    return part


def split_lessons(lessons: Sequence[Lesson]) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to learn from, and one in 20 to measure on."""
    learned = [one for i, one in enumerate(lessons) if i % _HELD_OUT_ONE_IN]
    return learned, list(lessons[::_HELD_OUT_ONE_IN])
