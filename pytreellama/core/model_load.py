"""Loading a model's weights: its progress, what ends it, and its errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytreellama.errors import ModelLoadError
from pytreellama.native import drain_log, ffi, last_error, lib
from pytreellama.process import InterpreterCalls

Progress = Callable[[float], None]

_calls = InterpreterCalls()


class _LoadProgress:
    """What the native progress callback talks to: it may end the load, and keeps the reason."""

    def __init__(self, report: Progress | None) -> None:
        self.report = report
        self.error: BaseException | None = None

    def tell(self, share: float) -> None:
        if _calls.is_ending:
            raise ModelLoadError("the program ends, so no model is loaded any more")
        if self.report is not None:
            self.report(share)


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
    with _calls:
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
