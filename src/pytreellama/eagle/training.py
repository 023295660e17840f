"""Training: a head learns from stored lessons what its model writes next."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.eagle.features import Lesson
from pytreellama.eagle.head_file import HeadFile
from pytreellama.eagle.lesson_batch import LessonBatch
from pytreellama.eagle.lessons import split_lessons
from pytreellama.eagle.network import HeadShape, Network
from pytreellama.errors import MedusaError
from pytreellama.training.accuracy import Accuracy
from pytreellama.training.checkpoint import read_checkpoint, write_checkpoint
from pytreellama.training.frequent import frequent_tokens, rows_of_tokens
from pytreellama.training.loss import OutputLoss
from pytreellama.training.progress import Progress
from pytreellama.training.pytorch import is_fast_in_bfloat16, torch_for_training
from pytreellama.training.target import Target

Tensor = Any

_WARM_UP = 100  # steps in which the learning rate rises
_CHECKPOINT_S = 60.0
_N_MEASURED = 256  # held-out texts that accuracies are measured on
_N_SCALE = 64  # texts that the scale of features is taken from
_LATER_STEPS = 0.8  # weight of an unrolled step, relative to the one before it
_MAX_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class EagleOptions:
    """What is trained, and how long. Raises ``MedusaError`` if out of range."""

    n_shortlist: int = 8192
    """Tokens that the head can draft, the most frequent ones of the texts; 0 for all."""
    n_ff: int = 0
    """Width of the feed-forward block; 0 for 8/3 of the hidden states' width."""
    n_unroll: int = 4
    """Steps of the training-time test: the first on the target's features, others on its own."""
    n_epochs: int = 4
    """Times that each text is learned from."""
    minutes: float = 0.0
    """Maximum time of training; 0 for no limit."""
    n_batch: int = 8
    """Texts in a training step."""
    learning_rate: float = 1.5e-3
    distil: float = 0.8
    """Share that is learned from the target's distribution; the rest, from the tokens that came."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("n_shortlist", 0, 2**31 - 1),
            ("n_ff", 0, 2**20),
            ("n_unroll", 1, 16),
            ("n_epochs", 1, 10_000),
            ("minutes", 0.0, 1e6),
            ("n_batch", 1, 2**16),
            ("distil", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise MedusaError(f"invalid {name}={value}: expected {least} to {most}")
        if not 0.0 < self.learning_rate <= 1.0:
            raise MedusaError(
                f"invalid learning_rate={self.learning_rate}: expected more than 0, at most 1"
            )

    @property
    def key(self) -> str:
        """A short name for just these options."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


