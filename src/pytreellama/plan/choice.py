"""The choice of the draft nodes of each sequence that pay off in the next pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytreellama.errors import RequestError

_N_ROUNDS = 32  # far more than are ever needed: each round's rate is higher, and sets are finite


@dataclass(frozen=True, slots=True)
class Choice:
    """The number of draft nodes of each sequence to verify, and the expected result.

    Attributes:
        sizes: draft nodes of each sequence, 0 for plain decoding.
        n_tokens: expected tokens of the pass: one per sequence and the accepted draft tokens.
        seconds: that the step takes: drafting so far, and the pass.
        plain_rate: expected tokens per second without draft nodes, drafting so far included.
    """

    sizes: tuple[int, ...]
    n_tokens: float
    seconds: float
    plain_rate: float

    @property
    def rate(self) -> float:
        """Expected tokens a second."""
        return self.n_tokens / self.seconds

    @property
    def gain(self) -> float:
        """How many times faster than plain decoding from here on."""
        return self.rate / self.plain_rate

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sizes": list(self.sizes),
            "n_tokens": self.n_tokens,
            "seconds": self.seconds,
            "rate": self.rate,
            "plain_rate": self.plain_rate,
            "gain": self.gain,
        }


def choose(
    p: Sequence[Sequence[float]],
    pass_s: Sequence[float],
    *,
    node_s: Sequence[float] | None = None,
    spent_s: float = 0.0,
) -> Choice:
    """The sizes of trees that give the most expected tokens a second.

    The tree of one sequence is its most likely candidates, which is always a tree because path
    probabilities never rise with depth, and no other set of as many brings more. So the choice is
    how many to take, and of which sequences: a marginal node goes where it saves most.

    Without ``node_s``, or for one sequence, all prefixes of one common order are tried. With it
    sequences' nodes differ in cost, and the order depends on the best rate itself, so it is
    looked for in rounds (Dinkelbach 1967, "On nonlinear fractional programming"); both are exact.

    Args:
        p: for each sequence, the path probabilities of its candidates, falling.
        pass_s: seconds of a pass over n nodes, n from 0, the sequences' last tokens included. It
            may rise in any way; a pass cannot hold more nodes than it tells of.
        node_s: additional seconds per node of each sequence, for attention to its context.
        spent_s: seconds that the step took so far, and what it takes however it is chosen.

    Raises:
        RequestError: no room for even one node a sequence.
    """
    n_roots = len(p)
    if len(pass_s) <= n_roots:
        raise RequestError(
            f"a pass over {n_roots} sequences was to be planned, but a pass holds at most "
            f"{len(pass_s) - 1} nodes"
        )
    plain_s = spent_s + pass_s[n_roots]
    extra_s = node_s if node_s is not None else (0.0,) * n_roots
    taken, n_tokens, seconds = 0, float(n_roots), plain_s
    order: list[tuple[float, int, int]] = []
    for _ in range(_N_ROUNDS):
        rate = n_tokens / seconds
        candidates = _in_order(p, extra_s, rate)
        found = _best_prefix(candidates, p, pass_s, extra_s, spent_s)
        if order and found[1] / found[2] <= rate * (1.0 + 1e-12):
            break
        order = candidates
        taken, n_tokens, seconds = found
        if n_roots == 1 or len(set(extra_s)) == 1:
            break
    sizes = [0] * n_roots
    for _, sequence, _ in order[:taken]:
        sizes[sequence] += 1
    return Choice(tuple(sizes), n_tokens, seconds, n_roots / plain_s)


def _in_order(
    p: Sequence[Sequence[float]], extra_s: Sequence[float], rate: float
) -> list[tuple[float, int, int]]:
    """All candidates by value, best first; each with its sequence and place there."""
    candidates = [
        (rate * extra_s[sequence] - p_one, sequence, place)
        for sequence, of_sequence in enumerate(p)
        for place, p_one in enumerate(of_sequence)
    ]
    if len(p) > 1:
        candidates.sort()
    return candidates


def _best_prefix(
    candidates: list[tuple[float, int, int]],
    p: Sequence[Sequence[float]],
    pass_s: Sequence[float],
    extra_s: Sequence[float],
    spent_s: float,
) -> tuple[int, float, float]:
    """How many candidates to take, the expected tokens, and the seconds."""
    n_nodes, n_tokens, more_s = len(p), float(len(p)), spent_s
    best = (0, n_tokens, more_s + pass_s[n_nodes])
    for taken, (_, sequence, place) in enumerate(candidates, start=1):
        n_nodes += 1
        if n_nodes == len(pass_s):
            break
        n_tokens += p[sequence][place]
        more_s += extra_s[sequence]
        seconds = more_s + pass_s[n_nodes]
        if n_tokens * best[2] > best[1] * seconds:
            best = (taken, n_tokens, seconds)
    return best
