"""Rewriting a model file in another quantisation, with llama.cpp's own quantiser."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pytreellama.errors import QuantizeError, not_one_of
from pytreellama.native import drain_log
from pytreellama.native import model as native_model
from pytreellama.native.model import Progress
from pytreellama.native.quantize import run_quantizer

FILE_TYPES = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
)
"""Names of file types, large to small. Those that need an importance matrix are not offered."""

_ALIASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}
_TENSOR_LINE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")
_POLL_S = 0.05


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    ftype: str = "Q8_0",
    *,
    n_threads: int | None = None,
    pure: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Quantise a GGUF model to another weight type. The source may be quantised already.

    The target appears complete or not at all. If interrupted, the call returns at once; llama.cpp
    cannot be stopped and finishes in the background, and its output is removed.

    Example:
        path = quantize("model-f16.gguf", "model-q4_k_m.gguf", "Q4_K_M")
        model = Model(path)

    Args:
        source: a GGUF file.
        target: the file to write; replaced if it exists.
        ftype: one of ``FILE_TYPES``, case-insensitive.
        n_threads: number of threads; None for all CPUs.
        pure: use the same type for every tensor; llama.cpp keeps some at a higher precision.
        progress: called with a fraction from 0.0 to 1.0, in this thread.

    Returns:
        The target's path.

    Raises:
        QuantizeError: an unknown type, equal source and target, a damaged source, or llama.cpp's
            reason to fail.
    """
    source, target = Path(source), Path(os.path.realpath(target))
    name = _checked_type(ftype, n_threads)
    _check_paths(source, target)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    job = _Job(part, partial(run_quantizer, source, part, name, n_threads or 0, pure))
    try:
        log = job.run(progress or (lambda share: None))
        if job.error is not None:
            raise QuantizeError(f"cannot write {source} as {ftype}: {_reason(log, job.error)}")
        os.replace(part, target)
    except OSError as error:
        raise QuantizeError(f"cannot write {target}: {error}") from error
    finally:
        job.abandon()
    return target


def _checked_type(ftype: str, n_threads: int | None) -> str:
    """llama.h's name of a file type."""
    name = _ALIASES.get(ftype.upper(), ftype.upper())
    if name not in FILE_TYPES:
        raise QuantizeError(not_one_of("ftype", ftype, FILE_TYPES))
    if n_threads is not None and n_threads < 1:
        raise QuantizeError(
            f"invalid n_threads={n_threads}: expected at least 1, or None for all CPUs"
        )
    return name


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise QuantizeError(f"{source} is not a file; give the path of a GGUF file")
    if target.exists() and target.samefile(source):
        raise QuantizeError(f"source and target are the same file, {source}; choose another target")
    if (target.exists() and not target.is_file()) or not target.parent.is_dir():
        raise QuantizeError(f"{target} cannot be written: give a file in a folder that exists")
    native_model.check_gguf(source, QuantizeError, f"{source} is not a sound GGUF file")


class _Job:
    """One run of llama.cpp's quantiser, in a thread of its own so that its log can be followed."""

    def __init__(self, part: Path, quantizer: Callable[[], None]) -> None:
        self._part = part
        self._lock = threading.Lock()
        self._done = self._abandoned = False
        self._thread = threading.Thread(
            target=self._quantize,
            args=(quantizer,),
            name="pytreellama-quantize",
        )
        self.error: QuantizeError | None = None

    def run(self, progress: Progress) -> list[str]:
        """Run to the end; returns llama.cpp's log."""
        log: list[str] = []
        progress(0.0)
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            lines = drain_log()
            log += lines
            shares = [share for line in lines if (share := _share_done(line)) is not None]
            if shares:
                progress(shares[-1])
        log += drain_log()
        if self.error is None:
            progress(1.0)
        return log

    def abandon(self) -> None:
        """Remove what was written, now or when the quantiser is done with it."""
        with self._lock:
            self._abandoned = True
            if self._done:
                self._remove_part()

    def _quantize(self, quantizer: Callable[[], None]) -> None:
        try:
            quantizer()
        except QuantizeError as error:
            self.error = error
        with self._lock:
            self._done = True
            if self._abandoned:
                self._remove_part()

    def _remove_part(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()


def _share_done(line: str) -> float | None:
    match = _TENSOR_LINE.match(line.lstrip())
    return int(match[1]) / max(1, int(match[2])) if match else None


def _reason(log: list[str], error: QuantizeError) -> str:
    errors = [line for line in log if "failed" in line or "error" in line.lower()]
    return "; ".join(filter(None, [str(error), *errors])) or "llama.cpp gives no reason"
