"""What passes over 1, 2, 4... nodes cost on this machine, and whether bits depend on the width."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytreellama.context.context import DraftShape
    from pytreellama.engine.calibration import TimedPasses
    from pytreellama.model.model import Model

SIZES = (1, 2, 4, 8, 16)
ACCEPTANCES = (0.5, 0.7, 0.9)

_N_PAST = 64
_N_COMPARED = 8
_MAX_ROUNDS = 25
_WARM_UP_SHARE = 0.4
_HALVINGS = 20


@dataclass(frozen=True, slots=True)
class SpeedCheck:
    """Measured costs of passes at a short context.

    Attributes:
        n_threads: threads of the passes.
        n_past: tokens in the cache before each pass.
        median_s: nodes of a chain -> median seconds of its pass: placing, decoding, argmax,
            discarding, and what a commit to a recurrent state takes. One node is measured right
            after another one, as plain decoding runs.
        n_samples: how many passes of each size were measured.
        n_compared: nodes of the chain whose logits were compared; 0 if none were.
        logit_difference: largest difference between the logits of that chain in one pass and
            token by token.
        draft_shape: what an engine drafts here: "trees", "chains" or "plain".
        node_bytes: recurrent state that a draft node holds.
    """

    n_threads: int
    n_past: int
    median_s: dict[int, float]
    n_samples: dict[int, int]
    n_compared: int
    logit_difference: float
    draft_shape: DraftShape = "trees"
    node_bytes: int = 0

    def cost(self, n_nodes: int) -> float:
        """Cost of a pass relative to a pass over one node."""
        return self.median_s[n_nodes] / self.median_s[1]

    def break_even(self, n_nodes: int) -> float | None:
        """Minimum acceptance rate at which a chain of ``n_nodes`` is faster than plain decoding.

        None if the pass costs more than all its nodes could bring.
        """
        cost = self.cost(n_nodes)
        if cost > n_nodes:
            return None
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if expected_tokens(n_nodes, middle) < cost else (low, middle)
        return high

    def best(self, acceptance: float) -> tuple[int, float]:
        """The measured size that is fastest if guesses hold so often, and its speed-up."""
        gains = {n: expected_tokens(n, acceptance) / self.cost(n) for n in self.median_s}
        size = max(gains, key=lambda n: (gains[n], -n))
        return size, gains[size]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "n_threads": self.n_threads,
            "n_past": self.n_past,
            "tokens_per_s": 1 / self.median_s[1],
            "n_compared": self.n_compared,
            "logit_difference": self.logit_difference if self.n_compared else None,
            "passes": [
                {
                    "n_nodes": n,
                    "median_s": self.median_s[n],
                    "cost": self.cost(n),
                    "break_even": self.break_even(n) if n > 1 else None,
                    "n_samples": self.n_samples[n],
                }
                for n in self.median_s
            ],
        }


def expected_tokens(n_nodes: int, acceptance: float) -> float:
    """Tokens that a chain brings: its own root's, and one for each guess that holds.

    A guess holds with probability ``acceptance``, if all before it do.
    """
    return sum(acceptance**depth for depth in range(n_nodes))


def check_speed(model: Model, n_threads: int | None = None, budget_s: float = 8.0) -> SpeedCheck:
    """Measure, sizes in turns so that a busy moment does not hit one size alone.

    Sizes that the budget leaves no time for are left out; one node is always measured.

    Raises:
        ContextError, DecodeError: the model cannot run here.
    """
    from pytreellama.context.context import Context
    from pytreellama.engine.calibration import TimedPasses

    n_ctx = min(512, model.n_ctx_train or 512)
    n_past = max(1, min(_N_PAST, n_ctx - 2 * max(SIZES)))
    with Context(model, n_ctx=n_ctx, n_threads=n_threads) as context:
        passes = TimedPasses(context, n_past)
        n_max = passes.n_nodes_max if context.can_roll_back else 1
        sizes = tuple(size for size in SIZES if size <= n_max)
        samples = _measure(passes, sizes, time.perf_counter() + budget_s, budget_s)
        n_compared = min(max(samples), _N_COMPARED) if len(samples) > 1 else 0
        return SpeedCheck(
            context.n_threads,
            n_past,
            {n: statistics.median(times) for n, times in samples.items()},
            {n: len(times) for n, times in samples.items()},
            n_compared,
            passes.logit_difference(n_compared),
            context.draft_shape,
            context.node_bytes,
        )


def _measure(
    passes: TimedPasses, sizes: tuple[int, ...], deadline_s: float, budget_s: float
) -> dict[int, list[float]]:
    first: dict[int, list[float]] = {}
    warm_up_until_s = deadline_s - (1 - _WARM_UP_SHARE) * budget_s
    for size in sizes:
        if first and time.perf_counter() > warm_up_until_s:
            break
        first[size] = [_time(passes, size)]
    samples: dict[int, list[float]] = {size: [] for size in first}
    for _ in range(_MAX_ROUNDS):
        for size, times in samples.items():
            times.append(_time(passes, size))
        if time.perf_counter() > deadline_s:
            break
    return samples


def _time(passes: TimedPasses, n_nodes: int) -> float:
    """Seconds of one pass; plain decoding finds the graph of the pass before and uses it again."""
    if n_nodes == 1:
        passes.time(1)
    return passes.time(n_nodes)
