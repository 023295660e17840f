"""The prefix cache saves prefill, and changes no output."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exactness import needs_exact
from pytreellama import Engine, Model, draft

TinyModel = Callable[..., Model]
EAGER = draft.Suffix(min_p=0.001)


def new_engine(model: Model, **options: Any) -> Engine:
    sizes: dict[str, Any] = {
        "n_ctx": 512,
        "n_seq_max": 2,
        "n_cached_prefixes": 3,
        "n_threads": 1,
    } | options
    return Engine(model, EAGER, **sizes | options)


@pytest.fixture
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with new_engine(tiny_model("rope")) as engine:
        yield engine


def text_of(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(5, 250), k=length)


@needs_exact
def test_the_next_turn_reads_only_what_is_new(engine: Engine) -> None:
    prompt = text_of(60, 0)
    answer = engine.generate(prompt, max_tokens=12, ignore_eos=True)
    turn = [*prompt, *answer.tokens, *text_of(9, 1)]
    again = engine.generate(turn, max_tokens=12, ignore_eos=True)
    assert again.stats.n_shared >= len(prompt) + len(answer.tokens) - 1
    fresh = new_engine(engine.model, n_cached_prefixes=0).generate(
        turn, max_tokens=12, ignore_eos=True
    )
    assert again.tokens == fresh.tokens


@needs_exact
def test_the_longest_beginning_is_taken(engine: Engine) -> None:
    beginning = text_of(40, 0)
    engine.generate([*beginning, *text_of(20, 1)], max_tokens=1)
    engine.generate([*beginning[:25], *text_of(20, 2)], max_tokens=1)
    stats = engine.generate([*beginning, *text_of(5, 3)], max_tokens=1).stats
    assert stats.n_shared == 40


def test_what_was_used_longest_ago_goes_first(engine: Engine) -> None:
    texts = [text_of(40, seed) for seed in range(4)]
    for text in texts[:3]:
        engine.generate(text, max_tokens=1)
    assert engine.load.n_cached_prefixes == 3
    engine.generate([*texts[0], 7], max_tokens=1)  # of use again, and longer now
    engine.generate(texts[3], max_tokens=1)
    shared = {
        name: engine.generate([*texts[name], 9], max_tokens=1).stats.n_shared for name in (0, 3)
    }
    assert min(shared.values()) >= 32
    assert engine.generate([*texts[1], 9], max_tokens=1).stats.n_shared == 0


def test_without_room_for_any_nothing_is_kept(tiny_model: TinyModel) -> None:
    engine = new_engine(tiny_model("rope"), n_cached_prefixes=0)
    engine.generate(text_of(40, 0), max_tokens=4)
    assert engine.load.n_cached_prefixes == 0
    assert engine.context.memory.n_cells_used == 0


def test_a_text_is_not_kept_twice(engine: Engine) -> None:
    text = text_of(40, 0)
    for _ in range(3):
        engine.generate(text, max_tokens=6, ignore_eos=True)
    assert engine.load.n_cached_prefixes == 1


@needs_exact
@pytest.mark.parametrize("seed", range(3))
def test_kept_texts_give_their_room_to_those_who_run(tiny_model: TinyModel, seed: int) -> None:
    model = tiny_model("rope")
    crowded = new_engine(model, n_ctx=192, n_seq_max=3, n_cached_prefixes=6)
    rng = random.Random(seed)
    stems = [text_of(30, 100 + i) for i in range(3)]
    prompts = [
        [*rng.choice(stems)[: rng.randint(5, 30)], *text_of(rng.randint(1, 40), i)]
        for i in range(24)
    ]
    together = crowded.generate(prompts, max_tokens=24, ignore_eos=True)
    plain = Engine(model, "none", n_ctx=512, n_threads=1)
    for prompt, completion in zip(prompts, together, strict=True):
        alone = plain.generate(prompt, max_tokens=24, ignore_eos=True)
        assert completion.tokens == alone.tokens
        assert completion.finish_reason == "length"
    assert crowded.load.n_running == crowded.load.n_waiting == 0
    assert crowded.load.n_cells_used <= crowded.context.n_ctx


def test_a_failed_request_leaves_nothing(engine: Engine) -> None:
    def fail(step: object) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        engine.generate(text_of(30, 0), max_tokens=4, on_step=fail)
    assert engine.load.n_cached_prefixes == 0
    assert engine.load.n_cells_used == 0


class TestFile:
    def test_an_idle_engines_context_is_free_once_it_answered(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # the engine's thread goes on at once
        try:
            for _ in range(500):
                engine.load_prefix_cache(tmp_path / "none")
                assert engine.context.memory.n_cells_used == 0
        finally:
            sys.setswitchinterval(interval_s)

    @needs_exact
    def test_the_next_engine_goes_on_with_it(self, engine: Engine, tmp_path: Path) -> None:
        text = text_of(60, 0)
        engine.generate(text, max_tokens=4, ignore_eos=True)
        assert engine.save_prefix_cache(tmp_path / "kept") == 1
        other = new_engine(engine.model)
        assert other.load_prefix_cache(tmp_path / "kept") == 1
        assert other.load.n_cached_prefixes == 1
        assert other.load.n_cells_used >= len(text)
        completion = other.generate([*text, 9, 8], max_tokens=12, ignore_eos=True)
        assert completion.stats.n_shared >= len(text)
        plain = new_engine(engine.model, n_cached_prefixes=0)
        expected = plain.generate([*text, 9, 8], max_tokens=12, ignore_eos=True)
        assert completion.tokens == expected.tokens

    def test_no_file_is_no_texts(self, engine: Engine, tmp_path: Path) -> None:
        assert engine.load_prefix_cache(tmp_path / "none") == 0

    @pytest.mark.parametrize("n_bytes", [0, 10, 3000])
    def test_a_damaged_file_is_left_alone(
        self, engine: Engine, tmp_path: Path, n_bytes: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "kept"
        engine.generate(text_of(60, 0), max_tokens=4)
        engine.save_prefix_cache(file)
        file.write_bytes(file.read_bytes()[:n_bytes])
        other = new_engine(engine.model)
        assert other.load_prefix_cache(file) == 0
        assert "cannot be read" in caplog.text
        assert other.context.memory.n_cells_used == 0

    def test_another_models_file_is_left_alone(
        self,
        engine: Engine,
        tmp_path: Path,
        tiny_model: TinyModel,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        engine.generate(text_of(60, 0), max_tokens=4)
        engine.save_prefix_cache(tmp_path / "kept")
        assert new_engine(tiny_model("alibi")).load_prefix_cache(tmp_path / "kept") == 0
        assert "another model" in caplog.text

    def test_a_smaller_cache_takes_what_it_can_and_complains_of_nothing(
        self, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for seed in range(3):
            engine.generate(text_of(100, seed), max_tokens=2)
        assert engine.save_prefix_cache(tmp_path / "kept") == 3
        with new_engine(engine.model, n_ctx=256) as small:
            assert small.load_prefix_cache(tmp_path / "kept") == 2
            assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
            done = small.generate(text_of(150, 9), max_tokens=8, ignore_eos=True)
        assert len(done.tokens) == 8


def test_by_default_the_next_turn_of_a_chat_is_shared(tiny_model: TinyModel) -> None:
    with Engine(tiny_model("rope"), n_ctx=512, n_threads=1) as engine:
        first = engine.generate(list(range(20, 80)), max_tokens=8)
        turn = [*range(20, 80), *first.tokens, 9, 10]
        assert engine.generate(turn, max_tokens=1).stats.n_shared >= 60
        engine.clear_prefix_cache()
        assert engine.generate(turn, max_tokens=1).stats.n_shared == 0


def test_the_default_leaves_room_for_as_many_requests_as_there_can_be(
    tiny_model: TinyModel,
) -> None:
    with Engine(tiny_model("rope"), n_ctx=512, n_seq_max=256, n_threads=1) as engine:
        assert engine.n_seq_max == 256
        assert engine.generate([5, 6], max_tokens=1).tokens
