"""Worker threads of a server: clients take turns, and who left or is late holds no place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from fastapi import Request

from pytreellama.errors import QueueFullError
from pytreellama.serve.callers import Callers
from pytreellama.serve.faults import Fault
from pytreellama.serve.workers import Lane, Workers

ENOUGH_S = 20.0


@contextmanager
def lane(n_threads: int = 1, n_each: int = 1, n_waiting_max: int = 8) -> Iterator[Lane]:
    one = Lane("test", n_threads=n_threads, n_each=n_each, n_waiting_max=n_waiting_max)
    try:
        yield one
    finally:
        one.close()
        assert one.join(ENOUGH_S)


class Gate:
    """A job that says when it begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(ENOUGH_S)
        return "done"


async def happens(event: threading.Event) -> None:
    until_s = time.monotonic() + ENOUGH_S
    while not event.is_set():
        assert time.monotonic() < until_s
        await asyncio.sleep(0.001)


def begun(work: Awaitable[object]) -> asyncio.Future[object]:
    return asyncio.ensure_future(work)


def run(scene: Callable[[Lane], Awaitable[None]], **options: int) -> None:
    with lane(**options) as one:
        asyncio.run(scene(one))  # type: ignore[arg-type]


def test_a_job_runs_on_another_thread_and_its_result_comes_back() -> None:
    async def scene(one: Lane) -> None:
        thread = await one.run(threading.current_thread, client="a")
        assert thread is not threading.current_thread()
        assert thread.daemon
        with pytest.raises(ZeroDivisionError):
            await one.run(lambda: 1 // 0, client="a")

    run(scene)


def test_an_error_that_is_no_exception_ends_the_job_and_not_the_thread() -> None:
    """A panic of Rust code is a BaseException."""

    class PanicError(BaseException):
        pass

    def panic() -> None:
        raise PanicError("at the worst of times")

    async def scene(one: Lane) -> None:
        with pytest.raises(RuntimeError, match="worst of times"):
            await one.run(panic, client="a")
        assert await one.run(lambda: 5, client="a") == 5

    run(scene)


def test_clients_take_turns_however_many_jobs_one_has() -> None:
    order: list[str] = []

    async def scene(one: Lane) -> None:
        gate = Gate()
        first = begun(one.run(gate, client="a"))
        await happens(gate.begun)
        jobs = [begun(one.run(partial(order.append, c), client=c)) for c in "aaabbc"]
        await asyncio.sleep(0)
        gate.may_end.set()
        await asyncio.gather(first, *jobs)

    run(scene)
    assert order == ["a", "b", "c", "a", "b", "a"]


def test_one_client_does_not_get_all_threads() -> None:
    async def scene(one: Lane) -> None:
        gates = [Gate(), Gate(), Gate()]
        jobs = [begun(one.run(gate, client="a")) for gate in gates]
        await happens(gates[1].begun)
        assert await asyncio.wait_for(one.run(lambda: 5, client="b"), ENOUGH_S) == 5
        assert not gates[2].begun.is_set()
        for gate in gates:
            gate.may_end.set()
        assert await asyncio.gather(*jobs) == ["done"] * 3

    run(scene, n_threads=3, n_each=2)


def test_short_jobs_do_not_wait_for_long_ones() -> None:
    async def scene() -> None:
        workers = Workers()
        gates = [Gate() for _ in range(6)]
        jobs = [begun(workers.run(gate, client="a", is_slow=True)) for gate in gates]
        await happens(gates[1].begun)
        assert await workers.run(lambda: 5, client="a", is_slow=False) == 5
        for gate in gates:
            gate.may_end.set()
        await asyncio.gather(*jobs)
        workers.close()
        assert workers.join(ENOUGH_S)

    asyncio.run(scene())


def test_who_leaves_frees_the_place_and_the_job_is_not_begun() -> None:
    async def scene(one: Lane) -> None:
        gate, left = Gate(), Gate()
        first = begun(one.run(gate, client="a"))
        await happens(gate.begun)
        second = begun(one.run(left, client="a"))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await one.run(Gate(), client="b")
        second.cancel()
        await asyncio.wait([second])
        third = begun(one.run(lambda: 5, client="b"))
        gate.may_end.set()
        assert await asyncio.gather(first, third) == ["done", 5]
        assert not left.begun.is_set()

    run(scene, n_waiting_max=1)


def test_a_result_that_nobody_waits_for_is_dropped() -> None:
    dropped: list[object] = []

    async def scene(one: Lane) -> None:
        gate = Gate()
        job = begun(one.run(gate, client="a", drop=dropped.append))
        await happens(gate.begun)
        job.cancel()
        await asyncio.wait([job])
        gate.may_end.set()
        await one.run(lambda: None, client="a")

    run(scene)
    assert dropped == ["done"]


def test_closing_ends_what_waits_and_what_runs_for_those_who_wait() -> None:
    async def scene(one: Lane) -> None:
        gate = Gate()
        jobs = [begun(one.run(job, client="a")) for job in (gate, Gate())]
        await happens(gate.begun)
        one.close()
        done = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(error) for error in done] == [Fault, Fault]
        with pytest.raises(Fault, match="being stopped"):
            await one.run(lambda: 5, client="a")
        assert not one.join(0.01)
        gate.may_end.set()

    run(scene)


def test_a_request_whose_time_is_over_frees_its_place() -> None:
    async def scene() -> None:
        workers = Workers()
        request = Request({"type": "http", "headers": [], "client": ("::1", 1)}, _never)
        caller = Callers(workers, 0.05, lambda: 7).of(request)
        gates = [Gate(), Gate()]
        busy = [begun(workers.run(g, client="b", is_slow=False)) for g in gates]
        await happens(gates[1].begun)
        late = Gate()
        with pytest.raises(Fault) as caught:
            await caller.finish(caller.run(late))
        assert caught.value.status_code == 503
        assert caught.value.headers["Retry-After"] == "7"
        for gate in gates:
            gate.may_end.set()
        await asyncio.gather(*busy)
        workers.close()
        assert workers.join(ENOUGH_S)
        assert not late.begun.is_set()

    asyncio.run(scene())


async def _never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError
