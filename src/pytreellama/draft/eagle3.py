"""The EAGLE-3 drafter: one layer that reads three layers of the target drafts trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytreellama.draft.conditioned import ConditionedFactory
from pytreellama.draft.growth import Grow
from pytreellama.draft.same_vocab import check_same_vocab
from pytreellama.errors import DraftError, ModelLoadError

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.draft.conditioned_cache import ConditionedCache
    from pytreellama.model.model import Model


class Eagle3(ConditionedFactory):
    """Factory of drafters that use an EAGLE-3 file: a GGUF file of llama.cpp's ``eagle3`` format.

    Every level of a tree is a pass of its one layer, for all sequences that draft.

    Source: EAGLE-3 (arXiv 2503.01840); trees: EAGLE-2 (arXiv 2406.16858).

    Example:
        engine = Engine(model, drafter=Eagle3("model.eagle3.gguf"))

    Args:
        path: the GGUF file. Without it, that next to the model's file (``model.eagle3.gguf`` for
            ``model.gguf``).
        grow, top, width, n_levels, min_p, calibrate: as in ``draft.Model``.

    Raises:
        DraftError: options out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        grow: Grow = "best",
        top: int = 4,
        width: int = 4,
        n_levels: int = 6,
        min_p: float = 0.05,
        calibrate: bool = True,
    ) -> None:
        limits = {"top": top, "width": width, "n_levels": n_levels}
        super().__init__("eagle3", grow=grow, min_p=min_p, calibrate=calibrate, **limits)
        self._path = path
        self._draft: Model | None = None

    def prepare(self, model: Model) -> None:
        """Load the file for a target.

        Raises:
            DraftError: there is none, or it is not one for this target.
        """
        from pytreellama.model.model import Model

        self._require_free()
        path = self._path or beside(model)
        if not os.path.lexists(path):
            raise DraftError(
                f"there is no EAGLE-3 file {path} for {model.path.name}; give its path, as in "
                "eagle3=FILE or draft.Eagle3(path)"
            )
        try:
            draft = Model(path)
        except ModelLoadError as error:
            raise DraftError(f"{path} is no EAGLE-3 file that can be loaded: {error}") from error
        try:
            _check_fits(draft, model)
        except BaseException:
            draft.close()
            raise
        self._close_draft()
        self._draft = draft

    def _attached(self, context: Context) -> tuple[list[int], ConditionedCache]:
        from pytreellama.context.draft_context import DraftContext
        from pytreellama.draft.conditioned_cache import N_ENDED, ConditionedCache

        assert self._draft is not None
        layers = self._draft.target_layers
        context.outputs.keep_features(layers)
        n_seq_max = context.n_seq_max + N_ENDED
        draft = DraftContext(self._draft, context, n_seq_max=n_seq_max, is_mtp=False)
        return layers, ConditionedCache(
            draft,
            n_row=len(layers) * context.model.n_embd,
            first=1,
            n_vocab=context.n_vocab,
            encode=draft.encode,
        )

    def detach(self, context: Context) -> None:
        """Free the draft's context and its model."""
        super().detach(context)
        if self._target is context:
            self._close_draft()

    def _close_draft(self) -> None:
        if self._draft is not None:
            self._draft.close()
            self._draft = None


def beside(model: Model) -> str:
    """Where an EAGLE-3 file of a model would be: next to its own file."""
    return str(model.path.with_name(f"{model.path.stem}.eagle3.gguf"))


def _check_fits(draft: Model, target: Model) -> None:
    """Raise ``DraftError`` unless an EAGLE-3 model reads states that this target has."""
    name = draft.path.name
    layers = draft.target_layers
    if draft.architecture != "eagle3" or not layers:
        raise DraftError(
            f"{name} is a model of the architecture {draft.architecture}; give an eagle3 file"
        )
    width = draft.metadata.get("eagle3.target_hidden_size", "unknown")
    if width != str(target.n_embd):
        raise DraftError(
            f"{name} reads hidden states of {width} numbers (eagle3.target_hidden_size), and those "
            f"of {target.path.name} have {target.n_embd}; give a file that was trained for it"
        )
    if min(layers) < 0 or max(layers) > target.n_layer:
        raise DraftError(
            f"{name} reads layers {layers} (eagle3.target_layers), and {target.path.name} has "
            f"layers 0 to {target.n_layer - 1}; give a file that was trained for it"
        )
    sizes = draft.vocab.n_tokens, target.vocab.n_tokens
    if sizes[0] != sizes[1]:
        raise DraftError(
            f"{name} has a vocabulary of {sizes[0]} tokens, and {target.path.name} one of "
            f"{sizes[1]}; give a file that was trained for it"
        )
    check_same_vocab(target.vocab, draft.vocab)
