"""MarkedText: writes text as it comes, with what came from accepted drafts in colour."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from pytreellama.cli.output import write

if TYPE_CHECKING:
    from pytreellama.engine import Step
    from pytreellama.model.vocab import Vocab

COLOUR = "green"
LEGEND = f"{COLOUR}: tokens that a draft had right, several for one pass of the model"


class MarkedText:
    """Writes an output to the terminal.

    Steps come from the engine's thread before the text that they complete, so the pieces of their
    tokens wait in a queue for that text.

    Args:
        vocab: of the tokens.
        in_colour: False writes the text alone, and needs no steps.
    """

    def __init__(self, vocab: Vocab, *, in_colour: bool) -> None:
        self.in_colour = in_colour
        self._vocab = vocab
        self._pieces: deque[tuple[str, bool]] = deque()
        self.reset()

    @property
    def on_step(self) -> Callable[[Step], None] | None:
        """For a request's ``on_step``; None if steps are not needed."""
        return self._note if self.in_colour else None

    def _note(self, step: Step) -> None:
        """Note which tokens of a step were drafted: all but the last, which the model drew."""
        n_accepted = len(step.path) - 1
        for i, token in enumerate(step.tokens):
            self._pieces.append((self._detokenizer.add([token]), i < n_accepted))

    def reset(self) -> None:
        """The output has ended, perhaps before all its text was written."""
        from pytreellama.model.vocab import Detokenizer

        self._pieces.clear()
        self._detokenizer = Detokenizer(self._vocab)

    def write(self, text: str) -> None:
        """Write text that has become final."""
        if not self.in_colour:
            write(text)
            return
        while text and self._pieces:
            piece, is_accepted = self._pieces.popleft()
            shown, text = text[: len(piece)], text[len(piece) :]
            if len(shown) < len(piece):
                self._pieces.appendleft((piece[len(shown) :], is_accepted))
            _write_one(shown, is_accepted)
        if text:  # a stop string's beginning, held back, that turned out to be none
            write(text)


def is_coloured(*, plain: bool) -> bool:
    """True if marks can be seen: a terminal, and nobody who asked for none (NO_COLOR)."""
    return not plain and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _write_one(text: str, is_accepted: bool) -> None:
    if text:
        typer.echo(typer.style(text, fg=COLOUR) if is_accepted else text, nl=False, color=True)
