"""Drafting with a second model: engines that use one, and what happens at its edges."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from pytreellama import Completion, Context, Engine, Model, draft
from pytreellama.context.native_context import NativeContext
from pytreellama.draft.growth import Grow
from pytreellama.errors import CacheFullError, ContextError, DecodeError, DraftError, ModelLoadError
from tiny_models import BRANCHING_KINDS

TinyModel = Callable[..., Model]

PROMPT = "the cat and the dog and the cat and the"
SIZES: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}
SMALL: dict[str, Any] = {"n_seq_max": 4, **SIZES}


def n_ids_in_use(factory: draft.Model) -> int:
    """Sequences that hold cells of the draft model's cache."""
    context = factory._cache._context
    return sum(context.memory.pos_max(seq) >= 0 for seq in range(context.n_seq_max))


# -- engines


def completion(model: Model, drafter: Any, sizes: dict[str, Any], **options: Any) -> Completion:
    """What an engine of its own writes after ``PROMPT``."""
    with Engine(model, drafter=drafter, **sizes) as engine:
        return engine.generate(PROMPT, **options)


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_a_model_that_drafts_for_itself_is_accepted_whole(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    precise: dict[str, Any] = {**SIZES, "flash_attention": False, "type_k": "f32", "type_v": "f32"}
    plain = completion(model, "none", precise, max_tokens=33)
    with draft.Model(model, grow="chain", n_levels=7, min_p=0, **precise, n_seq_max=1) as same:
        drafted = completion(model, same, {"n_draft": 7, **precise}, max_tokens=33)
    assert drafted.tokens == plain.tokens
    assert drafted.stats.n_accepted == drafted.stats.n_drafted
    # each pass brings seven drafted tokens and one of the model's own, until the last few
    assert drafted.stats.n_steps <= 6


@pytest.mark.parametrize("grow", ["best", "chain", (3, 2, 1)], ids=str)
@pytest.mark.parametrize("drafting", ["rope", "recurrent", "hybrid", "swa"])
def test_another_model_of_the_same_vocabulary_changes_no_token(
    tiny_model: TinyModel, drafting: str, grow: Grow
) -> None:
    target = tiny_model("rope", seed=5)
    with (
        Engine(target, drafter="none", **SIZES) as plain,
        draft.Model(tiny_model(drafting), grow=grow, min_p=0.001, **SMALL) as other,
        Engine(target, drafter=other, n_draft=6, n_seq_max=2, **SIZES) as engine,
    ):
        prompts = [PROMPT, "once upon a time", "a"]
        for prompt, done in zip(prompts, engine.generate(prompts, max_tokens=24), strict=True):
            assert done.tokens == plain.generate(prompt, max_tokens=24).tokens
            assert done.stats.n_drafted > 0, "nothing was drafted, so nothing was tested"


def test_a_model_requantised_smaller_guesses_well(
    tiny_model: TinyModel, tiny_model_path: Callable[..., Path]
) -> None:
    target = tiny_model("rope")
    plain = completion(target, "none", SIZES, max_tokens=40)
    with draft.Model(tiny_model_path("rope", dtype="q8_0"), **SMALL) as smaller:
        done = completion(target, smaller, {"n_draft": 8, **SIZES}, max_tokens=40)
    assert done.tokens == plain.tokens
    assert done.stats.n_steps < 20


def test_sampled_text_is_that_of_the_seed(tiny_model: TinyModel) -> None:
    target, options = tiny_model("rope", seed=5), {"temperature": 0.8, "seed": 3, "max_tokens": 24}
    plain = completion(target, "none", SIZES, **options)
    with draft.Model(tiny_model("rope"), min_p=0.001, **SMALL) as other:
        done = completion(target, other, SIZES, **options)
    assert done.tokens == plain.tokens


def test_a_recurrent_draft_model_grows_chains(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("qwen4exp"), grow=(3, 2), min_p=0, **SMALL) as factory:
        drafter = factory()
        drafter.observe([270, 271])
        assert drafter.propose(8).parents.tolist() == [-1, 0]


# -- vocabularies


def test_an_engine_refuses_a_draft_model_of_another_vocabulary(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_models, "_COMMON_PIECES", ("▁t", "eh"))
    other = tiny_models.write_tiny_model(tmp_path / "other.gguf", "rope")
    with (
        draft.Model(other, **SMALL) as factory,
        pytest.raises(DraftError, match=r"token 289 is b'he' to the target .* b'eh' to the draft"),
    ):
        Engine(tiny_model("rope"), drafter=factory, **SIZES)


@pytest.mark.parametrize(("n_target", "n_draft"), [(320, 400), (400, 320)])
def test_a_padded_vocabulary_is_drafted_within(
    tiny_model: TinyModel, n_target: int, n_draft: int
) -> None:
    target = tiny_model("rope", n_vocab=n_target)
    plain = completion(target, "none", SIZES, max_tokens=40)
    with draft.Model(tiny_model("rope", n_vocab=n_draft), min_p=0, **SMALL) as factory:
        assert completion(target, factory, SIZES, max_tokens=40).tokens == plain.tokens
        n_common = min(n_target, n_draft)
        drafter = factory()
        drafter.observe([270])
        for _ in range(20):
            tree = drafter.propose(8)
            assert len(tree) > 0
            assert int(tree.tokens.max()) < n_common
            drafter.observe(tree.tokens[:1])


def test_no_guess_follows_a_token_that_only_the_target_knows(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), min_p=0, **SMALL) as factory:
        drafter = factory()
        drafter.observe([270, 320, 271])
        assert len(drafter.propose(8)) == 0
        drafter.reset()
        drafter.observe([270])
        assert len(drafter.propose(8)) > 0


