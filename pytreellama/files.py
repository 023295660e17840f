"""Files that are replaced only when all is written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place at the end of the block.

    If the block raises, nothing has changed. Raises OSError where it cannot be written.
    """
    with replaced_path(path) as part, part.open("wb") as file:
        yield file


@contextmanager
def replaced_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a new file, for those who open it themselves; otherwise as `replaced_file`."""
    target = Path(path)
    # not tempfile's, which nobody else may read
    part = target.with_name(f"{target.name}{secrets.token_hex(4)}")
    part.touch(exist_ok=False)
    try:
        yield part
        os.replace(part, target)
    except BaseException:
        part.unlink()
        raise
