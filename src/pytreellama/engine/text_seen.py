"""TextSeen: how many KV-cache cells the nodes of a pass attend to, and what a cell costs."""

from __future__ import annotations

from pytreellama.context.context import Context
from pytreellama.model.model import Model
from pytreellama.plan import AttentionShare

_BYTES_OF_VALUE = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.0625, "q4_0": 0.5625}
_WINDOW_SHARE = 0.5  # of the layers, where the file does not say; Gemma 2, gpt-oss


class TextSeen:
    """Counts cells as attention reads them, and estimates their cost without measurements.

    Layers with a sliding window attend to no more cells than the window has, so beyond it a token
    counts for the other layers only.

    Args:
        context: the target.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._window = context.model.n_swa
        self._share = _share_of_windows(context.model) if self._window else 0.0

    def cells(self, n_past: int) -> int:
        """Cells that a node after ``n_past`` tokens attends to, as the mean over all layers."""
        if not self._window or n_past <= self._window:
            return n_past
        return self._window + round((1.0 - self._share) * (n_past - self._window))

    def share(self) -> AttentionShare:
        """Work for one cell as a share of the work for the weights: bytes and products."""
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
    """Share of the layers that have a window, where every n-th layer has none."""
    key = f"{model.architecture}.attention.sliding_window_pattern"
    said = model.metadata.get(key, "")
    return 1.0 - 1.0 / int(said) if said.isdecimal() and int(said) > 0 else _WINDOW_SHARE
