"""The text before a pass: how many of its cells each sequence's nodes attend to."""

from __future__ import annotations

from pytreellama.context.context import Context
from pytreellama.model.model import Model
from pytreellama.plan import AttentionShare

_BYTES_OF_VALUE = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.0625, "q4_0": 0.5625}
_WINDOW_SHARE = 0.5  # of the layers, where the file does not say; Gemma 2, gpt-oss


class TextSeen:
    """Counts cells of text as attention reads them, and says what theory holds of their cost.

    Layers with a sliding window see no more than that, so behind it a token of text counts only
    for the other layers.

    Args:
        context: the target.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._window = context.model.n_swa
        self._share = _share_of_windows(context.model) if self._window else 0.0

    def cells(self, n_past: int) -> int:
        """Cells that a node behind so many tokens attends to, as if all layers saw as many."""
        if not self._window or n_past <= self._window:
            return n_past
        return self._window + round((1.0 - self._share) * (n_past - self._window))

    def share(self) -> AttentionShare:
        """A cell's work in that of the weights."""
        model, params = self._context.model, self._context.params
        n_kept = model.n_layer * model.n_embd * model.n_head_kv / max(model.n_head, 1)
        n_bytes = n_kept * sum(
            _BYTES_OF_VALUE.get(name, 1.0) for name in (params.type_k, params.type_v)
        )
        n_products = 2.0 * model.n_layer * model.n_embd
        if not n_bytes > 0.0 or not model.size or not model.n_params:
            return AttentionShare()
        return AttentionShare(n_bytes / model.size, n_products / model.n_params)


def _share_of_windows(model: Model) -> float:
    """Of all layers, those with a window: all but one in so many."""
    key = f"{model.architecture}.attention.sliding_window_pattern"
    said = model.metadata.get(key, "")
    return 1.0 - 1.0 / int(said) if said.isdecimal() and int(said) > 0 else _WINDOW_SHARE
