"""The work that a chat template may do: counted in steps, so that it ends on any machine.

A template comes with a model's file and is a program. What it does is counted, in every thread,
before it is done: a step is about 0.1 microseconds of work or 32 bytes of memory.
"""

from __future__ import annotations

import threading
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    Sized,
    ValuesView,
)
from contextlib import contextmanager
from itertools import chain
from typing import Any, NoReturn

from jinja2.utils import Namespace

from pytreellama.errors import TemplateWorkError

N_PASSES = 1_000_000
N_STEPS = 4_000_000
"""Nodes that loops and macros may pass through, and steps of a rendering, whatever it is given:
about a second, and at most 128 MB."""

CALL_PASSES = 4
"""Nodes that a call, or an element that a filter reads, counts as."""

N_STEPS_PER_INPUT = 100
"""Further ones of both for each value, and for each 32 bytes of text, that a rendering is given."""

_N_PASSES_PER_PAIR = 20  # of messages: Gemma 4's template looks back from each at all before it
_N_PASSES_OF_PAIRS_MAX = 400_000_000

DEPTH_MAX = 500
"""Levels of lists, tuples and mappings in one another. A tuple's hash has no limit in Python."""

_STEP_BYTES_LOG2 = 5
_LAZY_DEPTH_MAX = 100  # filters over filters that no one has read yet
_NESTED = (list, tuple, dict, set, frozenset, Mapping, KeysView, ValuesView, ItemsView, Namespace)


class _Left(threading.local):
    passes = 0
    steps = 0


_left = _Left()


@contextmanager
def allowed(n_passes: int, n_steps: int) -> Iterator[None]:
    """Let this thread spend so much."""
    before = _left.passes, _left.steps
    _left.passes, _left.steps = n_passes, n_steps
    try:
        yield
    finally:
        _left.passes, _left.steps = before


def go_through(n_nodes: int) -> bool:
    """Count a pass through so many nodes; True, so that it can stand in a condition.

    Raises:
        TemplateWorkError: there are not so many left.
    """
    _left.passes -= n_nodes
    if _left.passes < 0:
        _left.passes = 0
        refuse("its loops, or macros that call themselves, go on for too long")
    return True


def spend(n_steps: int) -> None:
    """Take steps from what is left.

    Raises:
        TemplateWorkError: there are not so many left.
    """
    _left.steps -= n_steps
    if _left.steps < 0:
        _left.steps = 0
        refuse("it makes or compares longer texts or lists than a rendering may")


def n_left() -> int:
    """Steps that this thread may still take."""
    return _left.steps


def refuse(why: str) -> NoReturn:
    """Raise TemplateWorkError."""
    raise TemplateWorkError(
        f"the chat template does too much work: {why}; give shorter messages, or use a "
        "ChatTemplate(source) of your own if the model's file is damaged or hostile"
    )


@contextmanager
def allowed_for(messages: Sequence[Any], *others: Any) -> Iterator[None]:
    """Let this thread spend what a rendering of these messages may.

    Raises:
        TemplateWorkError: they are nested too deep.
    """
    with allowed(0, 1 << 62):
        n_given = sum(map(weigh, (messages, *others)))
    n_more = N_STEPS_PER_INPUT * n_given
    n_of_pairs = min(_N_PASSES_PER_PAIR * len(messages) ** 2, _N_PASSES_OF_PAIRS_MAX)
    with allowed(N_PASSES + n_more + n_of_pairs, N_STEPS + n_more):
        yield


def size(value: Any) -> int:
    """Steps that a copy of the value takes, without what is inside its elements."""
    if isinstance(value, (str, bytes)):
        return value.__sizeof__() >> _STEP_BYTES_LOG2
    if isinstance(value, Sized):
        return (len(value) >> 2) + 1
    return 1


def weigh(value: Any) -> int:
    """Spend, and return, the steps that reading all of a value takes: as text or to compare it.

    What is in a value several times counts each time: it would be written so.
    """
    n_steps = _n_plain_steps(value)
    if n_steps is None:
        return _weigh_nested(value)
    spend(n_steps)
    return n_steps


def _n_plain_steps(value: Any) -> int | None:
    """Steps of a value that holds no others; None for those that do."""
    if isinstance(value, (str, bytes)):
        return value.__sizeof__() >> _STEP_BYTES_LOG2
    if isinstance(value, int):
        return 1 + (value.bit_length() >> 8)
    if isinstance(value, range):
        return 1 + len(value)
    if value is None or isinstance(value, float) or not isinstance(value, _NESTED):
        return 1
    return None


def weighed(value: Any) -> Any:
    """The value, once ``weigh`` has let it pass."""
    weigh(value)
    return value


def _weigh_nested(value: Any) -> int:
    n_all = 0
    waiting = [(value, 1)]
    while waiting:
        container, depth = waiting.pop()
        if depth > DEPTH_MAX:
            refuse(f"values are nested more than {DEPTH_MAX} levels deep")
        n_steps = 8  # a container takes longer than what is in it
        for child in _children(container):
            if type(child) is str:  # most are
                n_steps += child.__sizeof__() >> _STEP_BYTES_LOG2
                continue
            n_plain = _n_plain_steps(child)
            if n_plain is None:
                waiting.append((child, depth + 1))
            else:
                n_steps += n_plain
        spend(n_steps)
        n_all += n_steps
    return n_all


def _children(container: Any) -> Iterable[Any]:
    if isinstance(container, Namespace):
        container = container._Namespace__attrs
    if isinstance(container, Mapping):
        return chain(container.keys(), container.values())
    return container  # type: ignore[no-any-return]


class Counted(Iterator[Any]):
    """An iterator that counts its elements.

    Args:
        values: what it goes through.
        source: the value that a filter made ``values`` of.

    Raises:
        TemplateWorkError: too many of them read from one another.
    """

    def __init__(self, values: Iterable[Any], source: Any = None) -> None:
        self._values = iter(values)
        self._depth: int = source._depth + 1 if isinstance(source, Counted) else 1
        if self._depth > _LAZY_DEPTH_MAX:
            refuse(f"more than {_LAZY_DEPTH_MAX} filters wait for one another")

    def __next__(self) -> Any:
        go_through(CALL_PASSES)
        return next(self._values)


def listed(value: Any) -> Any:
    """The value; what can be gone through only once, as a list."""
    return list(Counted(value)) if isinstance(value, Iterator) else value
