"""What a benchmark found: sums, ratios repeat by repeat, medians; no model is needed for it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pytreellama.engine import Stats

_T = TypeVar("_T")

PLAIN, AUTO = "none", "auto"

PHASES = ("prefill", "draft", "plan", "target", "verify", "overhead")
"""Where time goes: fields of ``Totals`` without their ``_s``."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One measurement from each repeat: the median to quote, the rest to judge the machine by."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """At least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"median": self.median, "min": self.smallest, "max": self.largest}


@dataclass(slots=True)
class Totals:
    """Sums over answers. Times in seconds; see ``Stats`` for the fields."""

    n_answers: int = 0
    n_prompt: int = 0
    n_tokens: int = 0
    n_steps: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_expected: float = 0.0
    prefill_s: float = 0.0
    draft_s: float = 0.0
    plan_s: float = 0.0
    target_s: float = 0.0
    verify_s: float = 0.0
    overhead_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0

    def add(self, stats: Stats) -> None:
        """Add one answer's."""
        self.n_answers += 1
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(stats, name))

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, prefill left out; 0 if nothing was written."""
        return self.n_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one pass brought; 0 if there was none."""
        return self.n_tokens / self.n_steps if self.n_steps else 0.0

    def ms_per_token(self, phase: str) -> float:
        """Milliseconds of one of ``PHASES`` for each token written."""
        seconds: float = getattr(self, f"{phase}_s")
        return 1e3 * seconds / self.n_tokens if self.n_tokens else 0.0


_SUMMED = tuple(name for name in Totals.__dataclass_fields__ if name != "n_answers")


@dataclass(frozen=True, slots=True)
class BenchAnswer:
    """What one drafter's engine made of one prompt in one repeat.

    Attributes:
        repeat: which round of all prompts, from 0.
        prompt: index of the prompt.
        category: its category; empty if it has none.
    """

    repeat: int
    prompt: int
    category: str
    drafter: str
    tokens: tuple[int, ...]
    stats: Stats


