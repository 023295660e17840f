"""LineInput: lines that a user types, with editing and history on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pytreellama.closing import Closing

PROMPT, MORE = "> ", ". "
_QUOTES = '"""'
_N_HISTORY = 1000


class LineInput(Closing):
    """Iterates over what is typed; a text between lines of triple quotes is one item.

    Ctrl-C while a line is typed gives it up; Ctrl-D, or the end of a pipe, ends the input.

    Args:
        name: of the history, which is kept in the user's state folder.

    Attributes:
        is_terminal: somebody types.
    """

    def __init__(self, name: str) -> None:
        self.is_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._readline = _readline() if self.is_terminal else None
        self._history = _state_folder() / f"{name}_history"
        if self._readline is not None:
            with contextlib.suppress(OSError):
                self._readline.read_history_file(self._history)
            self._readline.set_history_length(_N_HISTORY)

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                line = self._line(PROMPT)
                if line.strip().startswith(_QUOTES):
                    line = self._quoted(line.strip().removeprefix(_QUOTES))
            except EOFError:
                if self.is_terminal:
                    print(file=sys.stderr)
                return
            except KeyboardInterrupt:
                if not self.is_terminal:
                    raise
                print("(Ctrl-D leaves)", file=sys.stderr)
                continue
            yield line

    def close(self) -> None:
        """Keep the history."""
        if self._readline is None:
            return
        with contextlib.suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)
            self._readline.write_history_file(self._history)
        self._readline = None

    def _quoted(self, first: str) -> str:
        lines = [first] if first else []
        while not (lines and lines[-1].rstrip().endswith(_QUOTES)):
            try:
                lines.append(self._line(MORE))
            except EOFError:
                if self.is_terminal or not lines:
                    raise
                return "\n".join(lines)  # a pipe that ends in the middle has said all
        lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        if self.is_terminal:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


def _readline() -> ModuleType | None:
    """Python's module, where there is one: not on Windows."""
    try:
        import readline
    except ImportError:
        return None
    return readline


def _state_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("pytreellama", appauthor=False))
