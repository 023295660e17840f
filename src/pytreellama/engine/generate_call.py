"""GenerateCall: what one call of ``generate`` asks for, as single requests and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pytreellama.context.params import is_integer
from pytreellama.engine.prompts import Prompt, is_many
from pytreellama.errors import RequestError, shown
from pytreellama.sampling.params import MAX_SEED, shifted_seed

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """Prompts, each to be continued ``n`` times.

    A seed counts up from request to request, so that equal prompts get different draws.

    Args:
        prompt: one prompt, or a list of them.
        n: completions of each prompt; None for one, which is not put into a list.

    Raises:
        RequestError: neither a prompt nor a list, or n below 1.
    """

    prompt: Prompt | Sequence[Prompt]
    n: int | None

    def __post_init__(self) -> None:
        if self.n is not None and (not is_integer(self.n) or self.n < 1):
            raise RequestError(f"invalid n={shown(self.n)}: expected a whole number from 1")

    def requests(self, options: Mapping[str, Any]) -> Iterator[tuple[Prompt, dict[str, Any]]]:
        """Prompt and options of each request; those of one prompt follow each other.

        Args:
            options: of the call; as ``Engine.submit``.
        """
        prompts = self.prompt if self._is_many else [self.prompt]
        i = 0
        for prompt in cast("Sequence[Prompt]", prompts):
            for _ in range(self.n or 1):
                yield prompt, {**options, **_shifted(options.get("seed"), i)}
                i += 1

    def arranged(self, results: Sequence[_T]) -> Any:
        """Results of the requests, in their order, in the form that ``generate`` returns.

        Returns:
            A result, a list of them (several prompts, or n), or a list of lists (both).
        """
        groups = [list(results)]
        if self._is_many:
            n = self.n or 1
            groups = [list(results[i : i + n]) for i in range(0, len(results), n)]
        answers = [group[0] for group in groups if group] if self.n is None else groups
        return answers if self._is_many else answers[0]

    @property
    def _is_many(self) -> bool:
        return is_many(self.prompt)


def _shifted(seed: object, i: int) -> dict[str, int]:
    """The seed of request i; what is no seed is left for ``SamplingParams`` to refuse."""
    if i == 0 or not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        return {}
    return {"seed": shifted_seed(seed, i)}
