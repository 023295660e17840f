"""BERT in float64, as its paper has it: what a tiny random model's hidden states must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


class PlainBert:
    """The weights of a GGUF file of F32 tensors, and the forward pass.

    Args:
        n_head: attention heads.
    """

    def __init__(self, path: Path, n_head: int) -> None:
        self._w: Mapping[str, Float64] = {
            tensor.name: np.array(tensor.data, np.float64) for tensor in GGUFReader(path).tensors
        }
        self._n_head = n_head
        self._n_layer = sum(name.endswith("attn_q.weight") for name in self._w)

    def states(self, tokens: Sequence[int]) -> Float64:
        """Hidden states behind the last norm, shape (n_tokens, n_embd)."""
        x = self._w["token_embd.weight"][list(tokens)] + self._w["token_types.weight"][0]
        x = self._norm(x + self._w["position_embd.weight"][: len(tokens)], "token_embd_norm")
        for layer in range(self._n_layer):
            x = self._block(x, f"blk.{layer}")
        return x

    def score(self, tokens: Sequence[int]) -> float:
        """The classifier's output, from the first token's state."""
        hidden = np.tanh(self._linear(self.states(tokens)[:1], "cls"))
        return float(self._linear(hidden, "cls.output")[0, 0])

    def _block(self, x: Float64, b: str) -> Float64:
        x = self._norm(x + self._attention(x, b), f"{b}.attn_output_norm")
        hidden = _gelu(self._linear(x, f"{b}.ffn_up"))
        return self._norm(x + self._linear(hidden, f"{b}.ffn_down"), f"{b}.layer_output_norm")

    def _attention(self, x: Float64, b: str) -> Float64:
        n, width = x.shape
        d = width // self._n_head
        q, k, v = (
            self._linear(x, f"{b}.attn_{name}").reshape(n, self._n_head, d).swapaxes(0, 1)
            for name in "qkv"
        )
        scores = q @ k.swapaxes(1, 2) / d**0.5
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ v).swapaxes(0, 1).reshape(n, width)
        return self._linear(mixed, f"{b}.attn_output")

    def _linear(self, x: Float64, stem: str) -> Float64:
        product: Float64 = x @ self._w[f"{stem}.weight"].T
        found: Float64 = product + self._w[f"{stem}.bias"]
        return found

    def _norm(self, x: Float64, stem: str) -> Float64:
        spread = (x.var(axis=-1, keepdims=True) + 1e-5) ** 0.5
        scaled: Float64 = (x - x.mean(axis=-1, keepdims=True)) / spread
        found: Float64 = scaled * self._w[f"{stem}.weight"] + self._w[f"{stem}.bias"]
        return found


def _gelu(x: Float64) -> Float64:
    """By the tanh that ggml's ``gelu`` has too."""
    inner: Float64 = (2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)
    found: Float64 = 0.5 * x * (1 + np.tanh(inner))
    return found
