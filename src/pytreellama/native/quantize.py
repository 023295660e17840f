"""llama.cpp's quantiser."""

from __future__ import annotations

import os
from pathlib import Path

from pytreellama.errors import QuantizeError
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import last_error
from pytreellama.process import awaited_calls


def run_quantizer(source: Path, target: Path, ftype: str, n_threads: int, pure: bool) -> None:
    """Write a model file again; it cannot be stopped, and reports to the log.

    Args:
        ftype: a file type, by llama.h's name for it, such as ``Q4_K_M``.
        n_threads: 0 is one a CPU.
        pure: give every tensor the same type.

    Raises:
        QuantizeError: with the C++ exception's text alone, which is empty where only the log says
            why it failed.
    """
    prefix = "LLAMA_FTYPE_ALL_" if ftype == "F32" else "LLAMA_FTYPE_MOSTLY_"
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, prefix + ftype)
    params.nthread = n_threads
    params.pure = pure
    params.allow_requantize = True
    with awaited_calls:
        status = lib.treellama_quantize(
            os.fsencode(source), os.fsencode(target), ffi.addressof(params)
        )
    if status != 0:
        raise QuantizeError(last_error() if status == lib.TREELLAMA_EXCEPTION else "")
