"""OutputLoss: the loss behind an output matrix that stays as it is, and its gradient by hand."""

from __future__ import annotations

from typing import Any

Tensor = Any


class OutputLoss:
    """Cross-entropy of what rows of states predict through an output matrix.

    By hand, because the matrix of logits is what takes the time: it is written once, and read
    once, where autograd would make five of its size.

    Args:
        torch: the package.
        output: the matrix, shape (n_rows, n_embd), on the device and of the type that is fast.
        distil: the share that is learned from the target's distribution; the rest is learned from
            the token that came.
    """

    def __init__(self, torch: Any, output: Tensor, distil: float) -> None:
        self._torch = torch
        self._output = output
        self._distil = distil

    def logits(self, states: Tensor) -> Tensor:
        """Logits of some states, shape (n, n_rows)."""
        return self._torch.nn.functional.linear(states.to(self._output.dtype), self._output)

    def foreseen(self, states: Tensor) -> Tensor | None:
        """The target's distribution for some states of its own; None if none is learned from."""
        if self._distil == 0.0:
            return None
        with self._torch.no_grad():
            return self._torch.softmax(self.logits(states), 1)

    def of(
        self, states: Tensor, wanted: Tensor, foreseen: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """The mean loss against the tokens that came, and the gradient that is learned from.

        Args:
            states: shape (n, n_embd); no gradient flows to them from here.
            wanted: the row of each token that came, negative where the matrix has none.
            foreseen: the target's distribution at the same places.

        Returns:
            The loss, and the gradient for the states, float32, shape (n, n_embd).
        """
        torch = self._torch
        distil = 0.0 if foreseen is None else self._distil
        with torch.no_grad():
            p = torch.softmax(self.logits(states), 1)
            counts = wanted >= 0
            rows = torch.nonzero(counts)[:, 0]
            tokens = wanted[rows]
            loss = -p[rows, tokens].float().clamp_min(1e-30).log().sum() / max(len(rows), 1)
            weights = torch.where(counts, 1.0, distil)
            p *= weights[:, None].to(p.dtype)
            if foreseen is not None:
                p.sub_(foreseen, alpha=distil)
            p[rows, tokens] -= 1.0 - distil
            gradient = (p @ self._output).float() / weights.sum().clamp_min(1.0)
            return float(loss), gradient
