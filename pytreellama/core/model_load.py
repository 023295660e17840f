"""Loading a model's weights: its progress, what ends it, and its errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytreellama.errors import ModelLoadError
from pytreellama.native import ProcessWatch, drain_log, ffi, last_error, lib

Progress = Callable[[float], None]

_EXIT_S = 30.0  # a load asks several times a second whether it is to go on


class _LoadProgress:
    """What the native progress callback talks to: it may end the load, and keeps the reason."""

    def __init__(self, report: Progress | None) -> None:
        self.report = report
        self.error: BaseException | None = None
        self._is_stopped = False
        self._is_idle = threading.Event()
        self._is_idle.set()
        _loads.add(self)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While a load runs: the end of the process waits for it."""
        self._is_idle.clear()
        try:
            self._require_going_on()
            yield
        finally:
            self._is_idle.set()

    def tell(self, share: float) -> None:
        self._require_going_on()
        if self.report is not None:
            self.report(share)

    def _require_going_on(self) -> None:
        if self._is_stopped:
            raise ModelLoadError("the program ends, so no model is loaded any more")

    def stop_at_exit(self) -> None:
        """See ProcessBound: the callback cannot enter an interpreter that is gone."""
        self._is_stopped = True
        self._is_idle.wait(_EXIT_S)

    def disown_after_fork(self) -> None:
        """See ProcessBound: the thread that loads is the parent's."""


_loads: ProcessWatch[_LoadProgress] = ProcessWatch()


def _keep_error(kind: Any, error: BaseException, trace: Any) -> None:
    """What the callback raised; a signal's handler may raise before its first line."""
    progress: _LoadProgress = ffi.from_handle(trace.tb_frame.f_locals["user_data"])
    progress.error = error


@ffi.def_extern(error=False, onerror=_keep_error)  # type: ignore[untyped-decorator]
def pytreellama_progress(share: float, user_data: Any) -> bool:
    progress: _LoadProgress = ffi.from_handle(user_data)
    progress.tell(share)
    return True


def load_model(path: Path, params: Any, report: Progress | None) -> Any:
    """Load a checked GGUF file.

    Args:
        params: cdata ``struct llama_model_params *``; its callback is set here.
        report: called with a share from 0.0 to 1.0; what it raises ends the load.

    Returns:
        cdata ``struct llama_model *``, the caller's to free.

    Raises:
        ModelLoadError: llama.cpp refuses the file, or the program ends meanwhile.
    """
    progress = _LoadProgress(report)
    handle = ffi.new_handle(progress)
    params.progress_callback = lib.pytreellama_progress
    params.progress_callback_user_data = handle
    drain_log()
    with progress.running():
        pointer = lib.treellama_model_load(os.fsencode(path), params)
    reasons = drain_log(errors_only=True)
    if progress.error is not None:
        if pointer != ffi.NULL:
            lib.llama_model_free(pointer)
        raise progress.error
    if pointer == ffi.NULL:
        why = "; ".join(filter(None, [last_error(), *reasons])) or "llama.cpp gives no reason"
        raise ModelLoadError(f"cannot load {path}: {why}")
    return pointer
