"""The MTP drafter: the NextN layers in the model's own file draft trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytreellama.draft.conditioned import ConditionedFactory
from pytreellama.draft.growth import Grow
from pytreellama.errors import DraftError

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.draft.conditioned_cache import ConditionedCache
    from pytreellama.model.model import Model


class MTP(ConditionedFactory):
    """Factory of drafters that use the model's own NextN layers (multi-token prediction).

    Files of DeepSeek V3, GLM 4.5 and later, Qwen3-Next, Qwen3.5, Nemotron 3 and others have such
    layers. They are loaded on request: ``Model(path, load_mtp=True)``. Every level of a tree is a
    pass of the first layer, for all sequences that draft; deeper levels use it again.

    Source: DeepSeek-V3 (arXiv 2412.19437); trees: EAGLE-2 (arXiv 2406.16858).

    Example:
        model = Model("model.gguf", load_mtp=True)
        engine = Engine(model, drafter=MTP())

    Args:
        grow, top, width, n_levels, min_p, calibrate: as in ``draft.Model``.

    Raises:
        DraftError: options out of range.
    """

    uses_mtp = True

    def __init__(
        self,
        *,
        grow: Grow = "best",
        top: int = 4,
        width: int = 4,
        n_levels: int = 4,
        min_p: float = 0.05,
        calibrate: bool = True,
    ) -> None:
        limits = {"top": top, "width": width, "n_levels": n_levels}
        super().__init__("mtp", grow=grow, min_p=min_p, calibrate=calibrate, **limits)

    def prepare(self, model: Model) -> None:
        """Raise ``DraftError`` unless the model has NextN layers, loaded."""
        why_not = _WHY_NOT.get(model.mtp)
        if why_not is not None:
            raise DraftError(f"{model.path.name} ({model.architecture}) {why_not}".format(model))

    def _attached(self, context: Context) -> tuple[list[int], ConditionedCache]:
        from pytreellama.context.draft_context import DraftContext
        from pytreellama.draft.conditioned_cache import N_ENDED, ConditionedCache

        model = context.model
        layers = [model.n_layer]
        context.outputs.keep_features(layers)
        n_seq_max = context.n_seq_max + N_ENDED
        draft = DraftContext(model, context, n_seq_max=n_seq_max, is_mtp=True)
        return layers, ConditionedCache(
            draft, n_row=model.n_embd_out, first=0, n_vocab=context.n_vocab
        )


_WHY_NOT = {
    "none": "has no NextN layers (no {0.architecture}.nextn_predict_layers in its metadata); "
    "draft with another drafter, such as suffix",
    "not loaded": "has NextN layers, and they were not loaded; load it with "
    "Model(..., load_mtp=True)",
    "no graph": "has NextN layers that this version of llama.cpp cannot run; draft with another "
    "drafter, such as suffix",
}