# -- room


@pytest.mark.parametrize("kind", ["rope", "recurrent"])
def test_near_the_end_of_the_context_guesses_end_and_then_fail_to_come(
    tiny_model: TinyModel, kind: str
) -> None:
    with draft.Model(tiny_model(kind), grow="chain", n_levels=4, min_p=0, **SMALL) as factory:
        drafter = factory()
        drafter.observe([270] * 250)
        n_guesses = []
        for _ in range(10):
            n_guesses.append(len(drafter.propose(8)))
            drafter.observe([271])
        # a text of 256 tokens is full, and what follows it is expected all the same
        assert n_guesses == [4, 4, 4, 4, 3, 2, 1, 0, 0, 0]
        assert n_ids_in_use(factory) == 0 or factory._cache.n_cells_left == 256


def test_learned_positions_end_where_they_were_learned(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("learned", n_ctx_train=64), min_p=0, **SMALL) as factory:
        drafter = factory()
        drafter.observe([270] * 62)
        assert drafter.propose(64).n_levels == 3
        drafter.observe([270] * 3)
        assert len(drafter.propose(64)) == 0


def test_texts_that_fill_the_cache_together_wait_for_room(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), min_p=0, n_levels=3, **SMALL) as factory:
        first, second = factory(), factory()
        first.observe([270] * 200)
        assert first.propose(8).n_levels == 3
        second.observe([271] * 100)
        assert len(second.propose(8)) == 0
        first.observe([272])
        assert first.propose(8).n_levels == 3
        first.reset()
        assert second.propose(8).n_levels == 3


def test_a_long_engine_run_outlives_the_draft_model_s_context(tiny_model: TinyModel) -> None:
    target = tiny_model("rope", seed=5)
    sizes: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}
    plain = completion(target, "none", sizes, max_tokens=300)
    with draft.Model(tiny_model("rope"), min_p=0.01, **SMALL) as factory:
        done = completion(target, factory, sizes, max_tokens=300)
    assert done.tokens == plain.tokens
    assert len(done.tokens) == 300


# -- sequence ids


def test_reset_gives_the_sequence_id_back(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), **SMALL) as factory:
        drafter = factory()
        for _ in range(10):
            drafter.observe([270, 271])
            assert len(drafter.propose(8)) > 0
            assert n_ids_in_use(factory) == 1
            drafter.reset()
            assert n_ids_in_use(factory) == 0
            assert len(drafter.propose(8)) == 0


def test_reset_forgets_the_text(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), calibrate=False, min_p=0, **SMALL) as factory:
        reused, fresh = factory(), factory()
        reused.observe([270, 271, 272])
        reused.propose(8)
        reused.reset()
        for drafter in (reused, fresh):
            drafter.observe([273, 274])
        assert reused.propose(8) == fresh.propose(8)


def test_while_all_ids_are_in_use_others_wait(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), **SMALL) as factory:
        drafters = [factory() for _ in range(5)]
        for drafter in drafters:
            drafter.observe([270, 271])
        assert [len(drafter.propose(4)) > 0 for drafter in drafters] == [True] * 4 + [False]
        drafters[1].reset()
        assert len(drafters[4].propose(4)) > 0


def test_a_forgotten_drafter_gives_its_id_back(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), **SMALL) as factory:
        for _ in range(9):
            drafter = factory()
            drafter.observe([270, 271])
            assert len(drafter.propose(4)) > 0
            del drafter
            gc.collect()


