"""Training: heads that learn from stored texts what a model writes next."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MedusaError, not_one_of
from pytreellama.medusa.store import Texts
from pytreellama.medusa.weights import HeadsFile, HeadWeights
from pytreellama.model.heads import SEES, Sees, n_seen
from pytreellama.training.accuracy import Accuracy
from pytreellama.training.checkpoint import read_checkpoint, write_checkpoint
from pytreellama.training.frequent import frequent_tokens, rows_of_tokens
from pytreellama.training.loss import OutputLoss
from pytreellama.training.pytorch import is_fast_in_bfloat16, torch_for_training
from pytreellama.training.target import Target

_RUN = 16  # places that are learned from together, so that what the model foresaw serves all heads
_WARM_UP = 100  # steps in which the rate of learning rises
_CHECKPOINT_S = 60.0
_N_HELD_OUT = 8192  # positions that accuracies are measured on


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What is trained, and how long. Raises MedusaError if out of range."""

    n_heads: int = 4
    n_layers: int = 2
    sees: Sees = "path"
    n_shortlist: int = 8192
    """Tokens that heads can guess, the most frequent ones of the texts; 0 for all."""
    n_epochs: int = 4
    """Times that each position is learned from."""
    n_batch: int = 1024
    learning_rate: float = 3e-3
    distil: float = 0.8
    """How much is learned from all that the model foresaw at a place; the rest, from what came."""
    seed: int = 1

    def __post_init__(self) -> None:
        if self.sees not in SEES:
            raise MedusaError(not_one_of("sees", self.sees, SEES))
        for name, least, most in (
            ("n_heads", 1, 16),
            ("n_layers", 1, 16),
            ("n_shortlist", 0, 2**31 - 1),
            ("n_epochs", 1, 10_000),
            ("n_batch", 1, 2**20),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise MedusaError(f"invalid {name}={value}: expected {least} to {most}")
        if not 0.0 < self.learning_rate <= 1.0:
            raise MedusaError(
                f"invalid learning_rate={self.learning_rate}: expected more than 0, at most 1"
            )
        if not 0.0 <= self.distil <= 1.0:
            raise MedusaError(f"invalid distil={self.distil}: expected 0 to 1")

    @property
    def key(self) -> str:
        """A short name for just these options."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """How far training is. loss: natural logarithm, mean of the heads; seconds: all of it."""

    step: int
    n_steps: int
    loss: float
    seconds: float


class Training:
    """Trains the blocks of heads; the output matrix stays the model's.

    Each head learns by cross-entropy what the model foresaw at its place, and which token it wrote;
    it sees the true tokens before its own. Rates follow a cosine. What is learned is put on disk
    every minute, so that training goes on where it was interrupted.

    Source: Medusa-1 (arXiv 2401.10774); heads that see earlier tokens, and learn from the model's
    own distribution: Hydra (arXiv 2402.05109).

    Args:
        target: whose heads they are.
        texts: what it wrote.
        options: what is trained.
        folder: where it is kept while it is trained.

    Raises:
        MedusaError: PyTorch is missing, or there is too little text.
    """

    def __init__(
        self, target: Target, texts: Texts, options: TrainingOptions, folder: Path
    ) -> None:
        self._torch = torch = torch_for_training()
        self._options = options
        self._target = target
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # where products of bfloat16 are no faster, they are only worse
        self._is_fast = is_fast_in_bfloat16(torch)
        self._learned = texts.positions(options.n_heads, held_out=False)
        self._held_out = _some(texts.positions(options.n_heads, held_out=True), options.seed)
        if len(self._learned) < options.n_batch or not len(self._held_out):
            raise MedusaError(
                f"there are {len(self._learned)} places to learn from and {len(self._held_out)} to "
                f"measure on; a batch alone takes {options.n_batch}: let the model write more"
            )
        self.shortlist = frequent_tokens(texts.tokens, target.n_vocab, options.n_shortlist)
        self._tokens = torch.from_numpy(texts.tokens.astype(np.int64))
        self._states = torch.from_numpy(texts.states)
        self._embeddings = self._table()
        self._loss = OutputLoss(torch, self._matrix(), options.distil)
        self._row_of = torch.from_numpy(rows_of_tokens(self.shortlist, target.n_vocab))
        self._parameters = self._first_parameters()
        self._optimiser = torch.optim.AdamW(
            [one for head in self._parameters for one in head],
            lr=options.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            fused=True,
        )
        self._epoch, self._order = -1, self._learned
        self._path = folder / f"training-{options.key}-{len(texts.tokens)}.pt"
        self._step, self._seconds = read_checkpoint(
            torch, self._path, self._device, self._restore, self._optimiser
        )

    # -- what is trained, and on what

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""
        return self._options.n_epochs * self._n_epoch_steps

    @property
    def _n_epoch_steps(self) -> int:
        return len(self._learned) // self._options.n_batch

    @property
    def seconds(self) -> float:
        """What it took so far, before interruptions too."""
        return self._seconds

    @property
    def n_steps_done(self) -> int:
        """Steps that are done, before interruptions too."""
        return self._step

    def _table(self) -> Any:
        if self._options.sees == "none":
            return None
        return self._torch.from_numpy(self._target.embeddings()).bfloat16()

    def _matrix(self) -> Any:
        rows = self._torch.from_numpy(self._target.output_rows(self.shortlist))
        rows = rows * self._target.logit_scale
        return (rows.bfloat16() if self._is_fast else rows).to(self._device)

    def _first_parameters(self) -> list[list[Any]]:
        """Of each head, weights and biases in turn; blocks begin as little more than nothing."""
        torch, n_embd = self._torch, self._target.n_embd
        random = torch.Generator().manual_seed(self._options.seed)
        heads = []
        for head in range(self._options.n_heads):
            parameters = []
            for layer in range(self._options.n_layers):
                n_in = n_embd * (1 + n_seen(self._options.sees, head) if layer == 0 else 1)
                weight = 0.01 * torch.randn((n_embd, n_in), generator=random)
                parameters += [weight, torch.zeros(n_embd)]
            heads.append([p.to(self._device).requires_grad_() for p in parameters])
        return heads

    # -- the steps

    def run(self, report: Callable[[TrainingStep], None] = lambda _: None) -> None:
        """Train to the end, from where it was left."""
        saved_s = time.monotonic()
        while self._step < self.n_steps:
            started_s = time.perf_counter()
            loss = self._train(self._batch(self._step))
            self._step += 1
            self._seconds += time.perf_counter() - started_s
            report(TrainingStep(self._step, self.n_steps, loss, self._seconds))
            if time.monotonic() - saved_s > _CHECKPOINT_S or self._step == self.n_steps:
                self.save()
                saved_s = time.monotonic()

    def _batch(self, step: int) -> Any:
        """The places of a step: every epoch has each of them once, in an order of its own."""
        n_batch = self._options.n_batch
        epoch, i = divmod(step, self._n_epoch_steps)
        if self._epoch != epoch:
            random = np.random.default_rng((self._options.seed, epoch))
            n_run = math.gcd(_RUN, n_batch)
            runs = self._learned[: len(self._learned) // n_run * n_run].reshape(-1, n_run)
            self._epoch, self._order = epoch, random.permutation(runs).ravel()
        return self._torch.from_numpy(self._order[i * n_batch : (i + 1) * n_batch])

    def _train(self, places: Any) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = self._options.learning_rate * self._rate()
        self._optimiser.zero_grad(set_to_none=True)
        total = 0.0
        foreseen = self._foreseen(places)
        for head in range(self._options.n_heads):
            wanted = self._row_of[self._tokens[places + head + 1]].to(self._device)
            states = self._draft_states(head, places)
            loss, gradient = self._loss.of(states.detach(), wanted, foreseen(head))
            states.backward(gradient)
            total += loss
        self._optimiser.step()
        return total / self._options.n_heads

    def _rate(self) -> float:
        rising = (self._step + 1) / min(_WARM_UP, self.n_steps)
        return min(rising, 0.5 * (1 + math.cos(math.pi * self._step / self.n_steps)))

    def _foreseen(self, places: Any) -> Callable[[int], Any]:
        """By head, what the model itself held likely at the head's places, shape (n, n_rows)."""
        torch = self._torch
        if self._options.distil == 0.0:
            return lambda head: None
        ahead = torch.arange(1, self._options.n_heads + 1)
        needed = torch.unique(places[:, None] + ahead)  # sorted
        with torch.no_grad():
            p = torch.softmax(self._loss.logits(self._states[needed].to(self._device)), 1)
        return lambda head: p[torch.searchsorted(needed, places + head + 1).to(self._device)]

    def _draft_states(self, head: int, places: Any) -> Any:
        """What a head makes of the states at some places, before the output matrix."""
        torch = self._torch
        states = self._states[places].float().to(self._device)
        seen = [
            self._embeddings[self._tokens[places + i]].to(self._device)
            for i in range(n_seen(self._options.sees, head))
        ]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_fast):
            x = states
            parameters = self._parameters[head]
            for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
                inner = torch.cat([x, *(one.float() for one in seen)], 1)
                x = x + torch.nn.functional.silu(torch.nn.functional.linear(inner, weight, bias))
                seen = []
        return x.float()

    # -- how good it is

    def accuracy(self) -> Accuracy:
        """Measure the heads on the held-out texts."""
        torch = self._torch
        places = torch.from_numpy(self._held_out)
        n_top = min(5, len(self.shortlist))
        top1, top5, tokens_per_step = [], [], 1.0
        is_right = torch.ones(len(places), dtype=torch.bool)
        with torch.no_grad():
            for head in range(self._options.n_heads):
                wanted = self._row_of[self._tokens[places + head + 1]]
                found = torch.cat(
                    [
                        self._loss.logits(self._draft_states(head, part)).topk(n_top).indices.cpu()
                        for part in places.split(1024)
                    ]
                )
                hits = found == wanted[:, None]
                is_right &= hits[:, 0]
                top1.append(float(hits[:, 0].float().mean()))
                top5.append(float(hits.any(1).float().mean()))
                tokens_per_step += float(is_right.float().mean())
        return Accuracy(tuple(top1), tuple(top5), tokens_per_step, len(places))

    # -- files

    def save(self) -> None:
        """Put what is learned on disk."""
        parameters = [[one.detach() for one in head] for head in self._parameters]
        write_checkpoint(
            self._torch, self._path, parameters, self._optimiser, self._step, self._seconds
        )

    def _restore(self, saved: list[list[Any]]) -> None:
        for head, values in zip(self._parameters, saved, strict=True):
            for one, value in zip(head, values, strict=True):
                one.data.copy_(value)

    def heads_file(self, facts: dict[str, Any]) -> HeadsFile:
        """The heads as they are now, with facts beside those of the training."""
        heads = []
        for parameters in self._parameters:
            arrays = [one.detach().float().cpu().numpy() for one in parameters]
            heads.append(HeadWeights(tuple(arrays[::2]), tuple(arrays[1::2])))
        return HeadsFile(
            tuple(heads),
            self._options.sees,
            self._target.name,
            self._target.hash,
            shortlist=self.shortlist if self._options.n_shortlist else None,
            logit_scale=self._target.logit_scale,
            licence=self._target.licence,
            facts={
                **facts,
                "training.n_steps": self._step,
                "training.seconds": self._seconds,
                **{f"training.{name}": value for name, value in asdict(self._options).items()},
            },
        )


def _some(places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    chosen = np.random.default_rng(seed).permutation(len(places))[:_N_HELD_OUT]
    return places[np.sort(chosen)]
