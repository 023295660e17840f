"""EngineAdapters: an engine's LoRA adapters by name, and the scales that requests use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytreellama.errors import ModelLoadError, RequestError, not_one_of
from pytreellama.model.lora import AdapterSet, Lora, adapter_set
from pytreellama.model.model import Model

Source = Lora | str | os.PathLike[str]

LoraSpec = Source | Sequence[Source] | Mapping[str, Source]
"""An adapter, several, or several by names of one's own; an adapter's name is its file's stem."""


class EngineAdapters:
    """Adapters of one model. A request uses all at the engine's scales, or those that it names.

    Args:
        model: that they are for.
        given: adapters, or paths of their files, which are loaded.

    Attributes:
        scales: of requests that give none, by name; at first 1.0 each.

    Raises:
        ModelLoadError: a file that is no adapter for the model, or a name twice.
    """

    def __init__(self, model: Model, given: LoraSpec | None) -> None:
        self._loaded: list[Lora] = []  # by this object, which closes them
        self._by_name: dict[str, Lora] = {}
        try:
            for name, source in _named(given):
                self._add(model, name, source)
        except BaseException:
            self.close()
            raise
        self.scales: dict[str, float] = dict.fromkeys(self._by_name, 1.0)

    def _add(self, model: Model, name: str, source: Source) -> None:
        if name in self._by_name:
            raise ModelLoadError(
                f"two adapters are called {name!r}; name them, as in lora={{'a': path, 'b': path}}"
            )
        if isinstance(source, Lora):
            source.require_for(model)
        else:
            source = model.load_lora(source)
            self._loaded.append(source)
        self._by_name[name] = source

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order in which they were given."""
        return tuple(self._by_name)

    def path(self, name: str) -> Path:
        """The file of an adapter."""
        return self._by_name[name].path

    def set_of(self, asked: Mapping[str, float] | None) -> AdapterSet:
        """The adapters of a request.

        Args:
            asked: scales by name, others are left out; None for the engine's.

        Raises:
            RequestError: an unknown name, or a scale that is no number.
        """
        if asked is not None and not isinstance(asked, Mapping):
            raise RequestError(
                f"invalid lora of type {type(asked).__name__}: give scales by name, such as "
                "{'style': 0.5}"
            )
        scales = self.scales if asked is None else self.checked(asked)
        # in one order, so that equal requests share prefixes
        return adapter_set((self._by_name[name], scales.get(name, 0.0)) for name in self.names)

    def checked(self, asked: Mapping[str, Any]) -> dict[str, float]:
        """Scales by name, checked; raises as ``set_of``."""
        for name in asked:
            if name not in self._by_name:
                if not self._by_name:
                    raise RequestError(
                        f"invalid lora={name!r}: this engine has no adapters; make it with lora=..."
                    )
                raise RequestError(not_one_of("lora", name, self.names))
        try:
            adapter_set((self._by_name[name], scale) for name, scale in asked.items())
        except ModelLoadError as error:
            raise RequestError(str(error)) from None
        return {name: float(scale) for name, scale in asked.items()}

    def close(self) -> None:
        """Release those that were loaded here."""
        for adapter in self._loaded:
            adapter.close()


def _named(given: LoraSpec | None) -> list[tuple[str, Source]]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return list(given.items())
    several = [given] if isinstance(given, (Lora, str, os.PathLike)) else list(given)
    return [(_stem(source), source) for source in several]


def _stem(source: Source) -> str:
    return source.path.stem if isinstance(source, Lora) else Path(source).stem
