"""LoRA adapters: what they change, that bits stay exact, and requests that differ in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytreellama import Context, Engine, Model, TokenTree
from pytreellama.errors import ContextError, MemoryStateError, ModelLoadError, RequestError
from pytreellama.model.lora import Lora
from tiny_lora import Pairs, write_merged, write_tiny_lora

TinyModel = Callable[..., Model]
TinyModelPath = Callable[..., Path]

KINDS = ("rope", "swa", "learned", "moe", "recurrent", "hybrid", "qwen35", "lfm2")
TREE = TokenTree.from_parents([40, 41, 42, 41, 43, 41], [-1, 0, 0, 1, 1, 2])
PROMPTS = ("the cat on the mat and the", "the cat on the mat is in", "one", "he is on the other")
ASKED: tuple[dict[str, float] | None, ...] = (
    None,
    {},
    {"a": 1.0},
    {"b": 1.0},
    {"a": 0.5, "b": -1.0},
    {"a": 0.0},
)


def text_of(n_tokens: int, seed: int = 1) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, 250, n_tokens, dtype=np.int32)


def last_logits(context: Context, text: NDArray[np.int32]) -> NDArray[np.float32]:
    seq = context.prefill(text, logits=True)
    row: NDArray[np.float32] = context.outputs.logits[0]
    context.sequences.free(seq)
    return row


@pytest.fixture(scope="module")
def lora_paths(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_path: TinyModelPath
) -> dict[str, Path]:
    """Two adapters for "rope"."""
    folder = tmp_path_factory.mktemp("lora")
    model = tiny_model_path("rope")
    return {
        name: write_tiny_lora(folder / f"{name}.gguf", model, rank=rank, seed=seed)
        for name, rank, seed in (("a", 4, 1), ("b", 8, 2))
    }


# -- one adapter


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_model_with_the_adapter_merged(
    kind: str, tiny_model: TinyModel, tiny_model_path: TinyModelPath, tmp_path: Path
) -> None:
    path, text = tiny_model_path(kind), text_of(30)
    merged_path = write_merged(tmp_path / "merged.gguf", path, rank=4, seed=3, scale=0.5)
    lora_path = write_tiny_lora(tmp_path / "lora.gguf", path, rank=4, seed=3)
    model = tiny_model(kind)
    with (
        model.load_lora(lora_path) as lora,
        Context(model, n_ctx=128) as context,
        Model(merged_path) as merged,
        Context(merged, n_ctx=128) as other,
    ):
        bare = last_logits(context, text)
        context.use_adapters([(lora, 0.5)])
        found, expected = last_logits(context, text), last_logits(other, text)
        assert np.abs(found - expected).max() < 0.02
        assert np.abs(found - bare).max() > 0.5
        context.use_adapters()
        assert last_logits(context, text).tobytes() == bare.tobytes()


@pytest.mark.parametrize(
    ("rank", "dtype"), [(1, "f32"), (4, "f32"), (33, "f32"), (8, "f16"), (8, "bf16"), (32, "q8_0")]
)
@pytest.mark.parametrize("kind", ["rope", "moe", "hybrid"])
def test_bits_under_an_adapter_do_not_depend_on_the_pass(
    kind: str,
    rank: int,
    dtype: str,
    tiny_model: TinyModel,
    tiny_model_path: TinyModelPath,
    tmp_path: Path,
) -> None:
    path, text = tiny_model_path(kind), text_of(90)
    lora_path = write_tiny_lora(tmp_path / "lora.gguf", path, rank=rank, seed=3, dtype=dtype)
    model = tiny_model(kind)
    with model.load_lora(lora_path) as lora, Context(model, n_ctx=512, n_seq_max=2) as context:
        assert context.is_batch_invariant
        context.use_adapters([(lora, 1.0)])
        seq = context.prefill(text[:1])
        steps = [context.decode(int(token), seq=seq).logits[0] for token in text[1:]]
        other = context.prefill(text, logits=True)
        assert context.outputs.logits[0].tobytes() == steps[-1].tobytes()
        rows = context.decode(TREE, seq=seq).logits
        context.discard(seq)
        for node in (3, 4, 5):
            path_nodes = TREE.path(node)
            whole = [*text.tolist(), *TREE.tokens[path_nodes].tolist()]
            context.sequences.free(other)
            other = context.prefill(whole, logits=True)
            assert context.outputs.logits[0].tobytes() == rows[node].tobytes()


def test_a_set_that_was_used_before_gives_its_bits_again(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    model, text = tiny_model("rope"), text_of(20)
    with (
        model.load_lora(lora_paths["a"]) as a,
        model.load_lora(lora_paths["b"]) as b,
        Context(model, n_ctx=128) as context,
    ):
        sets: list[list[tuple[Lora, float]]] = [[], [(a, 1.0)], [(b, 1.0)], [(a, 0.5), (b, 2.0)]]
        known: dict[int, bytes] = {}
        rng = np.random.default_rng(1)
        for i in rng.integers(len(sets), size=40).tolist():
            context.use_adapters(sets[i])
            assert context.adapters == tuple(sets[i])
            found = last_logits(context, text).tobytes()
            assert known.setdefault(i, found) == found
        assert len(set(known.values())) == len(sets)


def test_more_sets_than_are_kept_leave_each_its_bits(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    model, text = tiny_model("rope", n_layer=1), text_of(3)
    with Model(model.path) as own, Context(own, n_ctx=32, n_threads=1) as context:
        path = write_tiny_lora(lora_paths["a"].with_name("one.gguf"), model.path, rank=1)
        with own.load_lora(path) as lora:  # after the context was made
            context.use_adapters([(lora, 0.001)])
            first = last_logits(context, text)
            for i in range(2, 1200):
                context.use_adapters([(lora, i / 1000)])
                if i % 100 == 0:
                    assert not np.array_equal(last_logits(context, text), first)
            context.use_adapters([(lora, 0.001)])
            assert last_logits(context, text).tobytes() == first.tobytes()


def test_adapters_that_a_context_uses_may_be_closed(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    text = text_of(20)
    with Context(tiny_model("rope"), n_ctx=64) as context:
        lora = tiny_model("rope").load_lora(lora_paths["a"])
        context.use_adapters([(lora, 1.0)])
        before = last_logits(context, text)
        lora.close()
        lora.close()
        assert lora.closed
        assert "closed" in repr(lora)
        assert last_logits(context, text).tobytes() == before.tobytes()
        context.use_adapters()
        with pytest.raises(ModelLoadError, match=r"the adapter a\.gguf is closed"):
            context.use_adapters([(lora, 1.0)])


def test_adapters_do_not_change_below_a_pending_tree(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    model = tiny_model("rope")
    with model.load_lora(lora_paths["a"]) as lora, Context(model, n_ctx=64) as context:
        seq = context.prefill([5, 6])
        context.decode(TREE, seq=seq)
        with pytest.raises(MemoryStateError, match="change the adapters of"):
            context.use_adapters([(lora, 1.0)])
        context.discard(seq)
        context.use_adapters([(lora, 1.0)])


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e6, "1", None, True])
def test_a_scale_that_is_no_number_is_refused(
    scale: Any, tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    model = tiny_model("rope")
    with (
        model.load_lora(lora_paths["a"]) as lora,
        Context(model, n_ctx=64) as context,
        pytest.raises(ModelLoadError, match="invalid scale="),
    ):
        context.use_adapters([(lora, scale)])


def test_an_adapter_twice_is_refused(tiny_model: TinyModel, lora_paths: dict[str, Path]) -> None:
    model = tiny_model("rope")
    with (
        model.load_lora(lora_paths["a"]) as lora,
        Context(model, n_ctx=64) as context,
        pytest.raises(ModelLoadError, match="given twice"),
    ):
        context.use_adapters([(lora, 0.5), (lora, 0.25)])


# -- files


def _one_side(pairs: Pairs) -> None:
    name = "blk.0.attn_q.weight"
    pairs[name] = (pairs[name][0], pairs[name][1][:, :2].copy())


def _embedding_ranks(pairs: Pairs) -> None:
    a, b = pairs["token_embd.weight"]
    pairs["token_embd.weight"] = (a, b[:, :2].copy())


def _unknown(pairs: Pairs) -> None:
    pairs["blk.7.attn_q.weight"] = pairs["blk.0.attn_q.weight"]


def _nothing(pairs: Pairs) -> None:
    pairs.clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "gpt2"}, "arch mismatch"),
        ({"edit": _one_side}, "lora_a tensor is not transposed"),
        ({"edit": _embedding_ranks}, "have different ranks"),
        ({"edit": _unknown}, "does not exist in base model"),
        ({"edit": _nothing}, "changes no weights"),
        ({"change": lambda g: g.add_array("adapter.alora.invocation_tokens", [1, 2])}, "LoRA"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    options: dict[str, Any], message: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("rope")
    path = write_tiny_lora(tmp_path / "lora.gguf", model.path, **options)
    with pytest.raises(ModelLoadError, match=message):
        model.load_lora(path)


def test_experts_of_another_number_are_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    def fewer(pairs: Pairs) -> None:
        name = "blk.0.ffn_up_exps.weight"
        pairs[name] = (pairs[name][0][:2].copy(), pairs[name][1][:2].copy())

    model = tiny_model("moe")
    path = write_tiny_lora(tmp_path / "lora.gguf", model.path, edit=fewer)
    with pytest.raises(ModelLoadError, match="has not as many matrices"):
        model.load_lora(path)


def test_an_alpha_that_is_no_number_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("rope")
    path = write_tiny_lora(tmp_path / "lora.gguf", model.path)
    data = path.read_bytes()
    alpha, nan = (np.float32(x).tobytes() for x in (6.0, np.nan))
    at = data.index(b"adapter.lora.alpha")
    path.write_bytes(data[:at] + data[at:].replace(alpha, nan, 1))
    with pytest.raises(ModelLoadError, match="alpha is not a number"):
        model.load_lora(path)


def test_what_is_no_adapter_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("rope")
    with pytest.raises(ModelLoadError, match="adapter"):
        model.load_lora(model.path)
    with pytest.raises(ModelLoadError, match="missing"):
        model.load_lora(tmp_path / "missing.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelLoadError):
        model.load_lora(broken)
    odd = tmp_path / "odd.gguf"
    writer = GGUFWriter(odd, "llama")
    writer.add_uint32("general.type", 5)  # a number where llama.cpp asserts a text
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelLoadError):
        model.load_lora(odd)


# -- engines


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel, lora_paths: dict[str, Path]) -> Iterator[Engine]:
    """Room for a part of what the tests ask for at once, so requests preempt each other."""
    with Engine(
        tiny_model("rope"), "ngram", lora=lora_paths, n_ctx=128, n_seq_max=8, n_threads=1
    ) as engine:
        yield engine


def alone(model: Model, paths: dict[str, Path], prompt: str, asked: dict[str, float] | None) -> Any:
    """What an engine writes that has these adapters, and no drafter and no other requests."""
    wanted = dict.fromkeys(paths, 1.0) if asked is None else asked
    used = {name: path for name, path in paths.items() if wanted.get(name)}
    with Engine(model, "none", lora=used, n_ctx=128, n_threads=1) as engine:
        engine.lora_scales = {name: wanted[name] for name in used}
        return engine.generate(prompt, max_tokens=24, temperature=0.0).tokens


@pytest.fixture(scope="module")
def expected(tiny_model: TinyModel, lora_paths: dict[str, Path]) -> dict[tuple[str, int], Any]:
    return {
        (prompt, i): alone(tiny_model("rope"), lora_paths, prompt, asked)
        for prompt in PROMPTS
        for i, asked in enumerate(ASKED)
    }


def test_adapters_change_what_is_written(expected: dict[tuple[str, int], Any]) -> None:
    for prompt in PROMPTS:
        assert len({tuple(expected[prompt, i]) for i in range(5)}) == 5
        assert expected[prompt, 5] == expected[prompt, 1]


@settings(max_examples=15)
@given(
    requests=st.lists(
        st.tuples(st.sampled_from(PROMPTS), st.integers(0, len(ASKED) - 1)), min_size=1, max_size=9
    )
)
def test_each_request_is_as_in_an_engine_with_its_adapters_alone(
    requests: list[tuple[str, int]], engine: Engine, expected: dict[tuple[str, int], Any]
) -> None:
    running = [
        engine.submit(prompt, max_tokens=24, temperature=0.0, lora=ASKED[i])
        for prompt, i in requests
    ]
    found = [generation.result().tokens for generation in running]
    assert found == [expected[request] for request in requests]


@pytest.mark.parametrize("kind", ["hybrid", "qwen35", "recurrent", "swa"])
def test_states_and_windows_belong_to_their_adapters(
    kind: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """Checkpoints of one adapter's prompt must not begin another's."""
    model = tiny_model(kind)
    path = write_tiny_lora(tmp_path / "a.gguf", model.path, seed=1)
    prompt = "the cat on the mat " * 8
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0}
    with Engine(model, "none", lora=path, n_ctx=512, n_threads=1, swa_full=False) as engine:
        engine.clear_prefix_cache()
        first = [engine.generate(prompt, lora={"a": s}, **options).tokens for s in (0.0, 1.0)]
        again = [engine.generate(prompt, lora={"a": s}, **options).tokens for s in (0.0, 1.0)]
        engine.clear_prefix_cache()
        other = [engine.generate(prompt, lora={"a": s}, **options).tokens for s in (1.0, 0.0)]
    assert first == again == other[::-1]
    assert first[0] != first[1]


def test_prefixes_are_shared_within_adapters_alone(engine: Engine) -> None:
    engine.clear_prefix_cache()
    prompt = "another cat is in the other house"
    shared = [
        engine.generate(prompt, max_tokens=2, lora=lora).stats.n_shared
        for lora in ({"a": 1.0}, {"b": 1.0}, {}, {"a": 0.5}, {"a": 1.0})
    ]
    assert shared[:4] == [0, 0, 0, 0]
    assert shared[4] > 5


def test_a_fork_has_its_parents_adapters(engine: Engine) -> None:
    options: dict[str, Any] = {"max_tokens": 100, "temperature": 0.0}
    whole = engine.generate(PROMPTS[0], lora={"b": 1.0}, **options).tokens
    generation = engine.submit(PROMPTS[0], lora={"b": 1.0}, **options)
    next(generation)
    fork = generation.fork()
    assert fork.result().tokens == generation.result().tokens == whole


def test_scores_and_embeddings_use_the_engines_scales(engine: Engine) -> None:
    before = engine.lora_scales
    try:
        with_both = engine.score("the cat", [" on"])[0].logp, engine.embed(["the cat"])[0]
        engine.lora_scales = {}
        bare = engine.score("the cat", [" on"])[0].logp, engine.embed(["the cat"])[0]
        assert with_both[0] != bare[0]
        assert np.abs(with_both[1] - bare[1]).max() > 0.01
    finally:
        engine.lora_scales = before
    assert engine.lora_scales == {"a": 1.0, "b": 1.0}


def test_wrong_names_and_scales_are_refused(engine: Engine, tiny_model: TinyModel) -> None:
    with pytest.raises(RequestError, match="invalid lora='c': expected one of a, b"):
        engine.generate("the", lora={"c": 1.0})
    with pytest.raises(RequestError, match="invalid scale="):
        engine.generate("the", lora={"a": float("nan")})
    with pytest.raises(RequestError, match="give scales by name"):
        engine.generate("the", lora=["a"])  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="expected one of a, b"):
        engine.lora_scales = {"c": 1.0}
    with (
        Engine(tiny_model("rope"), n_ctx=64) as bare,
        pytest.raises(RequestError, match="this engine has no adapters"),
    ):
        bare.generate("the", lora={"a": 1.0})


def test_two_adapters_of_one_name_are_refused(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    with pytest.raises(ModelLoadError, match="two adapters are called 'a'"):
        Engine(tiny_model("rope"), lora=[lora_paths["a"], lora_paths["a"]], n_ctx=64)


def test_an_encoder_takes_no_adapters(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("bert")
    path = write_tiny_lora(tmp_path / "lora.gguf", model.path)
    with pytest.raises(ContextError, match="takes no LoRA adapters"):
        Engine(model, lora=path)


def test_an_engine_closes_the_adapters_that_it_loaded_and_no_others(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    model = tiny_model("rope")
    with model.load_lora(lora_paths["a"]) as lora:
        with Engine(model, lora={"mine": lora}, n_ctx=64, n_threads=1) as engine:
            engine.generate("the", max_tokens=2)
        assert not lora.closed


def test_requests_of_many_threads_keep_their_adapters(
    engine: Engine, expected: dict[tuple[str, int], Any]
) -> None:
    requests = [(prompt, i) for i in range(len(ASKED)) for prompt in PROMPTS] * 2

    def ask(request: tuple[str, int]) -> Any:
        prompt, i = request
        return engine.generate(prompt, max_tokens=24, temperature=0.0, lora=ASKED[i]).tokens

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(ask, requests)) == [expected[request] for request in requests]


def test_an_adapter_of_another_model_is_refused(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    other = tiny_model("neox")
    with tiny_model("rope").load_lora(lora_paths["a"]) as lora:
        with pytest.raises(ModelLoadError, match="another model"):
            Engine(other, "none", lora={"a": lora}, n_ctx=128)
        with (
            Context(other, n_ctx=128) as context,
            pytest.raises(ModelLoadError, match="another model"),
        ):
            context.use_adapters([(lora, 1.0)])


def test_a_scale_beyond_floats_is_refused(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    with (
        Engine(tiny_model("rope"), "none", lora={"a": lora_paths["a"]}, n_ctx=128) as engine,
        pytest.raises(RequestError, match="scale"),
    ):
        engine.generate("one", max_tokens=1, lora={"a": 10**400})


def test_an_adapter_that_fails_ends_its_own_requests(
    tiny_model: TinyModel, lora_paths: dict[str, Path]
) -> None:
    model = tiny_model("rope")
    lora = model.load_lora(lora_paths["a"])
    with Engine(model, "none", lora={"a": lora}, n_ctx=1024, n_seq_max=2) as engine:
        alone = engine.generate("one", lora={}, max_tokens=60, ignore_eos=True)
        lora.close()
        bare = engine.submit("one", lora={}, max_tokens=60, ignore_eos=True)
        with pytest.raises(ModelLoadError, match="closed"):
            engine.generate("two", max_tokens=4)
        assert bare.result().tokens == alone.tokens