class EagleTraining:
    """Trains a head's layer; the output matrix stays the target's.

    The learning rate follows a cosine, to the end of the steps or of the time, whichever is
    sooner. A checkpoint is written every minute, from which an interrupted training resumes.

    Source: EAGLE-3 (arXiv 2503.01840).

    Args:
        target: whose head it is.
        layers: of the target, whose inputs the features are.
        lessons: texts with their hidden states.
        options: what is trained.
        folder: for checkpoints.

    Raises:
        MedusaError: PyTorch is missing, or there is too little text.
    """

    def __init__(
        self,
        target: Target,
        layers: Sequence[int],
        lessons: Sequence[Lesson],
        options: EagleOptions,
        folder: Path,
    ) -> None:
        self._torch = torch = torch_for_training()
        self._target, self._layers, self._options = target, tuple(layers), options
        learned, held_out = split_lessons([one for one in lessons if len(one.answer) > 1])
        if len(learned) < options.n_batch or not held_out:
            raise MedusaError(
                f"there are {len(learned)} texts to learn from and {len(held_out)} to measure on; "
                f"a batch alone takes {options.n_batch}: let the model write more"
            )
        self._learned, self._held_out = learned, held_out
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._is_fast = is_fast_in_bfloat16(torch)
        answers = np.concatenate([one.answer for one in learned])
        self.shortlist = frequent_tokens(answers, target.n_vocab, options.n_shortlist)
        rows = rows_of_tokens(self.shortlist, target.n_vocab)
        self._row_of = torch.from_numpy(rows).to(self._device)
        self._output = target.output_rows(self.shortlist)
        output = torch.from_numpy(self._output).to(self._device) * target.logit_scale
        output = output.bfloat16() if self._is_fast else output
        self._loss = OutputLoss(torch, output, options.distil)
        self._embeddings = torch.from_numpy(target.embedding_rows()).to(self._device)
        self._scale = torch.from_numpy(_feature_scale(learned[:_N_SCALE])).to(self._device)
        self._shape = HeadShape(
            target.n_embd,
            options.n_ff or 64 * math.ceil(target.n_embd * 8 / 3 / 64),
            target.rope_base,
            target.norm_eps,
        )
        self._parameters = self._first_parameters()
        self._network = Network(torch, self._shape, self._parameters)
        self._optimiser = self._new_optimiser()
        self._path = folder / f"training-{options.key}-{len(lessons)}.pt"
        self._step, self._seconds = read_checkpoint(
            torch, self._path, self._device, self._restore, self._optimiser
        )

    def _first_parameters(self) -> dict[str, Tensor]:
        """Small random matrices; the last layer's features pass through ``fc`` as they are."""
        torch = self._torch
        random = torch.Generator().manual_seed(self._options.seed)
        parameters: dict[str, Tensor] = {}
        for name, size in self._shape.sizes().items():
            if len(size) == 1:
                parameters[name] = torch.ones(size)
                continue
            parameters[name] = torch.randn(size, generator=random) * 0.5 * size[1] ** -0.5
            if name.endswith(("attn_output", "ffn_down")):
                parameters[name] *= 0.2
        n_embd = self._shape.n_embd
        parameters["fc"][:, -n_embd:] += torch.eye(n_embd)
        states = np.concatenate([one.states for one in self._learned[:_N_SCALE]])
        parameters["output_norm"] = torch.from_numpy(_root_mean_square(states))
        return {name: one.to(self._device).requires_grad_() for name, one in parameters.items()}

    def _new_optimiser(self) -> Any:
        matrices = [one for one in self._parameters.values() if one.ndim > 1]
        norms = [one for one in self._parameters.values() if one.ndim == 1]
        return self._torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}],
            lr=self._options.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )

    # -- the steps

    @property
    def n_steps(self) -> int:
        """Steps of the whole training, if its time does not end it sooner."""
        return self._options.n_epochs * self._n_epoch_steps

    @property
    def _n_epoch_steps(self) -> int:
        return len(self._learned) // self._options.n_batch

    @property
    def seconds(self) -> float:
        """What training took so far, before interruptions too."""
        return self._seconds

    @property
    def n_steps_done(self) -> int:
        """Steps that are done, before interruptions too."""
        return self._step

    @property
    def share(self) -> float:
        """Share of the training that is done, by steps or by time."""
        by_time = self._seconds / (60 * self._options.minutes) if self._options.minutes else 0.0
        return min(max(self._step / self.n_steps, by_time), 1.0)

    def run(self, report: Callable[[Progress], None] = lambda _: None) -> None:
        """Train to the end, from where it was left."""
        saved_s = time.monotonic()
        while self.share < 1.0:
            started_s = time.perf_counter()
            loss = self._train(self._batch(self._step))
            self._step += 1
            self._seconds += time.perf_counter() - started_s
            report(self._progress(loss))
            if time.monotonic() - saved_s > _CHECKPOINT_S or self.share >= 1.0:
                self.save()
                saved_s = time.monotonic()

    def _progress(self, loss: float) -> Progress:
        n_all = round(self._step / self.share)  # fewer than n_steps where the time ends first
        left_s = self._seconds / self.share * (1.0 - self.share)
        return Progress("training", self._step, n_all, left_s, loss)

    def _batch(self, step: int) -> LessonBatch:
        """The texts of a step: every epoch has each of them once, in an order of its own."""
        epoch, i = divmod(step, self._n_epoch_steps)
        n_batch = self._options.n_batch
        order = np.random.default_rng((self._options.seed, epoch)).permutation(len(self._learned))
        chosen = order[i * n_batch : (i + 1) * n_batch]
        return LessonBatch(self._torch, [self._learned[j] for j in chosen], self._device)

    def _train(self, batch: LessonBatch) -> float:
        torch = self._torch
        for group in self._optimiser.param_groups:
            group["lr"] = self._options.learning_rate * self._rate()
        self._optimiser.zero_grad(set_to_none=True)
        states = self._states(batch)
        foreseen = self._loss.foreseen(batch.states)
        wanted = self._row_of[batch.wanted]
        losses, gradients = [], []
        weights = [_LATER_STEPS**step for step in range(len(states))]
        for step, one in enumerate(states):
            kept = batch.kept(step)
            seen = None if foreseen is None else foreseen[kept]
            loss, gradient = self._loss.of(one.detach(), wanted[kept], seen)
            losses.append(loss)
            gradients.append(gradient * (weights[step] / sum(weights)))
        torch.autograd.backward(states, gradients)
        torch.nn.utils.clip_grad_norm_(list(self._parameters.values()), _MAX_GRADIENT)
        self._optimiser.step()
        return sum(losses) / len(losses)

    def _rate(self) -> float:
        rising = (self._step + 1) / min(_WARM_UP, self.n_steps)
        return min(rising, 0.5 * (1 + math.cos(math.pi * self.share)))

    def _states(self, batch: LessonBatch) -> list[Tensor]:
        """The head's normed states by step of the training-time test; see ``Network``."""
        torch = self._torch
        features = batch.features.float() / self._scale
        embeddings = self._embeddings[batch.tokens]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_fast):
            return self._network.unrolled(batch, features, embeddings, self._options.n_unroll)

    # -- how good it is

    def accuracy(self) -> Accuracy:
        """Measure the head on held-out texts."""
        torch = self._torch
        n_top = min(5, len(self.shortlist))
        found: list[list[Tensor]] = [[] for _ in range(self._options.n_unroll)]
        with torch.no_grad():
            for batch in self._held_out_batches():
                for step, states in enumerate(self._states(batch)):
                    wanted = self._row_of[batch.wanted[batch.kept(step)]]
                    best = self._loss.logits(states).topk(n_top).indices
                    found[step].append(best == wanted[:, None])
        hits = [torch.cat(one) for one in found if sum(map(len, one))]
        top1 = tuple(float(one[:, 0].float().mean()) for one in hits)
        return Accuracy(
            top1,
            tuple(float(one.any(1).float().mean()) for one in hits),
            1.0 + sum(math.prod(top1[: i + 1]) for i in range(len(top1))),
            len(hits[0]),
        )

    def _held_out_batches(self) -> Iterator[LessonBatch]:
        lessons, n_batch = self._held_out[:_N_MEASURED], self._options.n_batch
        for i in range(0, len(lessons), n_batch):
            yield LessonBatch(self._torch, lessons[i : i + n_batch], self._device)

    # -- files

    def save(self) -> None:
        """Write a checkpoint."""
        parameters = {name: one.detach() for name, one in self._parameters.items()}
        write_checkpoint(
            self._torch, self._path, parameters, self._optimiser, self._step, self._seconds
        )

    def _restore(self, saved: dict[str, Tensor]) -> None:
        for name, one in self._parameters.items():
            one.data.copy_(saved[name])

    def head_file(self) -> HeadFile:
        """The head as it is now."""
        arrays = {name: one.detach().cpu().numpy() for name, one in self._parameters.items()}
        arrays["fc"] = arrays["fc"] / self._scale.cpu().numpy()
        arrays["output"] = self._output * np.float32(self._target.logit_scale)
        tokens = self.shortlist if self._options.n_shortlist else None
        return HeadFile(self._shape, arrays, tokens, self._layers)


def _feature_scale(lessons: Sequence[Lesson]) -> NDArray[np.float32]:
    """The root mean square of each channel over answers; first tokens may have other scales."""
    rows = [one.features[len(one.prompt) :] for one in lessons]
    return np.asarray(np.maximum(_root_mean_square(np.concatenate(rows)), 1e-6), np.float32)


def _root_mean_square(rows: NDArray[Any]) -> NDArray[np.float32]:
    squares = np.square(rows, dtype=np.float64)
    return np.asarray(np.sqrt(squares.mean(0)), np.float32)
