"""Model files: loading them, and the facts that llama.cpp knows of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pytreellama.errors import ModelLoadError
from pytreellama.native.checks import ErrorClass, check, check_pointer
from pytreellama.native.devices import buffer_type, device_list
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log
from pytreellama.process import awaited_calls

Progress = Callable[[float], None]

POOLING_TYPES = {
    int(lib.LLAMA_POOLING_TYPE_MEAN): "mean",
    int(lib.LLAMA_POOLING_TYPE_CLS): "cls",
    int(lib.LLAMA_POOLING_TYPE_LAST): "last",
    int(lib.LLAMA_POOLING_TYPE_RANK): "rank",
}
"""Names of what a file's metadata says of how hidden states become a text's embedding."""


class ModelFields(TypedDict):
    """Fields of ``llama_model_params`` by their names there; mmap and mlock make its load mode.

    ``devices`` are names, None for all; ``split_mode`` is "none", "layer" or "row";
    ``tensor_overrides`` are patterns of tensors' names, each with the name of a buffer type.
    """

    n_gpu_layers: int
    devices: Sequence[str] | None
    main_gpu: int
    split_mode: str
    tensor_split: Sequence[float]
    tensor_overrides: Sequence[tuple[str, str]]
    mmap: bool
    mlock: bool
    check_tensors: bool
    use_extra_bufts: bool
    vocab_only: bool
    load_mtp: bool


# -- loading


class _LoadProgress:
    """What the native progress callback talks to: it may end the load, and keeps the reason."""

    def __init__(self, report: Progress | None) -> None:
        self.report = report
        self.error: BaseException | None = None

    def tell(self, share: float) -> None:
        if awaited_calls.is_ending:
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


def load_model(path: Path, fields: ModelFields, report: Progress | None) -> Handle:
    """Load a checked GGUF file.

    Args:
        report: called with a share from 0.0 to 1.0; what it raises ends the load.

    Raises:
        ModelLoadError: llama.cpp refuses the file, or the program ends meanwhile.
    """
    progress = _LoadProgress(report)
    user_data = ffi.new_handle(progress)
    params, _keep = _model_params(fields)
    params.progress_callback = lib.pytreellama_progress
    params.progress_callback_user_data = user_data
    drain_log()
    with awaited_calls:
        pointer = lib.treellama_model_load(os.fsencode(path), params)
    if progress.error is not None:
        drain_log(errors_only=True)
        if pointer != ffi.NULL:
            lib.llama_model_free(pointer)
        raise progress.error
    check_pointer(pointer, ModelLoadError, f"cannot load {path}", with_log=True)
    drain_log(errors_only=True)
    return Handle(pointer, lib.llama_model_free, "model", ModelLoadError)


def _model_params(fields: ModelFields) -> tuple[Any, list[Any]]:
    """The parameters, and what must live as long as they are used."""
    params = ffi.new("struct llama_model_params *", lib.llama_model_default_params())
    params.n_gpu_layers = fields["n_gpu_layers"]
    params.main_gpu = fields["main_gpu"]
    params.split_mode = getattr(lib, f"LLAMA_SPLIT_MODE_{fields['split_mode'].upper()}")
    keep: list[Any] = []
    if fields["devices"] is not None:
        keep.append(device_list(fields["devices"]))
        params.devices = keep[-1]
    if fields["tensor_split"]:
        shares = [0.0] * lib.llama_max_devices()
        shares[: len(fields["tensor_split"])] = fields["tensor_split"]
        keep.append(ffi.new("float[]", shares))
        params.tensor_split = keep[-1]
    if fields["tensor_overrides"]:
        keep += _tensor_overrides(fields["tensor_overrides"])
        params.tensor_buft_overrides = keep[-1]
    params.load_mode = _load_mode(fields["mmap"], fields["mlock"])
    params.check_tensors = fields["check_tensors"]
    params.use_extra_bufts = fields["use_extra_bufts"]
    params.vocab_only = fields["vocab_only"]
    params.load_mtp = fields["load_mtp"]
    return params, keep


def _tensor_overrides(overrides: Sequence[tuple[str, str]]) -> list[Any]:
    """The patterns, then the list of them; an empty one ends it."""
    patterns = [ffi.new("char[]", pattern.encode()) for pattern, _ in overrides]
    pairs = [
        {"pattern": pattern, "buft": buffer_type(name)}
        for pattern, (_, name) in zip(patterns, overrides, strict=True)
    ]
    end = {"pattern": ffi.NULL, "buft": ffi.NULL}
    return [*patterns, ffi.new("struct llama_model_tensor_buft_override[]", [*pairs, end])]


def _load_mode(mmap: bool, mlock: bool) -> int:
    if mlock:
        mode = lib.LLAMA_LOAD_MODE_MMAP_MLOCK if mmap else lib.LLAMA_LOAD_MODE_MLOCK
    else:
        mode = lib.LLAMA_LOAD_MODE_MMAP if mmap else lib.LLAMA_LOAD_MODE_NONE
    return int(mode)


def check_gguf(path: Path, error: ErrorClass, what: str, hint: str = "") -> None:
    """Raise ``error`` unless a file is a whole GGUF file."""
    drain_log()
    check(lib.treellama_gguf_check(os.fsencode(path)), error, what, with_log=True, hint=hint)


# -- facts


def metadata(model: Handle) -> dict[str, str]:
    """The GGUF metadata as llama.cpp writes it out; arrays are shortened to a summary."""
    pointer = model.pointer
    key_of, value_of = lib.llama_model_meta_key_by_index, lib.llama_model_meta_val_str_by_index
    count = lib.llama_model_meta_count(pointer)
    return {_read_text(key_of, pointer, i): _read_text(value_of, pointer, i) for i in range(count)}


def description(model: Handle) -> str:
    """Architecture, size and quantisation in a few words."""
    return _read_text(lib.llama_model_desc, model.pointer)


def file_type(model: Handle) -> str:
    """The quantisation that most weights have."""
    name: bytes = ffi.string(lib.llama_ftype_name(lib.llama_model_ftype(model.pointer)))
    return name.decode()


def chat_template(model: Handle) -> str | None:
    """The Jinja template in the file, if there is one."""
    text = lib.llama_model_chat_template(model.pointer, ffi.NULL)
    if text == ffi.NULL:
        return None
    raw: bytes = ffi.string(text)
    return raw.decode("utf-8", "replace")


def size(model: Handle) -> int:
    """Bytes of all weights."""
    return int(lib.llama_model_size(model.pointer))


def n_params(model: Handle) -> int:
    """Number of weights."""
    return int(lib.llama_model_n_params(model.pointer))


def n_ctx_train(model: Handle) -> int:
    """Tokens of context that the model was trained for."""
    return int(lib.llama_model_n_ctx_train(model.pointer))


def n_positions(model: Handle) -> int | None:
    """Positions that the model has learned one by one; None if it has no such limit."""
    n_positions = int(lib.treellama_n_positions(model.pointer))
    return n_positions if n_positions >= 0 else None


def n_embd(model: Handle) -> int:
    """Width of the hidden states."""
    return int(lib.llama_model_n_embd(model.pointer))


def n_embd_out(model: Handle) -> int:
    """Width of the embeddings that the model puts out."""
    return int(lib.llama_model_n_embd_out(model.pointer))


def n_layer(model: Handle) -> int:
    """Number of layers."""
    return int(lib.llama_model_n_layer(model.pointer))


def n_head(model: Handle) -> int:
    """Attention heads of the first layer."""
    return int(lib.llama_model_n_head(model.pointer))


def n_head_kv(model: Handle) -> int:
    """Attention heads of the first layer that have keys and values of their own."""
    return int(lib.llama_model_n_head_kv(model.pointer))


def n_swa(model: Handle) -> int:
    """Width of the sliding attention window; 0 if there is none."""
    return int(lib.llama_model_n_swa(model.pointer))


def is_recurrent(model: Handle) -> bool:
    """True for models whose memory is a state."""
    return bool(lib.llama_model_is_recurrent(model.pointer))


def is_hybrid(model: Handle) -> bool:
    """True for models that mix recurrent and attention layers."""
    return bool(lib.llama_model_is_hybrid(model.pointer))


def refusal(model: Handle) -> str | None:
    """Why a model does not generate text from left to right; None if it does."""
    reason = lib.treellama_model_refusal(model.pointer)
    return None if reason == ffi.NULL else bytes(ffi.string(reason)).decode()


def _read_text(function: Any, pointer: Any, *args: int) -> str:
    """Call a llama.h function that fills a buffer and returns the length it needs."""
    size = 256
    while True:
        buffer = ffi.new("char[]", size)
        n_bytes = function(pointer, *args, buffer, size)
        if n_bytes < size:
            return bytes(ffi.buffer(buffer, max(n_bytes, 0))).decode("utf-8", "replace")
        size = n_bytes + 1
