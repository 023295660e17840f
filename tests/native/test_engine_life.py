"""What an engine outlives, and how it ends: models, files and folders that go, forks that wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from pytreellama import Context, Engine, Model, draft
from pytreellama.engine import known_costs
from pytreellama.errors import ContextError, MemoryStateError, ModelLoadError, RequestError

TinyModel = Callable[..., Model]

PROMPT = [5, 6, 7, 5, 6, 7, 5, 6]
SIZES: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tiny_models.tiny_model("rope", tmp_path))


class TestModel:
    def test_an_engine_goes_on_when_its_model_is_closed(self, model: Model) -> None:
        with Engine(model, **SIZES) as engine:
            want = engine.generate(PROMPT, max_tokens=20, ignore_eos=True).text
            running = engine.submit(PROMPT, max_tokens=20, ignore_eos=True)
            model.close()
            assert running.result().text == want
            assert engine.generate(PROMPT, max_tokens=20, ignore_eos=True).text == want
            assert engine.generate("abc", max_tokens=2, json_schema={"type": "integer"})
            assert engine.generate([{"role": "user", "content": "a"}], max_tokens=2)

    def test_a_closed_engine_lets_go_of_the_model(self, model: Model) -> None:
        engine = Engine(model, **SIZES)
        engine.close()
        assert engine.model.closed and not model.closed

    def test_an_owner_more_keeps_a_model_open(self, model: Model) -> None:
        other = model.share()
        model.close()
        assert other.vocab.n_tokens and other.n_layer and not other.closed
        other.close()
        with pytest.raises(Exception, match="closed"):
            other.vocab.encode("a")


class TestClosing:
    @pytest.mark.parametrize("gone", ["deleted", "renamed", "another folder"])
    def test_an_engine_closes_when_its_file_is_gone(
        self, gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tiny_models.tiny_model("rope", tmp_path)
        monkeypatch.chdir(tmp_path)
        with Model(path.name) as model:
            engine = Engine(model, n_cached_prefixes=1, **SIZES)
            engine.generate(PROMPT, max_tokens=4)
            if gone == "deleted":
                path.unlink()
            elif gone == "renamed":
                path.rename(tmp_path / "other.gguf")
            else:
                (tmp_path / "folder").mkdir()
                os.chdir(tmp_path / "folder")
            engine.save_prefix_cache(tmp_path / "kept")
            engine.close()
            assert engine.context.closed

    def test_what_cannot_be_kept_does_not_keep_an_engine_open(
        self, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("no")

        engine = Engine(model, **SIZES)
        engine.generate(PROMPT, max_tokens=4)
        monkeypatch.setattr(known_costs, "_path", fail)
        engine.close()
        assert engine.context.closed

    def test_an_engine_that_cannot_be_made_leaves_no_context(
        self, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[Context] = []
        close = Context.close

        def note(self: Context) -> None:
            closed.append(self)
            close(self)

        monkeypatch.setattr(Context, "close", note)
        with pytest.raises(ContextError, match="kv_unified"):
            Engine(model, kv_unified=False, **SIZES)
        assert len(closed) == 1

    def test_requests_in_the_queue_are_cancelled(self, model: Model) -> None:
        engine = Engine(model, n_queue_max=8, **SIZES)
        running = [engine.submit(PROMPT, max_tokens=240, ignore_eos=True) for _ in range(9)]
        engine.close()
        assert {one.result().finish_reason for one in running} <= {"cancelled", "length"}


class TestForks:
    def test_a_fork_of_a_request_that_waits_writes_the_same(self, model: Model) -> None:
        with Engine(model, n_queue_max=8, **SIZES) as engine:
            blocks = threading.Event()
            first = engine.submit(PROMPT, max_tokens=2, on_step=lambda _: blocks.wait(30))
            waiting = engine.submit(
                PROMPT, max_tokens=30, ignore_eos=True, temperature=1.5, repeat_penalty=1.3
            )
            blocks.set()
            forks = [waiting.fork() for _ in range(2)]
            forks.append(forks[0].fork())
            first.result()
            texts = {one.result().tokens for one in (waiting, *forks)}
            assert len(texts) == 1
            assert len({one.result().seed for one in (waiting, *forks)}) == 1


@pytest.mark.parametrize("bytes_of", [bytes, bytearray, memoryview])
class TestBytes:
    def test_bytes_are_no_prompt(
        self, bytes_of: Callable[[bytes], bytes], tiny_model: TinyModel
    ) -> None:
        given = bytes_of(b"text")
        with Engine(tiny_model("rope"), **SIZES) as engine:
            for ask in (
                lambda: engine.generate(given),
                lambda: engine.generate([given]),
                lambda: engine.submit(given),
                lambda: engine.score(given, [[5]]),
                lambda: engine.score([5], [given]),
                lambda: engine.embed([given]),
                lambda: engine.generate([5], stop=given),  # type: ignore[arg-type]
                lambda: engine.generate([5], stop_tokens=given),
            ):
                with pytest.raises(RequestError, match=r"bytes|bytearray|memory"):
                    ask()


class TestWrongArguments:
    @pytest.mark.parametrize("prompt", [None, 5, Path("a"), {"role": "user"}, iter([5]), {5, 6}])
    def test_what_is_no_prompt_is_refused(self, prompt: Any, tiny_model: TinyModel) -> None:
        with Engine(tiny_model("rope"), **SIZES) as engine:
            asks: Any = (engine.generate, engine.submit, engine.stream, engine.encode_prompt)
            for ask in asks:
                with pytest.raises(RequestError, match="invalid prompt of type"):
                    ask(prompt)

    def test_one_text_is_no_list_of_texts(self, tiny_model: TinyModel) -> None:
        with Engine(tiny_model("rope"), **SIZES) as engine:
            with pytest.raises(RequestError, match="give a list"):
                engine.embed("hello")
            with pytest.raises(RequestError, match="give a list"):
                engine.score([5], " Paris")

    @pytest.mark.parametrize("name", ["on_step", "on_prefill"])
    def test_a_callback_is_a_function(self, name: str, tiny_model: TinyModel) -> None:
        async def later(_: object) -> None: ...

        with Engine(tiny_model("rope"), **SIZES) as engine:
            for callback in (5, later):
                with pytest.raises(RequestError, match=f"invalid {name}"):
                    engine.submit(PROMPT, **{name: callback})  # type: ignore[arg-type]

    def test_a_fork_changes_sampling_alone(self, tiny_model: TinyModel) -> None:
        with Engine(tiny_model("rope"), **SIZES) as engine:
            running = engine.submit(PROMPT, max_tokens=200, ignore_eos=True)
            with pytest.raises(RequestError, match="a fork cannot change max_tokens"):
                running.fork(max_tokens=5)  # type: ignore[call-arg]
            with pytest.raises(RequestError, match="did you mean 'temperature'"):
                running.fork(temprature=5)  # type: ignore[call-arg]

    def test_a_path_is_loaded_and_closed_with_the_engine(self, tiny_model: TinyModel) -> None:
        with Engine(str(tiny_model("rope").path), **SIZES) as engine:
            assert engine.generate(PROMPT, max_tokens=4).tokens
        assert engine.model.closed

    def test_what_is_neither_model_nor_path(self) -> None:
        with pytest.raises(ContextError, match="give a Model, or the path of a GGUF file"):
            Engine(5)  # type: ignore[arg-type]
        with pytest.raises(ModelLoadError, match="cannot read the model file no-such"):
            Engine("no-such.gguf")

    @pytest.mark.parametrize("name", ["owner/name-GGUF", "hf:owner/name", "llama3"])
    def test_a_name_for_a_path_is_told_where_models_come_from(self, name: str) -> None:
        with pytest.raises(
            ModelLoadError, match=r"hf:owner/name or ollama:name .* from_pretrained"
        ):
            Engine(name)
        with pytest.raises(ModelLoadError, match=r"give the path of a GGUF file$"):
            Engine("missing.gguf")

    def test_a_parameter_of_the_model_is_sent_there(self, tiny_model: TinyModel) -> None:
        with pytest.raises(
            ContextError, match=r"as in Engine\(Model\(path, n_gpu_layers=\.\.\.\)\)"
        ):
            Engine(tiny_model("rope"), n_gpu_layers=0)
        with pytest.raises(ContextError) as told:
            Engine(tiny_model("rope"), n_contexts=5)
        assert str(told.value).count("n_seq_max") == 1

    def test_a_closed_engine_says_so(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), **SIZES)
        engine.close()
        for ask in (
            lambda: engine.generate(PROMPT),
            lambda: engine.score(PROMPT, [[5]]),
            lambda: engine.embed([PROMPT]),
            lambda: engine.encode_prompt("a"),
        ):
            with pytest.raises(ContextError, match="the engine is closed"):
                ask()

    @pytest.mark.parametrize("name", ["wait", "streams"])
    @pytest.mark.parametrize("value", [np.array([1, 2]), "yes", None])
    def test_a_switch_is_true_or_false(
        self, name: str, value: object, tiny_model: TinyModel
    ) -> None:
        with Engine(tiny_model("rope"), **SIZES) as engine:
            with pytest.raises(RequestError, match=f"invalid {name}"):
                engine.submit(PROMPT, **{name: value})  # type: ignore[arg-type]
            assert engine.generate(PROMPT, max_tokens=2, ignore_eos=True).tokens

    @pytest.mark.parametrize("value", [np.array(3), 1.5, "3", None])
    def test_sizes_are_whole_numbers(self, value: object, tiny_model: TinyModel) -> None:
        for name in ("n_prefill", "n_queue_max", "n_cached_prefixes"):
            if name == "n_cached_prefixes" and value is None:
                continue  # the default
            with pytest.raises(RequestError, match=f"invalid {name}"):
                Engine(tiny_model("rope"), **SIZES, **{name: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "option",
        [
            {"n_ctx": 256.0},
            {"n_batch": "8"},
            {"n_threads": [1]},
            {"kv_unified": 2},
            {"flash_attention": "x"},
            {"rope_freq_base": float("nan")},
            {"rope_freq_scale": float("inf")},
            {"rope_freq_base": -1.0},
        ],
        ids=str,
    )
    def test_a_parameter_of_the_wrong_kind_is_refused(
        self, option: dict[str, Any], tiny_model: TinyModel
    ) -> None:
        with pytest.raises(ContextError, match=f"invalid {next(iter(option))}=.*: expected"):
            Context(tiny_model("rope"), **option)

    @pytest.mark.parametrize("option", ["max_tokens", "logprobs", "n_keep"])
    @pytest.mark.parametrize(
        "value", [1.5, "1", True, -(10**5000)], ids=["1.5", "'1'", "True", "huge"]
    )
    def test_a_count_is_a_whole_number(
        self, option: str, value: object, tiny_model: TinyModel
    ) -> None:
        with (
            Engine(tiny_model("rope"), **SIZES) as engine,
            pytest.raises(RequestError, match=option),
        ):
            engine.submit(PROMPT, **{option: value})  # type: ignore[arg-type]

    def test_false_is_no_sequence(self, tiny_model: TinyModel) -> None:
        with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
            context.prefill([5, 6])
            with pytest.raises(MemoryStateError, match="sequence id False"):
                context.sequences.free(False)
            context.sequences.free(0)
            assert context.prefill([5]) == 0


def test_engines_may_share_a_draft_model(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with Engine(model, "none", **SIZES) as engine:
        want = engine.generate(PROMPT, max_tokens=12, ignore_eos=True).tokens
    drafter = draft.Model(model, n_ctx=1024, n_seq_max=8, n_threads=1)
    engines = [Engine(model, drafter, n_seq_max=2, **SIZES) for _ in range(2)]
    got: list[object] = []

    def work(engine: Engine) -> None:
        for _ in range(12):
            try:
                got.append(engine.generate(PROMPT, max_tokens=12, ignore_eos=True).tokens)
            except Exception as error:
                got.append(error)

    threads = [threading.Thread(target=work, args=(engines[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.close()
    drafter.close()
    assert got == [want] * 48


def test_chats_are_sampled_by_default_and_plain_text_is_not(tiny_model: TinyModel) -> None:
    chat = [{"role": "user", "content": "the cat and the dog"}]
    with Engine(tiny_model("rope"), n_ctx=512) as engine:
        ids = engine.encode_prompt(chat)
        usual: Any = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
        drawn = engine.generate(chat, max_tokens=24, seed=5)
        assert drawn.tokens == engine.generate(ids, max_tokens=24, seed=5, **usual).tokens
        greedy = engine.generate(chat, max_tokens=24, temperature=0)
        assert greedy.tokens == engine.generate(ids, max_tokens=24).tokens != drawn.tokens
