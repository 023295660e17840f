"""The Medusa drafter in an engine: exact whatever the heads say, and asked only where it may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytreellama import Engine, Model
from pytreellama.draft import Auto, Medusa, Merge, Recycling, Suffix, make_drafter
from pytreellama.draft import medusa as medusa_module
from pytreellama.errors import DraftError, MedusaError
from random_heads import write_random_heads

pytest.importorskip("gguf", reason="needs gguf: pip install 'pytreellama[test]'")

TinyModel = Callable[..., Model]

PROMPTS = [[1, *(261 + i * k % 59 for i in range(12))] for k in (3, 7, 11)]
N_TOKENS = 40
SEES = ("none", "root", "path")


@pytest.fixture
def model(tiny_model: TinyModel) -> Model:
    return tiny_model("rope", n_embd=64)


@pytest.fixture
def heads(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees="path", n_heads=4, n_shortlist=64)
    return path


def written(model: Model, drafter: Any, **options: Any) -> list[tuple[int, ...]]:
    with Engine(model, drafter, n_ctx=1024, n_threads=1, **options) as engine:
        answers = engine.generate(PROMPTS, max_tokens=N_TOKENS, ignore_eos=True)
        return [answer.tokens for answer in answers]


# -- exact


@pytest.mark.parametrize("sees", SEES)
def test_text_is_plain_decodings(model: Model, tmp_path: Path, sees: str) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees=sees, n_heads=4)
    plain = written(model, "none")
    assert written(model, Medusa(path, min_p=0.0), n_draft=16) == plain
    assert written(model, Medusa(path, min_p=0.0), n_draft=16, n_seq_max=3) == plain


def test_text_is_plain_decodings_merged_and_planned(model: Model, heads: Path) -> None:
    plain = written(model, "none")
    assert written(model, Merge(Suffix(), Recycling(), Medusa(heads, min_p=0.0))) == plain
    assert written(model, Auto(Suffix(), Recycling(), Medusa(heads)), n_seq_max=3) == plain


def test_samples_are_plain_decodings(model: Model, heads: Path) -> None:
    def drawn(drafter: Any) -> tuple[int, ...]:
        with Engine(model, drafter, n_ctx=512, n_threads=1) as engine:
            answer = engine.submit(PROMPTS[0], max_tokens=N_TOKENS, temperature=1.0, seed=3)
            return answer.result().tokens

    assert drawn(Medusa(heads, min_p=0.0)) == drawn("none")


def test_a_text_that_gave_way_goes_on_as_before(model: Model, heads: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 120, "ignore_eos": True}
    with Engine(model, "none", n_ctx=1024, n_threads=1) as engine:
        plain = engine.generate(PROMPTS, **options)
    with Engine(model, Medusa(heads, min_p=0.0), n_ctx=256, n_seq_max=3, n_threads=1) as engine:
        answers = engine.generate(PROMPTS, **options)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]
    assert sum(answer.stats.n_preempted for answer in answers) > 0


# -- what it guesses


def test_trees_are_verified_from_the_second_step_on(model: Model, heads: Path) -> None:
    sizes: list[int] = []
    with Engine(model, Medusa(heads, min_p=0.0), n_draft=6, n_ctx=512, n_threads=1) as engine:
        engine.submit(
            PROMPTS[0],
            max_tokens=12,
            ignore_eos=True,
            on_step=lambda step: sizes.append(len(step.tree)),
        ).result()
    assert sizes[0] == 1
    assert set(sizes[1:-1]) == {7}


def test_choices_are_taken_as_they_are(model: Model, heads: Path) -> None:
    choices = [(0,), (0, 0), (1,), (0, 1), (2,), (0, 0, 0), (1, 0)]
    parents: list[list[int]] = []
    with Engine(model, Medusa(heads, choices=choices), n_ctx=512, n_threads=1) as engine:
        engine.submit(
            PROMPTS[0],
            max_tokens=12,
            ignore_eos=True,
            on_step=lambda step: parents.append(step.tree.parents.tolist()),
        ).result()
    assert all(len(tree) == 1 + len(choices) for tree in parents[1:-2])
    assert all(max(np.bincount(np.array(tree[1:]))) == 3 for tree in parents[1:-2])


def test_a_state_that_was_not_seen_is_not_guessed_from(model: Model, heads: Path) -> None:
    factory = Medusa(heads, min_p=0.0)
    factory.prepare(model)
    drafter = factory()
    state = np.ones((2, model.n_embd_out), np.float32)
    drafter.observe(PROMPTS[0])
    assert len(drafter.propose(8)) == 0
    drafter.observe_hidden(state)
    drafter.observe([270, 271])
    assert len(drafter.propose(8)) == 8
    assert len(drafter.propose(0)) == 0
    drafter.observe([272])
    assert len(drafter.propose(8)) == 0
    drafter.observe_hidden(state)
    drafter.observe([270, 271])
    drafter.reset()
    assert len(drafter.propose(8)) == 0


def test_proposing_twice_gives_the_same(model: Model, heads: Path) -> None:
    factory = Medusa(heads, min_p=0.0)
    factory.prepare(model)
    drafter = factory()
    drafter.observe_hidden(np.ones((1, model.n_embd_out), np.float32))
    drafter.observe([270])
    first, again = drafter.propose(12), drafter.propose(12)
    assert np.array_equal(first.tokens, again.tokens)
    assert first.p is not None
    assert first.p is not None and again.p is not None and np.array_equal(first.p, again.p)


# -- which heads


def test_heads_beside_the_model_are_found(
    tiny_model_path: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(tiny_model_path("rope", n_embd=64).read_bytes())
    with Model(path) as model:
        assert medusa_module.find_heads(model) is None
        with pytest.raises(MedusaError, match=r"none beside it \(small\.medusa\.gguf\)"):
            Engine(model, "medusa", n_ctx=256)
        write_random_heads(model, tmp_path / "small.medusa.gguf")
        with Engine(model, "medusa", n_ctx=256, n_threads=1) as engine:
            assert make_drafter(engine.drafter).name == "medusa"
        with Engine(model, "auto", n_ctx=256, n_threads=1) as engine:
            assert getattr(make_drafter(engine.drafter), "names", ()) == (
                "suffix",
                "recycling",
                "medusa",
            )


def test_auto_goes_without_heads_that_do_not_fit(
    tiny_model_path: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(tiny_model_path("rope", n_embd=64).read_bytes())
    (tmp_path / "small.medusa.gguf").write_bytes(b"GGUF but no more")
    with Model(path) as model, Engine(model, "auto", n_ctx=256, n_threads=1) as engine:
        assert getattr(make_drafter(engine.drafter), "names", ()) == ("suffix", "recycling")
    assert "are left out" in caplog.text


def test_a_file_can_be_named(model: Model, heads: Path) -> None:
    assert written(model, f"suffix+medusa={heads}") == written(model, "none")


def test_choices_deeper_than_the_heads_are_refused(model: Model, heads: Path) -> None:
    choices = [(0,) * n for n in range(1, 7)]
    with pytest.raises(MedusaError, match=r"6 levels, and .* has 4 heads"):
        Engine(model, Medusa(heads, choices=choices), n_ctx=256)


def test_options_out_of_range_are_refused() -> None:
    for options in ({"top": 0}, {"width": 0}, {"min_p": 1.5}):
        with pytest.raises(DraftError):
            Medusa(**options)


def test_drafters_need_an_engine() -> None:
    with pytest.raises(MedusaError, match="make an engine"):
        Medusa("heads.gguf")()
