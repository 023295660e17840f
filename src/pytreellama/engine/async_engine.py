"""AsyncEngine: the same engine for asyncio."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft import DrafterSpec
from pytreellama.engine.completion import Chunk, Completion, TokenLogp
from pytreellama.engine.engine import Engine
from pytreellama.engine.evaluations import require_evaluated
from pytreellama.engine.generate_call import GenerateCall
from pytreellama.engine.generation import Generation
from pytreellama.engine.jobs import Job
from pytreellama.engine.jobs.pooling import Pooling
from pytreellama.engine.jobs.score import Score
from pytreellama.engine.prompts import Continuation, Prompt, as_list
from pytreellama.model.model import Model

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytreellama.engine.options import RequestOptions

Float32 = NDArray[np.float32]


class AsyncEngine:
    """Serves requests of any number of tasks, on the thread of its ``Engine``.

    Cancelling a task that waits cancels its request. If the request queue is full, tasks wait for
    room without blocking the event loop.

    Args:
        model, drafter, options: as ``Engine``; or give an existing ``engine``.

    Example:
        >>> async with ptl.AsyncEngine(model, n_seq_max=8) as engine:
        ...     completion = await engine.generate("Once upon a time", max_tokens=64)
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] | None = None,
        drafter: DrafterSpec = "auto",
        *,
        engine: Engine | None = None,
        **options: Any,
    ) -> None:
        if (model is None) == (engine is None):
            raise TypeError("give either a model and options, or engine=")
        self.engine = engine or Engine(cast("Model | str", model), drafter, **options)

    async def close(self) -> None:
        """Cancel all requests, and free the context; the model stays open."""
        self.engine.require_can_wait()
        await asyncio.to_thread(self.engine.close)

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    # a str is a Sequence[str] too, but one prompt
    @overload
    async def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, n: None = None, **options: Unpack[RequestOptions]
    ) -> Completion: ...
    @overload
    async def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, n: int, **options: Unpack[RequestOptions]
    ) -> list[Completion]: ...
    @overload
    async def generate(
        self, prompt: Sequence[Prompt], *, n: None = None, **options: Unpack[RequestOptions]
    ) -> list[Completion]: ...
    @overload
    async def generate(
        self, prompt: Sequence[Prompt], *, n: int, **options: Unpack[RequestOptions]
    ) -> list[list[Completion]]: ...
    async def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        n: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """As ``Engine.generate``."""
        call = GenerateCall(prompt, n)
        tasks = [
            asyncio.ensure_future(self._generate_one(one, own))
            for one, own in call.requests(options)
        ]
        try:
            arranged: Completion | list[Completion] | list[list[Completion]]
            arranged = call.arranged(await asyncio.gather(*tasks))
            return arranged
        finally:
            for task in tasks:
                task.cancel()

    async def stream(
        self, prompt: Prompt, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[Chunk]:
        """As ``Engine.stream``; a stream that is closed before its end is cancelled."""
        generation = await self.submit(prompt, **options)
        try:
            async for chunk in chunks(generation):
                yield chunk
        finally:
            generation.cancel()

    async def score(
        self, prompt: Prompt, continuations: Sequence[Continuation], *, wait: bool = True
    ) -> list[Score]:
        """As ``Engine.score``; with ``wait=False`` raises QueueFullError if the queue is full."""
        job = await asyncio.to_thread(self.engine.score_job, prompt, continuations)
        await self._evaluate([job], wait)
        return job.scores

    async def text_logprobs(
        self, text: Prompt, top: int = 0, *, wait: bool = True
    ) -> list[TokenLogp]:
        """As ``Engine.text_logprobs``; raises QueueFullError as ``score``."""
        job = await asyncio.to_thread(self.engine.text_logprobs_job, text, top)
        await self._evaluate([job], wait)
        return job.logprobs

    async def embed(
        self, texts: Sequence[Prompt], pooling: Pooling | None = None, *, wait: bool = True
    ) -> Float32:
        """As ``Engine.embed``; with ``wait=False`` raises QueueFullError if the queue is full."""
        jobs = [
            await asyncio.to_thread(self.engine.embed_job, text, pooling)
            for text in as_list(texts, "texts")
        ]
        await self._evaluate(jobs, wait)
        return np.array([job.embedding for job in jobs])

    async def rank(self, query: str, documents: Sequence[str], *, wait: bool = True) -> Float32:
        """As ``Engine.rank``; with ``wait=False`` raises QueueFullError if the queue is full."""
        jobs = [
            await asyncio.to_thread(self.engine.rank_job, query, document)
            for document in as_list(documents, "documents")
        ]
        await self._evaluate(jobs, wait)
        return np.array([job.scores[0] for job in jobs], np.float32)

    async def _evaluate(self, jobs: Sequence[Job], wait: bool) -> None:
        """Submit all before any is waited for, so that an encoder's texts share passes."""
        generations: list[Generation] = []
        try:
            for job in jobs:
                waits = wait or bool(generations)  # a full queue refuses what has not begun
                generations.append(await self._submitted(self.engine.submit_job, job, wait=waits))
            for generation in generations:
                await self.finish(generation)
            require_evaluated(jobs)
        finally:
            for generation in generations:
                generation.cancel()

    async def submit(
        self,
        prompt: Prompt,
        *,
        wait: bool = True,
        streams: bool = True,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """As ``Engine.submit``; by default waits for room in the queue."""
        submit = self.engine.submit
        return await self._submitted(submit, prompt, wait=wait, streams=streams, **options)

    async def _submitted(
        self, submit: Callable[..., Generation], *args: Any, **options: Any
    ) -> Generation:
        self.engine.require_can_wait()  # before another thread submits
        submitting = asyncio.to_thread(submit, *args, **options)
        future = asyncio.ensure_future(submitting)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_cancel_submitted)
            raise

    async def _generate_one(self, prompt: Prompt, options: dict[str, Any]) -> Completion:
        return await self.finish(await self.submit(prompt, **options))

    async def finish(self, generation: Generation) -> Completion:
        """Wait for the whole output; cancelling the task cancels the generation."""
        try:
            async for _ in chunks(generation):
                pass
        finally:
            generation.cancel()
        return generation.result()


async def chunks(generation: Generation, pause_s: float = 0.0) -> AsyncIterator[Chunk]:
    """Yield the chunks of a generation; the last has ``finish_reason``.

    Args:
        pause_s: minimum time between two chunks, except before the last; chunks in between are
            joined. Each wake-up of this loop takes time from passes on the same cores.
    """
    loop = asyncio.get_running_loop()
    changed, ended = asyncio.Event(), asyncio.Event()
    is_told = threading.Event()  # one wake-up is enough until the chunks are read

    def tell() -> None:
        if generation.is_done:
            call_in(loop, ended.set)
        if generation.is_done or not is_told.is_set():
            is_told.set()
            call_in(loop, changed.set)

    generation.listen(tell)
    is_done = False
    while not is_done:
        await changed.wait()
        changed.clear()
        is_told.clear()
        is_done = generation.is_done  # read first: chunks before it are yielded below
        if pause_s == 0.0:
            while (chunk := generation.take()) is not None:
                yield chunk
        elif news := list(iter(generation.take, None)):
            yield Chunk.joined(news)
            if not is_done:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ended.wait(), pause_s)


def call_in(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Call a function in an event loop from another thread, unless the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(act)


def _cancel_submitted(future: asyncio.Future[Generation]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().cancel()
