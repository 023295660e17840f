"""Text that users give in files and on stdin, read within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from pytreellama.errors import RequestError

MAX_TEXT_BYTES = 2**26


def limited_text(file: BinaryIO, name: str) -> str:
    """The text of a file or pipe, without a byte order mark, which editors may write.

    Raises:
        RequestError: it has more than ``MAX_TEXT_BYTES``; a device may never end.
        UnicodeDecodeError: it is not UTF-8.
    """
    data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise RequestError(f"{name} has more than {MAX_TEXT_BYTES} bytes; give a shorter text")
    return data.decode("utf-8-sig")


def read_text(path: Path, option: str) -> str:
    """The text of a file that an option names; raises RequestError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return limited_text(file, f"{option} {path}")
    except OSError as error:
        raise RequestError(
            f"{option} {path} cannot be read: {error.strerror or error}; give the path of a file"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{option} {path} is not UTF-8 text: {error}") from error
