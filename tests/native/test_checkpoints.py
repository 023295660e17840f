"""Prefixes of models with states and windows: what is shared, when, and in which room."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exactness import needs_exact
from pytreellama import Completion, Context, Engine, Model, draft
from pytreellama.engine.kv.checkpoints import Checkpoint, Checkpoints

TinyModel = Callable[..., Model]
EngineOf = Callable[..., Engine]
KINDS = ("recurrent", "qwen35", "rwkv7", "swa", "lfm2-swa")
"""With and without attention, with and without trees; those with windows get small ones."""


@pytest.fixture
def engine_of(tiny_model: TinyModel) -> Iterator[EngineOf]:
    """Engines of a kind, closed at the end of the test."""
    made: list[Engine] = []

    def make(kind: str, **options: Any) -> Engine:
        sizes: dict[str, Any] = {
            "n_ctx": 4096,
            "n_ubatch": 64,
            "n_seq_max": 3,
            "n_cached_prefixes": 4,
            "n_threads": 1,
            "swa_full": False,
        }
        drafter = draft.Suffix(min_p=0.001)
        made.append(Engine(tiny_model(kind), drafter, **sizes | options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def text_of(n_tokens: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(5, 250), k=n_tokens)


def checkpoint_bytes(model: Model) -> int:
    """What one checkpoint takes, with 700 tokens."""
    with Context(model, n_ctx=256, n_threads=1) as context:
        return len(context.memory.checkpoint(context.prefill([7]))) + 4 * 700


def generate(engine: Engine, prompt: list[int], n_tokens: int = 8) -> Completion:
    """Generate, and compare with an engine that has read nothing before."""
    done = engine.generate(prompt, max_tokens=n_tokens, ignore_eos=True)
    with Engine(engine.model, "none", n_ctx=4096, n_threads=1) as fresh:
        expected = fresh.generate(prompt, max_tokens=n_tokens, ignore_eos=True)
    assert done.tokens == expected.tokens
    return done


@needs_exact
@pytest.mark.parametrize("kind", KINDS)
class TestChats:
    def test_the_next_turn_reads_what_is_new(self, engine_of: EngineOf, kind: str) -> None:
        engine, text = engine_of(kind), text_of(150, 0)
        for turn in range(3):
            done = generate(engine, text, 20)
            assert done.stats.n_shared == (0 if turn == 0 else len(text) - 31)
            text = [*text, *done.tokens, *text_of(30, 1 + turn)]

    def test_the_same_prompt_reads_nothing(self, engine_of: EngineOf, kind: str) -> None:
        engine, text = engine_of(kind), text_of(150, 0)
        shared = [generate(engine, text, 40).stats.n_shared for _ in range(2)]
        assert shared == [0, len(text) - 1]

    def test_an_answer_that_the_template_changes_is_read_again(
        self, engine_of: EngineOf, kind: str
    ) -> None:
        engine, text = engine_of(kind), text_of(150, 0)
        done = generate(engine, text, 40)
        without_reasoning = [*text, *done.tokens[25:], *text_of(20, 1)]
        assert generate(engine, without_reasoning).stats.n_shared >= len(text) - 1

    def test_an_edited_message_shares_all_before_it(self, engine_of: EngineOf, kind: str) -> None:
        engine, text = engine_of(kind), text_of(150, 0)
        done = generate(engine, text, 40)
        told = [*text, *done.tokens]
        generate(engine, [*told, *text_of(90, 1)], 40)
        assert generate(engine, [*told, *text_of(90, 2)]).stats.n_shared >= len(told) - 1

    def test_a_long_prompt_is_shared_in_part(self, engine_of: EngineOf, kind: str) -> None:
        engine, text = engine_of(kind), text_of(2000, 0)
        generate(engine, text)
        assert generate(engine, [*text[:1300], *text_of(20, 1)]).stats.n_shared == 1024

    def test_instructions_are_shared_from_the_third_on(
        self, engine_of: EngineOf, kind: str
    ) -> None:
        engine, instructions = engine_of(kind, n_cached_prefixes=8), text_of(200, 0)
        shared = [
            generate(engine, [*instructions, *text_of(150, 1 + i)], 150).stats.n_shared
            for i in range(4)
        ]
        assert shared[2:] == [len(instructions)] * 2


@needs_exact
@pytest.mark.parametrize("kind", KINDS)
class TestTogether:
    def test_requests_at_once_read_their_prefix_once(self, engine_of: EngineOf, kind: str) -> None:
        engine, common = engine_of(kind, n_cached_prefixes=0), text_of(200, 0)
        prompts = [[*common, *text_of(60, 1 + i)] for i in range(3)]
        together = engine.generate(prompts, max_tokens=8, ignore_eos=True)
        assert [done.stats.n_shared for done in together] == [0, 200, 200]
        for prompt, done in zip(prompts, together, strict=True):
            assert generate(engine, prompt).tokens == done.tokens

    def test_answers_to_one_prompt_read_it_once(self, engine_of: EngineOf, kind: str) -> None:
        engine, prompt = engine_of(kind), text_of(300, 0)
        answers = engine.generate([prompt] * 5, max_tokens=8, ignore_eos=True)
        assert [done.stats.n_shared for done in answers] == [0, *[299] * 4]
        assert {tuple(done.tokens) for done in answers} == {tuple(generate(engine, prompt).tokens)}

    def test_a_fork_begins_with_its_parents_state(self, engine_of: EngineOf, kind: str) -> None:
        engine, prompt = engine_of(kind), text_of(100, 0)
        parent = engine.submit(prompt, max_tokens=60, ignore_eos=True)
        next(iter(parent))
        fork = parent.fork()
        assert fork.result().tokens == parent.result().tokens
        assert fork.result().stats.n_shared >= 99


@needs_exact
@pytest.mark.parametrize("kind", ["qwen35", "swa", "lfm2-swa"])
@pytest.mark.parametrize("max_swap_bytes", [0, 10**9], ids=["computed again", "swapped"])
def test_a_crowded_cache_changes_no_output(
    engine_of: EngineOf, kind: str, max_swap_bytes: int
) -> None:
    sizes = {"n_ctx": 512, "n_ubatch": 32, "n_seq_max": 4}
    engine = engine_of(kind, **sizes, max_swap_bytes=max_swap_bytes)
    stems = [text_of(100, 50 + i) for i in range(3)]
    prompts = [[*stems[i % 3][: 65 + 5 * i], *text_of(40, i)] for i in range(8)]
    together = engine.generate(prompts, max_tokens=140, ignore_eos=True)
    assert any(done.stats.n_preempted for done in together)
    for prompt, done in zip(prompts, together, strict=True):
        assert generate(engine, prompt, 140).tokens == done.tokens
    assert engine.load.n_cells_used <= 512


@pytest.mark.parametrize("kind", ["deepseek4", "recurrent", "glm5-next", "dots3note", "lfm2-swa"])
def test_every_memory_serves_more_than_it_holds(engine_of: EngineOf, kind: str) -> None:
    engine = engine_of(kind, n_ctx=256, n_ubatch=32)
    prompts = [text_of(150, seed) for seed in range(6)]
    together = engine.generate(prompts, max_tokens=200, ignore_eos=True)
    assert [done.finish_reason for done in together] == ["context"] * 6
    assert engine.load.n_running == engine.load.n_waiting == 0


@pytest.mark.parametrize("kind", ["hybrid", "qwen35"])
def test_where_bits_depend_on_passes_whole_chunks_are_shared(
    engine_of: EngineOf, kind: str
) -> None:
    engine, text = engine_of(kind, flash_attention=False), text_of(700, 0)
    shared = [
        engine.generate([*text[:n], *text_of(20, n)], max_tokens=4).stats.n_shared
        for n in (700, 650, 660)
    ]
    assert shared == [0, 512, 640]


@needs_exact
def test_a_shifted_text_leaves_no_checkpoint_behind_the_shift(engine_of: EngineOf) -> None:
    engine, prompt = engine_of("recurrent", n_ctx=256), text_of(100, 0)
    done = engine.generate(prompt, max_tokens=400, ignore_eos=True, context_shift=True)
    assert len(done.tokens) == 400
    assert generate(engine, [*prompt, *done.tokens[:60]]).stats.n_shared == 99


class TestRoom:
    def test_a_full_kv_cache_takes_none(self, engine_of: EngineOf) -> None:
        for kind, swa_full in (("rope", False), ("swa", True)):
            engine = engine_of(kind, swa_full=swa_full)
            engine.generate([text_of(600, 0), [*text_of(500, 0), 7]], max_tokens=4)
            assert (engine.load.n_checkpoints, engine.load.n_checkpoint_bytes) == (0, 0)

    @needs_exact
    @pytest.mark.parametrize("n_states", [0, 0.5, 2.5])
    def test_the_budget_holds(
        self, engine_of: EngineOf, tiny_model: TinyModel, n_states: float
    ) -> None:
        max_bytes = int(n_states * checkpoint_bytes(tiny_model("qwen35")))
        engine = engine_of("qwen35", max_checkpoint_bytes=max_bytes)
        for i in range(6):
            generate(engine, [*text_of(100, i % 2), *text_of(600, i)])
            assert engine.load.n_checkpoint_bytes <= max_bytes
        assert engine.load.n_checkpoints == int(n_states)

    def test_one_prompt_leaves_room_for_those_of_others(
        self, engine_of: EngineOf, tiny_model: TinyModel
    ) -> None:
        # of room for eight states, two on the way, and one at the end
        max_bytes = int(8.5 * checkpoint_bytes(tiny_model("qwen35")))
        engine = engine_of("qwen35", max_checkpoint_bytes=max_bytes)
        engine.generate(text_of(100, 0), max_tokens=4)
        engine.generate(text_of(3000, 1), max_tokens=4)
        assert 2 <= engine.load.n_checkpoints <= 4

    def test_without_a_prefix_cache_nothing_is_taken_for_later(self, engine_of: EngineOf) -> None:
        engine = engine_of("qwen35", n_cached_prefixes=0)
        engine.generate(text_of(1300, 0), max_tokens=4)
        assert engine.load.n_checkpoints == 0

    @pytest.mark.parametrize("n_cached_prefixes", [0, 4])
    @pytest.mark.parametrize("kind", ["recurrent", "rwkv7", "swa"])
    def test_a_cleared_prefix_cache_leaves_none(
        self, engine_of: EngineOf, kind: str, n_cached_prefixes: int
    ) -> None:
        engine, text = engine_of(kind, n_cached_prefixes=n_cached_prefixes), text_of(200, 0)
        engine.generate([[*text, 9], [*text, 10]], max_tokens=1)
        # without cached prefixes, only if both ran at the same time
        assert engine.load.n_checkpoints > 0 or n_cached_prefixes == 0
        engine.clear_prefix_cache()
        assert (engine.load.n_checkpoints, engine.load.n_checkpoint_bytes) == (0, 0)
        assert generate(engine, [*text, 11]).stats.n_shared == 0

    def test_a_negative_budget_is_refused(self, engine_of: EngineOf) -> None:
        with pytest.raises(ValueError, match="max_checkpoint_bytes=-1"):
            engine_of("qwen35", max_checkpoint_bytes=-1)


class TestStore:
    def test_the_least_recently_used_goes_first(self) -> None:
        store = Checkpoints(max_bytes=300)
        made = [Checkpoint(np.full(5, i, np.int32), bytes(80)) for i in range(4)]
        for checkpoint in made[:3]:
            assert store.add(checkpoint)
        store.touch(made[0])
        assert store.add(made[3])
        assert list(store) == [made[2], made[0], made[3]]
        assert store.n_bytes == 300

    def test_one_of_the_same_tokens_is_replaced(self) -> None:
        store = Checkpoints(max_bytes=1000)
        for data in (b"a" * 10, b"b" * 30):
            assert store.add(Checkpoint(np.array([1, 2], np.int32), data))
        assert [one.data for one in store] == [b"b" * 30]
        assert store.n_bytes == 38

    def test_one_that_is_too_large_evicts_nothing(self) -> None:
        store = Checkpoints(max_bytes=300)
        assert store.add(Checkpoint(np.arange(5, dtype=np.int32), bytes(80)))
        assert store.has_room_for_one
        assert not store.add(Checkpoint(np.arange(6, dtype=np.int32), bytes(400)))
        assert len(store) == 1
        assert not store.has_room_for_one

    def test_those_of_a_texts_prefixes_are_found(self) -> None:
        store, text = Checkpoints(max_bytes=10**6), np.arange(100, dtype=np.int32)
        for n in (70, 10, 40):
            store.add(Checkpoint(text[:n], b"x"))
        other = text[:50].copy()
        other[20] = 7  # equal at its end
        store.add(Checkpoint(other, b"x"))
        lengths = {n: [len(found) for found in store.of(text[:n])] for n in (9, 10, 69, 100)}
        assert lengths == {9: [], 10: [10], 69: [10, 40], 100: [10, 40, 70]}

    def test_their_number_is_bounded(self) -> None:
        store = Checkpoints(max_bytes=10**9)
        for n in range(1, 700):
            store.add(Checkpoint(np.zeros(n, np.int32), b"x"))
        assert len(store) == 512
        assert store.n_bytes == sum(checkpoint.n_bytes for checkpoint in store)


@needs_exact
@pytest.mark.parametrize("kind", ["recurrent", "qwen35", "swa"])
def test_a_saved_prefix_cache_brings_its_checkpoints(
    engine_of: EngineOf, kind: str, tmp_path: Path
) -> None:
    engine, text = engine_of(kind), text_of(700, 0)
    done = generate(engine, text, 30)
    assert engine.save_prefix_cache(tmp_path / "kept") == 1
    other = engine_of(kind)
    assert other.load_prefix_cache(tmp_path / "kept") == 1
    assert other.load.n_checkpoints == engine.load.n_checkpoints >= 2
    edited = [*text[:600], *text_of(9, 1)]
    assert generate(other, edited).stats.n_shared >= 512
    again = [*text, *done.tokens, 9]
    assert generate(other, again).stats.n_shared == len(again) - 2


@needs_exact
def test_a_loaded_window_is_shared_at_its_end_only(engine_of: EngineOf, tmp_path: Path) -> None:
    engine, text = engine_of("swa", swa_full=True), text_of(300, 0)
    done = generate(engine, text, 30)
    engine.save_prefix_cache(tmp_path / "kept")
    other = engine_of("swa", swa_full=True)
    other.load_prefix_cache(tmp_path / "kept")
    assert generate(other, [*text[:100], *text_of(20, 1)]).stats.n_shared == 0
    again = [*text, *done.tokens, 9]
    assert generate(other, again).stats.n_shared == len(again) - 2


@needs_exact
@pytest.mark.parametrize("kind", ["recurrent", "qwen35", "swa"])
def test_damaged_checkpoints_are_dropped_and_the_prompt_is_read(
    engine_of: EngineOf, kind: str, tmp_path: Path
) -> None:
    engine, text = engine_of(kind), text_of(700, 0)
    generate(engine, text)
    engine.save_prefix_cache(tmp_path / "kept")
    with np.load(tmp_path / "kept") as file:
        arrays = {name: file[name] for name in file.files}
    for name in [name for name in arrays if name.startswith("checkpoint_state")]:
        arrays[name] = arrays[name][:100]
    with (tmp_path / "kept").open("wb") as file:
        np.savez(file, **arrays)
    other = engine_of(kind)
    assert other.load_prefix_cache(tmp_path / "kept") == 1
    assert generate(other, [*text[:600], 9]).stats.n_shared == 0