class Results:
    """All answers, and what follows from them.

    Ratios are of one repeat each: in it all drafters answered the same prompts in turns. A category
    of ``None`` is all prompts together, those without a category too.

    Args:
        drafters: their names, plain decoding (``PLAIN``) among them.
    """

    def __init__(self, drafters: Sequence[str]) -> None:
        self.drafters = tuple(drafters)
        self.answers: list[BenchAnswer] = []
        self._totals: dict[tuple[int, str, str | None], Totals] = defaultdict(Totals)
        self._of_prompt: dict[tuple[int, str, int], Totals] = defaultdict(Totals)
        self._plain_tokens: dict[tuple[int, int], tuple[int, ...]] = {}

    def add(self, answer: BenchAnswer) -> None:
        """Count one more answer."""
        self.answers.append(answer)
        repeat, drafter = answer.repeat, answer.drafter
        self._totals[repeat, drafter, None].add(answer.stats)
        if answer.category:
            self._totals[repeat, drafter, answer.category].add(answer.stats)
        self._of_prompt[repeat, drafter, answer.prompt].add(answer.stats)
        if answer.drafter == PLAIN:
            self._plain_tokens[repeat, answer.prompt] = answer.tokens

    @property
    def n_repeats(self) -> int:
        """Rounds of all prompts."""
        return 1 + max((answer.repeat for answer in self.answers), default=-1)

    @property
    def n_prompts(self) -> int:
        """Prompts that were answered."""
        return len({answer.prompt for answer in self.answers})

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that were given, in the order of their first prompts."""
        named = {answer.category: None for answer in self.answers if answer.category}
        return tuple(named)

    def totals(self, drafter: str, category: str | None = None) -> Totals:
        """Sums over all repeats."""
        summed = Totals()
        for repeat in range(self.n_repeats):
            for name in Totals.__dataclass_fields__:
                one = self._totals[repeat, drafter, category]
                setattr(summed, name, getattr(summed, name) + getattr(one, name))
        return summed

    def ratio(self, drafter: str, category: str | None = None) -> Spread | None:
        """Tokens a second beside plain decoding's; None if one of them wrote nothing."""
        return self._ratio(lambda repeat, name: self._totals[repeat, name, category], drafter)

    def prompt_ratio(self, drafter: str, prompt: int) -> Spread | None:
        """The same for one prompt."""
        return self._ratio(lambda repeat, name: self._of_prompt[repeat, name, prompt], drafter)

    def _ratio(self, totals: Callable[[int, str], Totals], drafter: str) -> Spread | None:
        speeds = [
            (totals(repeat, drafter).tokens_per_s, totals(repeat, PLAIN).tokens_per_s)
            for repeat in range(self.n_repeats)
        ]
        if not speeds or not all(own and plain for own, plain in speeds):
            return None
        return Spread.of([own / plain for own, plain in speeds])

    def tokens_per_s(self, drafter: str, category: str | None = None) -> Spread:
        """Tokens a second, prefill left out."""
        return self._spread(drafter, category, lambda totals: totals.tokens_per_s)

    def tokens_per_step(self, drafter: str, category: str | None = None) -> Spread:
        """Tokens that a pass brings, its own included."""
        return self._spread(drafter, category, lambda totals: totals.tokens_per_step)

    def _spread(
        self, drafter: str, category: str | None, value: Callable[[Totals], float]
    ) -> Spread:
        repeats = range(self.n_repeats)
        return Spread.of([value(self._totals[repeat, drafter, category]) for repeat in repeats])

    def n_different(self, drafter: str) -> int:
        """Prompts whose tokens were not plain decoding's, in any repeat."""
        different = {
            answer.prompt
            for answer in self.answers
            if answer.drafter == drafter
            and answer.tokens != self._plain_tokens[answer.repeat, answer.prompt]
        }
        return len(different)

    def fastest(self, drafters: Sequence[str]) -> str | None:
        """Which of them has the highest ratio over all prompts; None if none has any."""
        ratios = {name: ratio for name in drafters if (ratio := self.ratio(name)) is not None}
        return max(ratios, key=lambda name: ratios[name].median, default=None)

    def tree_sizes(self, drafter: str, repeat: int) -> list[int]:
        """Nodes of each step's tree in one repeat, in the order in which they were verified."""
        return [
            size
            for answer in self.answers
            if answer.drafter == drafter and answer.repeat == repeat
            for size in answer.stats.tree_sizes
        ]

    # -- for JSON

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every drafter over all prompts and by category, and every answer."""
        return {
            "drafters": [self._drafter_dict(name) for name in self.drafters],
            "answers": [self._answer_dict(answer) for answer in self.answers],
        }

    def _drafter_dict(self, drafter: str) -> dict[str, Any]:
        n_different = self.n_different(drafter)
        return {
            "drafter": drafter,
            "n_different": n_different,
            "identical": n_different == 0,
            "all": self._cell_dict(drafter, None),
            "categories": {name: self._cell_dict(drafter, name) for name in self.categories},
        }

    def _cell_dict(self, drafter: str, category: str | None) -> dict[str, Any]:
        ratio = self.ratio(drafter, category)
        return {
            "ratio": ratio.to_dict() if ratio else None,
            "tokens_per_s": self.tokens_per_s(drafter, category).to_dict(),
            "tokens_per_step": self.tokens_per_step(drafter, category).to_dict(),
            "totals": asdict(self.totals(drafter, category)),
        }

    def _answer_dict(self, answer: BenchAnswer) -> dict[str, Any]:
        plain = self._plain_tokens[answer.repeat, answer.prompt]
        return {
            "repeat": answer.repeat,
            "prompt": answer.prompt,
            "drafter": answer.drafter,
            "identical": answer.tokens == plain,
            "stats": answer.stats.to_dict(),
        }


def in_turn(engines: Sequence[_T], n_turns: int) -> tuple[_T, ...]:
    """The order in which engines answer: each begins as often as any other."""
    first = n_turns % len(engines)
    return (*engines[first:], *engines[:first])


def buckets(values: Sequence[int], n_buckets: int) -> Iterable[Sequence[int]]:
    """Values in order, in at most so many runs of about equal length; none is empty."""
    n_buckets = min(n_buckets, len(values))
    edges = [i * len(values) // n_buckets for i in range(n_buckets + 1)] if n_buckets else []
    return [values[a:b] for a, b in pairwise(edges)]
