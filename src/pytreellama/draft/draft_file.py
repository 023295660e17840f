"""A draft model by the name of its file: loaded for an engine, and closed with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytreellama.draft.model import Model, ModelDrafter
from pytreellama.errors import DraftError, ModelLoadError

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.model.model import Model as GgufModel

_N_CTX_LEAST = 8192
_ELSEWHERE = ("hf:", "ollama:")


class DraftFile:
    """Factory of drafters of a draft model's file: what ``drafter="small.gguf"`` makes.

    Unlike ``draft.Model`` it needs no closing: it belongs to one engine at a time, which loads the
    file and closes it. Its KV cache is as large as the engine's.

    Args:
        source: path of a GGUF file, or ``hf:owner/name``, ``ollama:name``.

    Raises:
        DraftError: there is no such file.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        path = os.path.expanduser(source)
        if not source.startswith(_ELSEWHERE) and not os.path.exists(path):
            raise DraftError(
                f"there is no draft model {source}; give the path of a GGUF file with the "
                "target's vocabulary"
            )
        self._target: GgufModel | None = None
        self._context: Context | None = None
        self._model: Model | None = None

    def prepare(self, model: GgufModel) -> None:
        """Get to know the target.

        Raises:
            DraftError: another engine drafts with this.
        """
        if self._context is not None:
            raise DraftError(
                f"another engine drafts with {self._source}; share a draft.Model(path) instead"
            )
        self._target = model

    def attach(self, context: Context) -> None:
        """Load the draft model.

        Raises:
            DraftError: it cannot be loaded, or its vocabulary is another.
        """
        assert self._target is not None
        self._model = self._loaded(context)
        try:
            self._model.prepare(self._target)
            self._model.attach(context)
        except BaseException:
            self._model.close()
            raise
        self._context = context

    def _loaded(self, context: Context) -> Model:
        from pytreellama.model.source import source_path

        n_ctx = max(_N_CTX_LEAST, context.n_ctx)
        try:
            path = source_path(self._source)
            return Model(path, n_ctx=n_ctx, n_seq_max=context.n_seq_max)
        except ModelLoadError as error:
            raise DraftError(f"the draft model cannot be loaded: {error}") from error

    def detach(self, context: Context) -> None:
        """Close the draft model with the engine of this context."""
        if self._context is context and self._model is not None:
            self._model.close()
            self._context = self._model = None

    def __call__(self) -> ModelDrafter:
        """Return a fresh drafter; raises ``DraftError`` without an engine."""
        if self._model is None:
            raise DraftError(f"{self._source} drafts within an engine alone")
        return self._model()

    def __repr__(self) -> str:
        return f"<draft model {self._source}>"
