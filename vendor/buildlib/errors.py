"""The one exception that ends a build: what happened, and what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path


class BuildError(Exception):
    """A build that cannot go on.

    `what` says what happened, `advice` what to do, `log` where the details are.
    """

    def __init__(self, what: str, advice: str = "", log: Path | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice
        self.log = log

    def __str__(self) -> str:
        lines = [self.what]
        if self.advice:
            lines.append(f"What to do: {self.advice}")
        if self.log is not None:
            lines.append(f"Full log: {self.log}")
        return "\n".join(lines)


def explain_os_error(error: OSError) -> BuildError | None:
    """A BuildError for a full disk or a missing right, None for anything else."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError(
            f"no space left on the device{where}",
            "free some space, or point PYTREELLAMA_CACHE at a folder on another disk",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BuildError(
            f"not allowed to write{where}: {error.strerror}",
            "check who owns the folder, or run as the user who does",
        )
    return None
