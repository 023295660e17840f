"""JobScheduler: what the loop asks of a scheduler, of decoders and encoders alike."""

from __future__ import annotations

from typing import Protocol

from pytreellama.engine.jobs import Job
from pytreellama.engine.load import Load


class JobScheduler(Protocol):
    """Runs jobs step by step, on the loop's thread; see ``Scheduler`` for each method."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def load(self) -> Load: ...

    def check(self, job: Job) -> None: ...

    def add(self, job: Job) -> None: ...

    def cancel(self, job: Job) -> None: ...

    def cancel_all(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...

    def update_load(self) -> None: ...

    def step(self) -> list[Job]: ...
