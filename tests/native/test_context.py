"""Context: sizes, passes and what comes out of them, checked against NumPy and against itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytreellama import Batch, Context, ContextParams, Model
from pytreellama.errors import BatchError, CacheFullError, ContextError, DecodeError
from tiny_models import BRANCHING_KINDS, KINDS

TinyModel = Callable[..., Model]
Float32 = np.ndarray

TEXT = [1, *(261 + i * 7 % 59 for i in range(30))]
LOGIT_TOLERANCE = 2e-2
"""F16 keys and values, and sums in another order: logits of these models spread over about 3."""


def make(model: Model, **options: Any) -> Context:
    return Context(model, **{"n_ctx": 256, "n_batch": 64, "n_threads": 1, **options})


def last_logits(model: Model, tokens: list[int] = TEXT, **options: Any) -> Float32:
    with make(model, **options) as context:
        context.prefill(tokens, logits=True)
        return context.outputs.logits[0]


def log_softmax(logits: Float32) -> np.ndarray:
    rows = logits.astype(np.float64)
    rows = rows - rows.max(axis=-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


# -- what comes out


@pytest.mark.parametrize("n_vocab", [320, 5003])
def test_reductions_in_c_are_those_of_numpy(tiny_model: TinyModel, n_vocab: int) -> None:
    with make(tiny_model("rope", n_vocab=n_vocab)) as context:
        batch = Batch(len(TEXT))
        batch.add(TEXT, np.arange(len(TEXT)), logits=True)
        context.decode(batch)
        logits = context.outputs.logits
        assert logits.shape == (len(TEXT), n_vocab)
        assert logits.dtype == np.float32
        expected = log_softmax(logits)
        assert np.array_equal(context.outputs.argmax(), logits.argmax(axis=1))
        for k in (1, 2, 17, n_vocab):
            tokens, logp = context.outputs.top_k(k)
            order = np.argsort(-logits, axis=1, kind="stable")[:, :k]  # ties by id
            assert np.array_equal(tokens, order)
            np.testing.assert_allclose(logp, np.take_along_axis(expected, order, 1), atol=2e-5)
        chosen = np.arange(len(TEXT), dtype=np.int32) * 11 % n_vocab
        np.testing.assert_allclose(
            context.outputs.token_logps(chosen), expected[np.arange(len(TEXT)), chosen], atol=2e-5
        )


def test_numbers_that_are_none_choose_a_token_of_the_vocabulary() -> None:
    from pytreellama.native.logits import argmax_rows, float_row, top_k_rows

    nan, inf = np.float32("nan"), np.float32("inf")
    rows = np.array(
        [
            [nan, 1, 2, nan, 0],
            [nan, nan, nan, nan, nan],
            [-inf, -inf, -inf, -inf, -inf],
            [0, inf, inf, 1, nan],
            [5, 5, 5, 5, 5],
        ],
        dtype=np.float32,
    )
    pointer = float_row(rows)
    best = argmax_rows(pointer, *rows.shape)
    assert ((best >= 0) & (best < 5)).all()
    assert best[0] == 2
    assert best[3] == 1
    assert best[4] == 0
    tokens, _ = top_k_rows(pointer, rows.shape[0], rows.shape[1], 5)
    assert ((tokens >= 0) & (tokens < 5)).all()
    assert all(len(set(row)) == 5 for row in tokens.tolist())


def test_rows_are_those_of_the_flagged_tokens_in_order(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with make(model) as all_rows, make(model) as some_rows:
        batch = Batch(8)
        batch.add(TEXT[:8], np.arange(8), logits=True)
        all_rows.decode(batch)
        flags = np.array([0, 1, 0, 0, 1, 0, 0, 1], dtype=bool)
        batch.logits[:] = flags
        some_rows.decode(batch)
        assert some_rows.outputs.n_rows == 3
        np.testing.assert_allclose(
            some_rows.outputs.logits, all_rows.outputs.logits[flags], atol=LOGIT_TOLERANCE
        )


def test_a_pass_without_flags_leaves_no_rows(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, logits=True)
        context.prefill([300], 0)
        assert context.outputs.n_rows == 0
        assert context.outputs.logits.shape == (0, 320)
        assert context.outputs.argmax().shape == (0,)
        assert context.outputs.top_k(3)[0].shape == (0, 3)
        with pytest.raises(ContextError, match="flag the tokens whose logits you want"):
            context.outputs.logits_pointer(0)


@pytest.mark.parametrize("row", [-2, 3, 2**31, 2**40])
def test_embeddings_are_there_if_asked_for(tiny_model: TinyModel, row: int) -> None:
    with make(tiny_model("rope"), embeddings=True) as context:
        context.prefill(TEXT[:3])
        rows = [context.outputs.embedding(i) for i in range(3)]
        assert np.array_equal(context.outputs.embedding(), rows[2])
        assert all(each.shape == (64,) and np.isfinite(each).all() for each in rows)
        assert not np.array_equal(rows[0], rows[1])
        with pytest.raises(ContextError, match=f"no hidden state in row {row}"):
            context.outputs.embedding(row)


def test_no_embeddings_unless_asked_for(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, logits=True)
        with pytest.raises(ContextError, match="embeddings=True"):
            context.outputs.embedding()


def test_out_of_range_questions_are_refused(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, logits=True)
        for k in (0, -1, 321, 2**40):
            with pytest.raises(ContextError, match=r"invalid k=.*: expected 1 to 320"):
                context.outputs.top_k(k)
        for tokens in ([], [1, 2], [-1], [320], [2**31]):
            with pytest.raises(BatchError):
                context.outputs.token_logps(tokens)
        for row in (-1, 1, 2**40):
            with pytest.raises(ContextError, match="the last pass left 1"):
                context.outputs.logits_pointer(row)


# -- passes


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_in_several_passes_is_prefill_in_one(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    whole = last_logits(model)
    np.testing.assert_allclose(last_logits(model, n_batch=7), whole, atol=LOGIT_TOLERANCE)
    np.testing.assert_allclose(last_logits(model, n_ubatch=5), whole, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_passes_give_equal_bits(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    assert np.array_equal(last_logits(model), last_logits(model))


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"flash_attention": False},
        {"flash_attention": True},
        {"type_k": "f32", "type_v": "f32"},
        {"type_k": "q8_0", "type_v": "q8_0"},
        {"kv_unified": False},
        {"n_threads": 2},
        {"n_ctx": 0},
    ],
)
def test_options_change_the_way_and_not_the_result(
    tiny_model: TinyModel, kind: str, options: dict[str, Any]
) -> None:
    model = tiny_model(kind)
    tolerance = 0.2 if "q8_0" in options.values() else LOGIT_TOLERANCE
    np.testing.assert_allclose(last_logits(model, **options), last_logits(model), atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.05), ("q8_0", 0.5), ("q4_0", 6.0)])
def test_quantised_weights_decode(tiny_model: TinyModel, dtype: str, tolerance: float) -> None:
    exact = last_logits(tiny_model("rope"))
    for n_tokens in (1, 2, len(TEXT)):
        rounded = last_logits(tiny_model("rope", dtype=dtype), TEXT[:n_tokens])
        assert np.isfinite(rounded).all()
    assert np.abs(rounded - exact).max() < tolerance
    assert np.corrcoef(rounded, exact)[0, 1] > 0.9


def test_a_failed_prefill_takes_everything_back(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with make(model, n_batch=16, n_seq_max=2) as context:
        seq = context.prefill(TEXT)
        with pytest.raises(CacheFullError, match=r"make the context with a larger n_ctx"):
            context.prefill([300] * 300, seq)
        assert context.sequences.n_past(seq) == len(TEXT)
        with pytest.raises(CacheFullError):
            context.prefill([300] * 300)
        assert context.memory.pos_max(1) == -1
        assert context.sequences.new() == 1
        context.prefill([300], seq, logits=True)
        np.testing.assert_allclose(
            context.outputs.logits[0], last_logits(model, [*TEXT, 300]), atol=LOGIT_TOLERANCE
        )


def test_progress_tells_the_share_after_each_pass(tiny_model: TinyModel) -> None:
    shares: list[float] = []
    with make(tiny_model("rope"), n_batch=10) as context:
        context.prefill(TEXT[:25], progress=shares.append)
    assert shares == [0.4, 0.8, 1.0]


def test_learned_positions_end_where_the_model_has_no_more(tiny_model: TinyModel) -> None:
    with make(tiny_model("learned"), n_ctx=1024, n_batch=600) as context:
        seq = context.prefill([300] * 512)
        for _ in range(2):
            with pytest.raises(BatchError, match="learned 512 positions"):
                context.prefill([300], seq)
        with pytest.raises(BatchError, match="learned 512 positions"):
            context.prefill([300] * 600, seq)
        assert context.sequences.n_past(seq) == 512


# -- abort


def test_abort_ends_the_pass_that_another_thread_waits_for(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope", n_layer=8, n_embd=256), n_ctx=8192, n_batch=512) as context:
        failures: list[BaseException] = []

        def prefill() -> None:
            try:
                while True:
                    seq = context.prefill([300] * 4096)
                    context.sequences.free(seq)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=prefill)
        thread.start()
        while thread.is_alive():
            context.abort()
            thread.join(0.001)
        assert [type(error) for error in failures] == [DecodeError]
        assert "aborted, as asked" in str(failures[0])
        assert context.memory.pos_max(0) == -1
        context.prefill(TEXT, logits=True)  # the next pass runs as usual
        assert np.isfinite(context.outputs.logits).all()


def test_an_abort_before_a_pass_does_not_end_it(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.abort()
        context.prefill(TEXT)
        assert context.sequences.n_past(0) == len(TEXT)


# -- making


def test_sizes_that_hold_can_be_read(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope"), n_ctx=300, n_batch=48, n_ubatch=100, n_seq_max=3) as context:
        assert context.n_ctx >= 300
        assert (context.n_batch, context.n_ubatch, context.n_seq_max) == (48, 48, 3)
        assert context.n_threads == 1
        assert "rope.gguf" in repr(context)


def test_no_n_ctx_is_what_the_model_was_trained_for(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope"), n_ctx=0) as context:
        assert context.n_ctx == 512


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": -1}, r"invalid n_ctx=-1: expected 0 .* to 2147483647"),
        ({"n_ctx": 2**31}, "invalid n_ctx=2147483648"),
        ({"n_batch": 0}, "invalid n_batch=0: expected 1 to"),
        ({"n_batch": 2**31}, "invalid n_batch="),
        ({"n_ubatch": 0}, "invalid n_ubatch=0"),
        ({"n_seq_max": 0}, "invalid n_seq_max=0: expected 1 to 256"),
        ({"n_seq_max": 257}, "invalid n_seq_max=257"),
        ({"n_seq_max": 9, "n_batch": 8}, "room for a token of each sequence"),
        ({"n_seq_max": 9, "n_ctx": 8}, "room for a token of each sequence"),
        ({"n_threads": 0}, "invalid n_threads=0: expected None or 1 to 512"),
        ({"n_threads": 513}, "invalid n_threads=513"),
        ({"n_threads_batch": -1}, "invalid n_threads_batch=-1"),
        ({"type_k": "q3_k"}, "invalid type_k='q3_k': expected f32, f16"),
        ({"type_v": "int8"}, "invalid type_v='int8'"),
        ({"type_v": "q8_0", "flash_attention": False}, "without flash attention, which it needs"),
        ({"n_context": 512}, "n_context"),
    ],
)
def test_options_out_of_range_are_refused(
    tiny_model: TinyModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContextError, match=message):
        Context(tiny_model("rope"), **options)


def test_params_and_names_are_not_given_together(tiny_model: TinyModel) -> None:
    with pytest.raises(ContextError, match="give params or n_ctx by name, not both"):
        Context(tiny_model("rope"), ContextParams(), n_ctx=64)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "recurrent"])
def test_a_cache_beyond_memory_is_refused_before_any_is_taken(
    tiny_model: TinyModel, kind: str
) -> None:
    with pytest.raises(ContextError, match=r"GiB for the KV cache.*, .* ask for at most about \d+"):
        Context(tiny_model(kind), n_ctx=2**31 - 1)


def test_a_recurrent_state_has_no_size_that_grows(tiny_model: TinyModel) -> None:
    with make(tiny_model("recurrent"), n_ctx=2**31 - 1) as context:
        context.prefill(TEXT)
        assert context.sequences.n_past(0) == len(TEXT)


def test_sequences_are_handed_out_and_given_back(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope"), n_seq_max=3) as context:
        assert [context.sequences.new() for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ContextError, match=r"all 3 sequences .* larger n_seq_max"):
            context.sequences.new()
        context.prefill(TEXT, 1)
        context.sequences.free(1)
        assert context.memory.pos_max(1) == -1
        assert context.sequences.new() == 1


@pytest.mark.parametrize("n_seq_max", [1, 256])
@pytest.mark.parametrize("kv_unified", [True, False])
def test_the_last_sequence_works_as_the_first(
    tiny_model: TinyModel, n_seq_max: int, kv_unified: bool
) -> None:
    model = tiny_model("rope")
    n_ctx = 256 if kv_unified else 64 * n_seq_max
    sizes = {"n_ctx": n_ctx, "n_batch": 256, "n_seq_max": n_seq_max}
    with make(model, kv_unified=kv_unified, **sizes) as context:
        context.prefill(TEXT[:9], n_seq_max - 1, logits=True)
        np.testing.assert_allclose(
            context.outputs.logits[0], last_logits(model, TEXT[:9]), atol=LOGIT_TOLERANCE
        )
