"""Lora: a LoRA adapter of a model, in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pytreellama.closing import Closing
from pytreellama.errors import ModelLoadError, shown
from pytreellama.model.file import ModelFile, check_gguf
from pytreellama.native.handle import Handle
from pytreellama.native.lora import load_lora

if TYPE_CHECKING:
    from pytreellama.model.model import Model


class Lora(Closing):
    """Low-rank changes of a model's weights, which passes add to them; see ``Model.load_lora``.

    Contexts keep an adapter alive that they have used, so closing it meanwhile is safe.

    Attributes:
        path: of its GGUF file, absolute.

    Args:
        model: that it was trained for.
        path: as llama.cpp's ``convert_lora_to_gguf.py`` writes it.

    Raises:
        ModelLoadError: no such file, or not an adapter for this model.
    """

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        self.path: Path = ModelFile.at(path).path
        check_gguf(self.path)
        self._handle = load_lora(model.handle, self.path)
        self._model = model.handle.pointer

    @property
    def handle(self) -> Handle:
        """The native adapter."""
        if self._handle.closed:
            raise ModelLoadError(f"the adapter {self.path.name} is closed; load it again")
        return self._handle

    def require_for(self, model: Model) -> None:
        """Raise ModelLoadError for another model than the one that it was loaded for."""
        if self._model != model.handle.pointer:
            raise ModelLoadError(
                f"the adapter {self.path.name} was loaded for another model; load it for this one"
            )

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def close(self) -> None:
        """Release the adapter; its memory is freed with the last context that used it."""
        self._handle.close()

    def __repr__(self) -> str:
        return f"<Lora {self.path.name}{': closed' if self.closed else ''}>"


AdapterSet = tuple[tuple[Lora, float], ...]
"""Adapters that a pass uses together, each with its scale, which is not 0."""


def adapter_set(adapters: Iterable[tuple[Lora, float]]) -> AdapterSet:
    """A set of adapters without those whose scale is 0.

    Raises:
        ModelLoadError: a scale that is no finite number, or an adapter twice.
    """
    pairs = [(adapter, _checked_scale(scale)) for adapter, scale in adapters]
    if len({id(adapter) for adapter, _ in pairs}) < len(pairs):
        raise ModelLoadError("an adapter is given twice; give each one once, with its scale")
    return tuple((adapter, scale) for adapter, scale in pairs if scale != 0.0)


def _checked_scale(scale: object) -> float:
    is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not is_number or not abs(scale) <= _MAX_SCALE:  # type: ignore[arg-type]
        raise ModelLoadError(
            f"invalid scale={shown(scale)} of an adapter: expected a number from -{_MAX_SCALE:g} "
            f"to {_MAX_SCALE:g}"
        )
    return float(scale)  # type: ignore[arg-type]


_MAX_SCALE = 1000.0
