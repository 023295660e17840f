"""ModelHost: which of a server's models are in memory, and who uses them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
from fastapi import FastAPI

from pytreellama.errors import PyTreeLlamaError
from pytreellama.serve.errors import APIError
from pytreellama.serve.service import Service
from pytreellama.serve.settings import LEAVING_S

_log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "loaded"]
OpenApp = Callable[[str, Path], FastAPI]
"""Loads the model of a name and a file, and returns the app that serves it; runs on a thread."""


@dataclass(eq=False, slots=True)
class HostedModel:
    """A model of the server.

    Attributes:
        app: serves it; None while it is not in memory.
        n_open: requests that use it now.
        used_s: when it was used last, by ``time.monotonic``.
        waiting: requests that wait for it.
        owed: those that waited when it was loaded: it does not leave before they had their turn.
        is_leaving: it is to be unloaded once its requests are done, and takes no more.
    """

    name: str
    path: Path
    app: FastAPI | None = None
    n_open: int = 0
    used_s: float = 0.0
    waiting: set[object] = field(default_factory=set)
    owed: set[object] = field(default_factory=set)
    is_leaving: bool = False
    loading: asyncio.Task[None] | None = None
    life: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def state(self) -> State:
        """Whether it is in memory."""
        if self.app is not None:
            return "loaded"
        return "loading" if self.loading is not None and not self.loading.done() else "unloaded"

    @property
    def service(self) -> Service | None:
        """Of its app."""
        return None if self.app is None else self.app.state.service

    @property
    def is_idle(self) -> bool:
        """In memory, and nobody uses it."""
        return self.app is not None and self.is_free

    @property
    def is_free(self) -> bool:
        """Nobody uses it, or is about to."""
        return self.n_open == 0 and not self.owed

    def takes(self, request: object) -> bool:
        """True if a request that waits may use it now."""
        return self.app is not None and (not self.is_leaving or request in self.owed)


class ModelHost:
    """Loads models when they are asked for, each with an engine and an app of its own.

    Requests wait while their model is loaded. A model that was not used for ``idle_s`` is
    unloaded, and, if memory is short or ``n_max`` are loaded, the one that was used longest ago. If
    all are in use, that one takes no more requests until the new one is loaded.

    It belongs to the event loop.

    Args:
        models: files by name, at least one.
        open_app: loads a model.
        n_max: most models in memory; None for as many as there is memory for.
        idle_s: seconds after which a model that nobody uses is unloaded; None for never.
        wait_s: most seconds that a request waits for others to be done with their models.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        open_app: OpenApp,
        *,
        n_max: int | None = None,
        idle_s: float | None = None,
        wait_s: float = 600.0,
    ) -> None:
        self.models = {name: HostedModel(name, path) for name, path in models.items()}
        self._open_app = open_app
        self._n_max = n_max
        self._idle_s = idle_s
        self._wait_s = wait_s
        self._lock = asyncio.Lock()  # one is loaded or unloaded at a time
        self._is_closing = False
        self._stuck: list[Service] = []

    @property
    def loaded(self) -> list[HostedModel]:
        """The models in memory, the one that was used longest ago first."""
        found = [model for model in self.models.values() if model.app is not None]
        return sorted(found, key=lambda model: model.used_s)

    def default(self) -> HostedModel:
        """The model that was used last, or else the first."""
        return self.loaded[-1] if self.loaded else next(iter(self.models.values()))

    @asynccontextmanager
    async def use(self, model: HostedModel) -> AsyncIterator[FastAPI]:
        """The app of a model, which stays in memory meanwhile; loads it if need be.

        Raises:
            APIError: it cannot be loaded, or not now.
        """
        app = await self._taken(model)
        try:
            yield app
        finally:
            model.n_open -= 1
            model.used_s = time.monotonic()

    async def _taken(self, model: HostedModel) -> FastAPI:
        """Wait for a model, and count as one of its requests."""
        request = object()
        model.waiting.add(request)
        try:
            while model.app is None or not model.takes(request):
                if model.loading is None or model.loading.done():
                    model.loading = asyncio.create_task(self._load(model))
                await asyncio.shield(model.loading)
            model.n_open += 1
            model.used_s = time.monotonic()
            return model.app
        finally:
            model.waiting.discard(request)
            model.owed.discard(request)

    async def unload(self, model: HostedModel) -> None:
        """Unload a model once its requests are done."""
        async with self._lock:
            await self._leave(model)

    async def watch(self) -> None:
        """Unload models that nobody has used for long; runs until it is cancelled."""
        if self._idle_s is None:
            return
        while True:
            await asyncio.sleep(min(max(self._idle_s / 4, 0.05), 10.0))
            async with self._lock:
                for model in self.loaded:
                    if model.is_idle and time.monotonic() - model.used_s >= self._idle_s:
                        await self._unload(model)

    def end_all(self) -> None:
        """End every request of every model where it stands."""
        for model in self.loaded:
            if model.service is not None:
                model.service.end_all()

    def join(self, timeout_s: float) -> bool:
        """False if a request of an app that was to be closed is still being prepared."""
        return all([service.join(timeout_s) for service in self._stuck])

    async def close(self) -> None:
        """Unload all, and load none any more."""
        self._is_closing = True
        async with self._lock:
            for model in self.loaded:
                await self._unload(model)

    # -- with the lock

    async def _load(self, model: HostedModel) -> None:
        async with self._lock:
            if model.app is not None:
                model.owed = set(model.waiting)
                return
            if self._is_closing:
                raise APIError(503, "the server is being stopped")
            await self._make_room(model)
            started_s = time.monotonic()
            try:
                app = await asyncio.to_thread(self._open_app, model.name, model.path)
                await self._begin(model, app)
            except (PyTreeLlamaError, MemoryError, OSError) as error:
                _log.warning("the model %s cannot be loaded: %s", model.name, error)
                reason = str(error).replace(str(model.path), model.path.name)
                raise APIError(
                    500,
                    f"the model {model.name!r} cannot be loaded: {reason}",
                    code="model_load_failed",
                ) from error
            model.owed = set(model.waiting)
            _log.info("loaded %s in %.1f s", model.name, time.monotonic() - started_s)

    async def _begin(self, model: HostedModel, app: FastAPI) -> None:
        life = AsyncExitStack()
        try:
            await life.enter_async_context(app.router.lifespan_context(app))
        except BaseException:
            await app.state.service.engine.close()
            raise
        model.life, model.app, model.used_s = life, app, time.monotonic()

    async def _make_room(self, model: HostedModel) -> None:
        """Unload what must go before a model is loaded."""
        while self._n_max is not None and len(self.loaded) >= self._n_max:
            idle = [one for one in self.loaded if one.is_idle]
            await self._leave((idle or self.loaded)[0])
        n_bytes = model.path.stat().st_size if model.path.exists() else 0
        while n_bytes > psutil.virtual_memory().available:
            idle = [one for one in self.loaded if one.is_idle]
            if not idle:
                break  # the context says what is missing, if it is
            await self._unload(idle[0])

    async def _leave(self, model: HostedModel) -> None:
        """Unload a model once its requests are done; no others begin meanwhile."""
        model.is_leaving = True
        until_s = time.monotonic() + self._wait_s
        try:
            while not model.is_free:
                if time.monotonic() > until_s:
                    raise APIError(
                        503,
                        f"the model {model.name!r} is in use, and no more models fit into memory; "
                        "try again later",
                        retry_after_s=60,
                    )
                await asyncio.sleep(0.02)
            await self._unload(model)
        finally:
            model.is_leaving = False

    async def _unload(self, model: HostedModel) -> None:
        service = model.service
        if service is None:
            return
        model.app, life = None, model.life
        service.end_all()
        # of a client that went away; native code cannot be interrupted, and reads the model
        if not await asyncio.to_thread(service.join, LEAVING_S):
            _log.warning("%s stays in memory: a request is still being prepared", model.name)
            self._stuck.append(service)
            return
        await life.aclose()
        _log.info("unloaded %s", model.name)
