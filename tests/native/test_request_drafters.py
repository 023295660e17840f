"""A request says which of its engine's drafters may be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from exactness import needs_exact
from pytreellama import Engine, Model
from pytreellama.draft import AutoDrafter
from pytreellama.errors import RequestError

TEXT = [1, *([270, 280, 290, 300] * 8)]


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[..., Model]) -> Iterator[Engine]:
    with Engine(tiny_model("rope"), "auto", n_ctx=256, n_seq_max=2) as engine:
        yield engine


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the drafters that were asked."""
    names: set[str] = set()
    ask = AutoDrafter.ask

    def watched(self: AutoDrafter, drafter: int, n_nodes: int, min_p: float) -> object:
        names.add(self.names[drafter])
        return ask(self, drafter, n_nodes, min_p)

    monkeypatch.setattr(AutoDrafter, "ask", watched)
    return names


@pytest.mark.parametrize(
    ("drafters", "names"),
    [
        (None, {"suffix", "recycling"}),
        ("suffix", {"suffix"}),
        (["recycling"], {"recycling"}),
        ("suffix+recycling", {"suffix", "recycling"}),
    ],
)
@needs_exact
def test_no_other_drafter_is_asked_and_the_text_is_the_same(
    engine: Engine, asked: set[str], drafters: str | list[str] | None, names: set[str]
) -> None:
    options: Any = {"max_tokens": 48, "temperature": 0.0, "ignore_eos": True}
    plain = engine.generate(TEXT, n_draft=0, **options)
    asked.clear()
    found = engine.generate(TEXT, drafters=drafters, **options)
    assert found.tokens == plain.tokens
    assert asked == names
    assert found.stats.drafters.keys() <= names


def test_an_unknown_drafter_is_refused_by_its_name(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"invalid drafters='sufix': .*recycling.*suffix"):
        engine.generate(TEXT, drafters="sufix", max_tokens=1)


def test_an_engine_of_one_drafter_knows_its_name(tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), "suffix", n_ctx=64) as engine:
        assert engine.generate([1, 270], drafters="suffix", max_tokens=2).tokens
        with pytest.raises(RequestError, match="expected one of suffix"):
            engine.generate([1, 270], drafters="recycling", max_tokens=2)