def test_a_drafter_that_was_never_asked_holds_nothing(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), **SMALL) as factory:
        drafters = [factory() for _ in range(100)]
        for drafter in drafters:
            drafter.observe([270, 271])
        assert n_ids_in_use(factory) == 0
        assert len(drafters[99].propose(4)) > 0


# -- what it is told, and what it learns


def test_without_a_text_or_nodes_nothing_is_guessed(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), **SMALL) as factory:
        drafter = factory()
        assert isinstance(drafter, draft.Drafter)
        assert isinstance(factory, draft.NeedsTarget)
        drafter.observe([])
        assert len(drafter.propose(8)) == 0
        drafter.observe([270])
        assert len(drafter.propose(0)) == 0
        with pytest.raises(DraftError, match="invalid n_nodes=-1"):
            drafter.propose(-1)
        with pytest.raises(DraftError, match="token ids"):
            drafter.observe([1.5])  # type: ignore[list-item]
        assert len(drafter.propose(8)) > 0


def test_what_comes_true_is_called_likelier_and_later_drafters_know(
    tiny_model: TinyModel,
) -> None:
    def first_p(drafter: draft.ModelDrafter) -> float:
        tree = drafter.propose(8)
        assert tree.p is not None
        return float(tree.p.max())

    with draft.Model(tiny_model("rope"), min_p=0, **SMALL) as factory:
        prompt = [270, 271, 272]
        naive, learner = factory(), factory()
        naive.observe(prompt)
        learner.observe(prompt)
        before = first_p(learner)
        assert before == first_p(naive)
        for _ in range(60):
            learner.observe(learner.propose(8).tokens[:1])
        later = factory()
        later.observe(prompt)
        assert first_p(later) > before + 0.1
        assert first_p(naive) == before, "a sequence was disturbed by its neighbour"


def test_a_context_can_be_asked_for_by_name(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), type_k="f32", **SMALL) as factory:
        assert factory._cache._context.params.type_k == "f32"
    with pytest.raises(ContextError, match="n_heads"):
        draft.Model(tiny_model("rope"), n_heads=3)
    with pytest.raises(ContextError, match="kv_unified"):
        draft.Model(tiny_model("rope"), kv_unified=False)


# -- failures


@pytest.mark.parametrize("error", [DecodeError, CacheFullError])
@pytest.mark.parametrize("method", ["prefill", "grow", "commit"])
def test_failures_of_the_draft_model_are_named_and_leave_a_working_drafter(
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: type[Exception],
) -> None:
    def fail(*args: object, **options: Any) -> None:
        raise error("no luck")

    with draft.Model(tiny_model("rope"), calibrate=False, min_p=0, **SMALL) as factory:
        drafter, fresh = factory(), factory()
        drafter.observe([270, 271])
        if method == "commit":
            drafter.propose(8)
            drafter.observe([272])
        with monkeypatch.context() as patched:
            patched.setattr(Context, method, fail)
            with pytest.raises(DraftError, match=r"rope.gguf failed: no luck") as failure:
                drafter.propose(8)
        assert isinstance(failure.value.__cause__, error)
        assert n_ids_in_use(factory) <= 1
        fresh.observe([270, 271, 272] if method == "commit" else [270, 271])
        assert drafter.propose(8) == fresh.propose(8)


def test_a_closed_factory_says_so(tiny_model: TinyModel, tiny_model_path: TinyModel) -> None:
    model = tiny_model("rope")
    factory = draft.Model(model, **SMALL)
    drafter = factory()
    drafter.observe([270, 271])
    drafter.propose(4)
    factory.close()
    factory.close()
    assert not model.closed
    for use in (factory, lambda: factory.prepare(model), lambda: drafter.propose(4)):
        with pytest.raises(DraftError, match="closed"):
            use()
    drafter.reset()
    own = draft.Model(tiny_model_path("rope"), **SMALL)
    own.close()
    assert own._cache.model.closed


def test_a_draft_model_may_be_closed_by_its_owner(tiny_model_path: Callable[..., Path]) -> None:
    with Model(tiny_model_path("rope")) as model:
        factory = draft.Model(model, **SMALL)
    drafter = factory()
    drafter.observe([270, 271])
    assert len(drafter.propose(4)) > 0
    factory.close()


