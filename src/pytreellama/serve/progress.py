"""ProgressWatch: how far the prefill of a prompt is, for streams that ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pytreellama.engine import Generation
from pytreellama.engine.async_engine import call_in
from pytreellama.serve.answers import PrefillProgress


class ProgressWatch:
    """Takes progress on the engine's thread, and hands it on in an event loop.

    Args:
        loop: in which listeners are called.
        n_prompt: tokens of the prompt.

    Attributes:
        generation: whose prompt it is, once it has been submitted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, n_prompt: int) -> None:
        self._loop = loop
        self._n_prompt = n_prompt
        self._began_s = time.perf_counter()
        self.generation: Generation | None = None
        self._news: PrefillProgress | None = None
        self._tell: Callable[[], object] | None = None

    def watch(self, share: float) -> None:
        """Note how much of the prompt is in the KV cache; see ``on_prefill``."""
        generation = self.generation
        self._news = PrefillProgress(
            total=self._n_prompt,
            cache=0 if generation is None else generation.job.stats.n_shared,
            processed=round(share * self._n_prompt),
            time_ms=round(1000 * (time.perf_counter() - self._began_s)),
        )
        if self._tell is not None:
            call_in(self._loop, self._tell)

    def listen(self, tell: Callable[[], object]) -> None:
        """Call a function in the loop whenever there is news."""
        self._tell = tell
        if self._news is not None:
            tell()

    def take(self) -> PrefillProgress | None:
        """The newest progress since the last call, if there is any."""
        news, self._news = self._news, None
        return news
