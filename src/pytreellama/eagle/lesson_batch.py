"""LessonBatch: some lessons side by side, as the cells that a head reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.eagle.features import Lesson

Tensor = Any
Int64 = NDArray[np.int64]


class LessonBatch:
    """The cells of some lessons.

    A cell holds a token and the features of the token before it, so the first token of a text has
    none, and what a cell of the answer predicts is the answer's next token. In the attention's
    matrices the lessons are rows in which all answers begin at the same column; elsewhere cells
    stand one after another, without padding.

    Attributes:
        sizes: number of lessons, columns of the longest answer, columns in all.
        tokens: int64, shape (n_cells,).
        features: float16, shape (n_cells, n_features).
        columns: of each cell, int64, shape (n_cells,).
        place: of each cell in a matrix of (n_lessons, n_columns), flattened; int64.
        wanted: the answer's token after each cell of an answer, int64, shape (n_answer_cells,).
        states: from which the target drew those, float16, shape (n_answer_cells, n_embd).

    Args:
        torch: the package.
        lessons: with at least two tokens of an answer each.
        device: of PyTorch, for all tensors.
    """

    def __init__(self, torch: Any, lessons: Sequence[Lesson], device: Any = "cpu") -> None:
        self._torch, self._device = torch, device
        n_prompt = np.array([len(one.prompt) - 1 for one in lessons])
        n_answer = np.array([len(one.answer) - 1 for one in lessons])
        n_before = int(n_prompt.max())
        self.sizes = len(lessons), int(n_answer.max()), n_before + int(n_answer.max())
        n_cells = n_prompt + n_answer
        text = np.repeat(np.arange(len(lessons)), n_cells)
        columns = np.concatenate(
            [
                np.arange(n_before - before, n_before + after)
                for before, after in zip(n_prompt, n_answer, strict=True)
            ]
        )
        answer_cells = np.flatnonzero(columns >= n_before)
        self._depth = columns[answer_cells] - n_before
        self._is_last = self._depth == n_answer[text[answer_cells]] - 1
        self._answer_cells = answer_cells
        self._answer_text = text[answer_cells]
        self._is_cell = np.zeros((len(lessons), self.sizes[2]), bool)
        self._is_cell[text, columns] = True
        self.columns = self._on_device(columns)
        self.place = self._on_device(text * self.sizes[2] + columns)
        tokens = [np.concatenate([one.prompt, one.answer])[1:-1] for one in lessons]
        self.tokens = self._on_device(np.concatenate(tokens).astype(np.int64))
        self.features = self._on_device(np.concatenate([one.features[:-1] for one in lessons]))
        wanted = np.concatenate([one.answer[1:] for one in lessons])
        self.wanted = self._on_device(wanted.astype(np.int64))
        self.states = self._on_device(np.concatenate([one.states[1:] for one in lessons]))

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return self._torch.from_numpy(array).to(self._device)

    def kept(self, step: int) -> Tensor:
        """Cells of answers that have ``step`` others before them there, among all of answers."""
        return self._on_device(np.flatnonzero(self._depth >= step))

    def answer_rows(self, step: int) -> Tensor:
        """The cells ``kept(step)``, among all cells."""
        return self._on_device(self._answer_cells[self._depth >= step])

    def answer_place(self, step: int) -> Tensor:
        """The cells ``kept(step)`` in a matrix of (n_lessons, n_answer), flattened."""
        place = self._answer_text * self.sizes[1] + self._depth
        return self._on_device(place[self._depth >= step])

    def before(self, step: int) -> Tensor:
        """The cell before each of ``kept(step)``, among those of ``kept(step - 1)``."""
        is_last = self._is_last[self._depth >= step - 1]
        return self._on_device(np.flatnonzero(~is_last))

    def sees(self, step: int) -> Tensor:
        """What each column of an answer sees of a text, ``step`` places before and earlier.

        Returns:
            bool, shape (n_lessons, n_answer, n_columns).
        """
        _, n_answer, n_columns = self.sizes
        n_before = n_columns - n_answer
        columns, ends = np.arange(n_columns), n_before + np.arange(n_answer) - step
        seen = self._is_cell[:, None, :] & (columns <= ends[:, None])
        return self._on_device(seen)