def test_a_file_as_drafter_is_loaded_for_an_engine_and_closed_with_it(
    tiny_model: TinyModel, tiny_model_path: Callable[..., Path]
) -> None:
    model, path = tiny_model("rope"), str(tiny_model_path("rope"))
    plain = completion(model, "none", SIZES, max_tokens=40)
    with Engine(model, path, **SIZES) as engine:
        done = engine.generate(PROMPT, max_tokens=40)
        factory = engine.drafter
        assert isinstance(factory, draft.DraftFile)
        with pytest.raises(DraftError, match="another engine drafts with"):
            Engine(model, factory, **SIZES)
    assert done.tokens == plain.tokens
    assert done.stats.drafters["model"].n_accepted > 0
    with pytest.raises(DraftError, match="within an engine"):
        factory()


@pytest.mark.parametrize("joined", ["auto+{}", "suffix+model={}"])
def test_a_file_may_be_joined_to_other_drafters(
    joined: str, tiny_model: TinyModel, tiny_model_path: Callable[..., Path]
) -> None:
    model = tiny_model("rope")
    plain = completion(model, "none", SIZES, max_tokens=40)
    spec = joined.format(tiny_model_path("rope"))
    assert completion(model, spec, SIZES, max_tokens=40).tokens == plain.tokens


def test_a_file_of_another_vocabulary_is_refused_and_nothing_stays_open(
    tiny_model: TinyModel, tiny_model_path: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(DraftError, match="the draft model cannot be loaded"):
        Engine(tiny_model("rope"), str(broken), **SIZES)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        draft.Model(tmp_path / "none.gguf")


def test_options_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(DraftError, match="invalid n_levels=0"):
        draft.Model("none.gguf", n_levels=0)


# -- passes that requests share


@pytest.mark.parametrize("grow", ["best", (3, 2)], ids=str)
def test_running_requests_draft_in_the_same_passes(
    tiny_model: TinyModel, grow: Grow, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_model("rope", seed=5)
    prompts = [[270 + i, 280, 290, 300 + i] for i in range(4)]
    n_passes: dict[int, int] = {}

    def counted(plain: Callable[..., None]) -> Callable[..., None]:
        def run(self: NativeContext, *args: Any, **options: Any) -> None:
            n_passes[id(self)] = n_passes.get(id(self), 0) + 1
            plain(self, *args, **options)

        return run

    for name in ("decode", "decode_tree", "decode_one", "decode_one_tree"):
        monkeypatch.setattr(NativeContext, name, counted(getattr(NativeContext, name)))
    sizes = {**SIZES, "n_ctx": 512, "n_seq_max": 4}
    with (
        draft.Model(tiny_model("rope"), grow=grow, n_levels=3, min_p=0.0, **SMALL) as other,
        Engine(target, drafter=other, n_draft=6, **sizes) as engine,
        Engine(target, drafter="none", **sizes) as plain,
    ):
        drafted = engine.generate(prompts, max_tokens=20, ignore_eos=True)
        expected = plain.generate(prompts, max_tokens=20, ignore_eos=True)
        n_of_draft = n_passes[id(other._cache._context.native)]
    assert [one.tokens for one in drafted] == [one.tokens for one in expected]
    n_steps = max(one.stats.n_steps for one in drafted)
    n_levels = 3 if grow == "best" else 2
    # reading the text is a pass, and the last level is not read
    assert n_of_draft <= n_levels * (n_steps + 1)


def test_a_tree_that_grew_with_others_is_the_one_that_grows_alone(tiny_model: TinyModel) -> None:
    texts = [[270, 280, 290], [271, 281], [272, 282, 292, 302]]
    with draft.Model(tiny_model("rope"), min_p=0.0, **SMALL) as factory:
        alone = []
        for text in texts:
            drafter = factory()
            drafter.observe(text)
            alone.append(drafter.propose(8))
            drafter.reset()
        together = [factory() for _ in texts]
        for drafter, text in zip(together, texts, strict=True):
            drafter.observe(text)
            drafter.announce(8)
        together[1].observe([283])  # it went on, and is not asked
        for i in (0, 2):
            tree = together[i].propose(8)
            assert tree.tokens.tolist() == alone[i].tokens.tolist()
            assert tree.parents.tolist() == alone[i].parents.tolist()
            assert np.array_equal(tree.p, alone[i].p)  # type: ignore[arg-type]


def test_levels_that_tokens_are_not_worth_are_left_out(tiny_model: TinyModel) -> None:
    with draft.Model(tiny_model("rope"), min_p=0.0, **SMALL) as factory:
        drafter = factory()
        drafter.observe([270, 280, 290])
        drafter.announce(8, 0.0, 1e6)
        assert drafter.propose(8).depths.max() > 0
        drafter.observe([291])
        drafter.announce(8, 0.0, 0.0)
        tree = drafter.propose(8)
        assert len(tree) > 0
        assert tree.depths.max() == 0
