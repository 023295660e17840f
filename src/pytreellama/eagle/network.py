"""Network: the one layer of an EAGLE-3 head in PyTorch, as llama.cpp's ``eagle3`` graph has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pytreellama.eagle.lesson_batch import LessonBatch

Tensor = Any

_MAX_GROUP = 4  # query heads that share a head of keys and values


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Sizes of a head.

    Attributes:
        n_embd: width of the target's hidden states and of the head's.
        n_ff: width of the feed-forward block.
        rope_base: base frequency of the rotary position embedding.
        eps: of the norms.
    """

    n_embd: int
    n_ff: int
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return 64

    @property
    def n_head(self) -> int:
        return max(1, self.n_embd // self.head_dim)

    @property
    def n_head_kv(self) -> int:
        group = max(g for g in range(1, _MAX_GROUP + 1) if self.n_head % g == 0)
        return self.n_head // group

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, by the names of their tensors in a file."""
        e, f = self.n_embd, self.n_ff
        q, kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        return {
            "fc": (e, 3 * e),
            "blk.0.attn_norm": (e,),
            "blk.0.attn_norm_2": (e,),
            "blk.0.attn_q": (q, 2 * e),
            "blk.0.attn_k": (kv, 2 * e),
            "blk.0.attn_v": (kv, 2 * e),
            "blk.0.attn_output": (e, q),
            "blk.0.ffn_norm": (e,),
            "blk.0.ffn_gate": (f, e),
            "blk.0.ffn_up": (f, e),
            "blk.0.ffn_down": (e, f),
            "output_norm": (e,),
        }


class _Keys(NamedTuple):
    """Keys and values of cells, float, shape (n, n_head_kv, head_dim), and where the cells are."""

    keys: Tensor
    values: Tensor
    place: Tensor


def _padded(rows: Tensor, place: Tensor, n_places: int) -> Tensor:
    """Rows at their places; what is between them is zero."""
    padded = rows.new_zeros((n_places, *rows.shape[1:]))
    return padded.index_copy(0, place, rows)


class Network:
    """The forward pass of a head, over texts and over its own states below them.

    Args:
        torch: the package.
        shape: sizes.
        parameters: tensors by the names of ``HeadShape.sizes``.
    """

    def __init__(self, torch: Any, shape: HeadShape, parameters: dict[str, Tensor]) -> None:
        self._torch = torch
        self._shape = shape
        self._parameters = parameters

    def unrolled(
        self, batch: LessonBatch, features: Tensor, embeddings: Tensor, n_unroll: int
    ) -> list[Tensor]:
        """The head's normed states: with the target's features, then with its own states.

        In step k each cell reads the state of step k - 1 before it, as a draft node of depth k
        does, and attends to what such a node sees: cells of the target's features up to k places
        before, then one cell of each later step.

        Source: training-time test of EAGLE-3 (arXiv 2503.01840).

        Args:
            batch: where the cells are.
            features: of each cell, float, shape (n_cells, 3 * n_embd).
            embeddings: of each cell's token, float, shape (n_cells, n_embd).

        Returns:
            Of step k, the states of the cells ``batch.answer_rows(k)``, shape (n, n_embd).
        """
        fused = self._linear("fc", features)
        inputs = self._inputs(embeddings, fused)
        texts = _Keys(*self._keys(inputs, batch.columns), batch.place)
        below: list[_Keys] = []
        states, normed = fused[batch.answer_rows(0)], []
        for step in range(n_unroll):
            rows = batch.answer_rows(step)
            if step:
                states = states[batch.before(step)]
                inputs = self._inputs(embeddings[rows], states)
                place = batch.answer_place(step)
                below.append(_Keys(*self._keys(inputs, batch.columns[rows]), place))
            else:
                inputs = inputs[rows]
            queries = self._rotated("blk.0.attn_q", inputs, batch.columns[rows])
            seen = self._attention(batch, step, queries, texts, below)
            states = self._block(states, seen)
            normed.append(self._norm("output_norm", states))
        return normed

    # -- the parts of the layer

    def _inputs(self, embeddings: Tensor, states: Tensor) -> Tensor:
        normed = self._norm("blk.0.attn_norm", embeddings), self._norm("blk.0.attn_norm_2", states)
        return self._torch.cat(normed, 1)

    def _keys(self, inputs: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        values = self._linear("blk.0.attn_v", inputs)
        return self._rotated("blk.0.attn_k", inputs, columns), self._by_head(values)

    def _block(self, states: Tensor, seen: Tensor) -> Tensor:
        silu = self._torch.nn.functional.silu
        states = states + self._linear("blk.0.attn_output", seen).float()
        x = self._norm("blk.0.ffn_norm", states)
        inner = silu(self._linear("blk.0.ffn_gate", x)) * self._linear("blk.0.ffn_up", x)
        return states + self._linear("blk.0.ffn_down", inner).float()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self._torch.nn.functional.linear(x, self._parameters[name])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        x = x.float()
        size = x.square().mean(1, keepdim=True).add(self._shape.eps).rsqrt()
        return x * size * self._parameters[name]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(len(x), x.shape[1] // self._shape.head_dim, self._shape.head_dim)

    def _rotated(self, name: str, inputs: Tensor, columns: Tensor) -> Tensor:
        """A projection by heads, with rotated pairs of neighbours (llama.cpp's NORM order)."""
        torch, n = self._torch, self._shape.head_dim
        x = self._by_head(self._linear(name, inputs).float())
        rates = self._shape.rope_base ** (-torch.arange(0, n, 2, device=columns.device) / n)
        angles = (columns[:, None].float() * rates)[:, None]
        cos, sin = angles.cos(), angles.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(2)

    # -- attention

    def _attention(
        self, batch: LessonBatch, step: int, queries: Tensor, texts: _Keys, below: list[_Keys]
    ) -> Tensor:
        """What the cells of a step see, shape (n, n_head * head_dim)."""
        torch, shape = self._torch, self._shape
        n_texts, n_answer, n_columns = batch.sizes
        n_kv, n_group = shape.n_head_kv, shape.n_head // shape.n_head_kv
        place = batch.answer_place(step)
        n_places = n_texts * n_answer
        q = _padded(queries, place, n_places) * shape.head_dim**-0.5
        q = q.view(n_texts, n_answer, n_kv, n_group, -1)
        keys, values = (
            _padded(x, texts.place, n_texts * n_columns)
            .view(n_texts, n_columns, n_kv, -1)
            .transpose(1, 2)
            for x in texts[:2]
        )
        flat_q = q.permute(0, 2, 3, 1, 4).reshape(n_texts, n_kv, n_group * n_answer, -1)
        scores = (flat_q @ keys.transpose(2, 3)).float()
        scores = scores.view(n_texts, n_kv, n_group, n_answer, n_columns)
        scores = scores.masked_fill(~batch.sees(step)[:, None, None], float("-inf"))
        own = [self._shifted(one, i, step, batch) for i, one in enumerate(below, 1)]
        chain = [(q * k[:, :, :, None]).sum(-1).permute(0, 2, 3, 1)[..., None] for k, _ in own]
        weights = torch.softmax(torch.cat([scores, *chain], -1), -1)
        on_text = weights[..., :n_columns].reshape(n_texts, n_kv, n_group * n_answer, n_columns)
        seen = (on_text @ values).float().view(n_texts, n_kv, n_group, n_answer, -1)
        seen = seen.permute(0, 3, 1, 2, 4)
        for i, (_, v) in enumerate(own):
            weight = weights[..., n_columns + i].permute(0, 3, 1, 2)
            seen = seen + weight[..., None] * v[:, :, :, None]
        return seen.reshape(n_places, -1)[place]

    def _shifted(self, keys: _Keys, of_step: int, step: int, batch: LessonBatch) -> tuple[Any, Any]:
        """Keys and values of an earlier step, each at the place of the cell that sees it."""
        n_texts, n_answer, _ = batch.sizes
        place = keys.place + (step - of_step)
        is_inside = place // n_answer == keys.place // n_answer
        k, v = (
            _padded(x[is_inside], place[is_inside], n_texts * n_answer).view(
                n_texts, n_answer, self._shape.n_head_kv, -1
            )
            for x in keys[:2]
        )
        return k, v
