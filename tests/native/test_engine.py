"""The loop on tiny models: what comes out, why it ends, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from gguf import GGUFReader

from exactness import needs_exact
from pytreellama import Engine, Model, Step, TokenTree, draft
from pytreellama.errors import ContextError, DraftError, RequestError, SamplerError, VocabError
from tiny_models import BRANCHING_KINDS, IM_END

PROMPT = "the cat and the dog and the cat and the"
TinyModel = Callable[..., Model]
EAGER = draft.Suffix(min_p=0.001)


@pytest.fixture
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(tiny_model("rope"), drafter=EAGER, n_ctx=256, n_threads=1) as engine:
        yield engine


def cache_is_empty(engine: Engine) -> bool:
    engine.clear_prefix_cache()
    seqs = range(engine.context.n_seq_max)
    return all(engine.context.memory.pos_max(seq) == -1 for seq in seqs)


class Oracle:
    """Drafts the continuation that it was told, and branches beside it."""

    name = "oracle"

    def __init__(self, tokens: tuple[int, ...], n_prompt: int) -> None:
        self._tokens = tokens
        self._seen = -n_prompt

    def observe(self, tokens: object) -> None:
        self._seen += len(tokens)  # type: ignore[arg-type]

    def propose(self, n_nodes: int) -> TokenTree:
        right = list(self._tokens[self._seen : self._seen + max(n_nodes - 1, 0)])
        wrong = [(right[0] + 1) % 300] if right else []
        return TokenTree.from_paths([path for path in (right, wrong) if path])

    def reset(self) -> None:
        self._tokens = ()


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_an_oracle_is_accepted_whole_and_changes_no_token(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    sizes: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "flash_attention": False}
    precise: dict[str, Any] = {"type_k": "f32", "type_v": "f32"}
    plain = Engine(model, drafter="none", **sizes, **precise)
    expected = plain.generate(PROMPT, max_tokens=33)
    n_prompt = len(plain.encode_prompt(PROMPT))
    oracle = Engine(
        model, drafter=lambda: Oracle(expected.tokens, n_prompt), n_draft=8, **sizes, **precise
    )
    got = oracle.generate(PROMPT, max_tokens=33)
    assert got.tokens == expected.tokens
    # each pass brings seven drafted tokens and one of the model's own, until the last few
    assert got.stats.n_steps <= 6
    assert got.stats.tokens_per_step > 5


def test_streamed_chunks_join_to_the_completion(engine: Engine) -> None:
    whole = engine.generate(PROMPT, max_tokens=40)
    chunks = list(engine.stream(PROMPT, max_tokens=40))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert sum((chunk.tokens for chunk in chunks), ()) == whole.tokens
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason == "length"
    assert chunks[-1].stats is not None
    assert chunks[-1].stats.n_tokens == 40
    assert chunks[-1].seed is not None


def test_leaving_a_stream_early_frees_the_cache(engine: Engine) -> None:
    stream = engine.stream(PROMPT, max_tokens=40)
    next(stream)
    stream.close()
    assert cache_is_empty(engine)
    assert engine.generate(PROMPT, max_tokens=4).finish_reason == "length"


def test_a_second_call_while_a_stream_is_open_waits_for_its_turn(engine: Engine) -> None:
    stream = engine.stream(PROMPT, max_tokens=40)
    next(stream)
    assert len(engine.generate(PROMPT, max_tokens=4).tokens) == 4
    assert sum(len(chunk.tokens) for chunk in stream) > 30


def test_an_engine_may_be_closed_before_its_stream(tiny_model: TinyModel) -> None:
    engine = Engine(tiny_model("rope"), n_ctx=256, n_threads=1)
    stream = engine.stream(PROMPT, max_tokens=40)
    next(stream)
    engine.close()
    stream.close()


def test_trees_shrink_where_sequence_ids_are_scarce(tiny_model: TinyModel) -> None:
    """An id is needed for each further leaf, and all sequences together have 256."""
    model = tiny_model("rope")
    prompts = [[5 + i % 7, 9, 5 + i % 7] * 2 for i in range(40)]
    wide = draft.Suffix(min_p=0.0)
    crowded = Engine(model, wide, n_draft=64, n_ctx=4096, n_seq_max=250, n_threads=1)
    alone = Engine(model, "none", n_ctx=256, n_threads=1)
    for prompt, done in zip(prompts, crowded.generate(prompts, max_tokens=6), strict=True):
        assert done.tokens == alone.generate(prompt, max_tokens=6).tokens


def test_a_window_that_drops_cells_gets_trees_as_large_as_it_has_room_for(
    tiny_model: TinyModel,
) -> None:
    """The texts are many windows long, and all sequences' trees fill what is free beside them."""
    options: dict[str, Any] = {
        "n_ctx": 4096,
        "n_seq_max": 8,
        "n_ubatch": 32,
        "n_batch": 512,
        "n_threads": 1,
    }
    engine = Engine(tiny_model("swa"), EAGER, swa_full=False, n_draft=64, **options)
    prompts = [[5 + i, *range(5, 90)] for i in range(8)]
    done = engine.generate(prompts, max_tokens=120, ignore_eos=True)
    assert [len(completion.tokens) for completion in done] == [120] * 8
    assert sum(completion.stats.n_drafted for completion in done) > 0


def test_max_tokens_is_exact_with_any_drafter(engine: Engine) -> None:
    for n_tokens in (1, 2, 3, 7, 20):
        assert len(engine.generate(PROMPT, max_tokens=n_tokens).tokens) == n_tokens


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    text = engine.generate(PROMPT, max_tokens=40).text
    stop = text[10:13]
    stopped = engine.generate(PROMPT, max_tokens=40, stop=stop)
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_an_end_token_ends_the_text_unless_ignored(tiny_model: TinyModel) -> None:
    engine = Engine(tiny_model("rope"), drafter="suffix", n_ctx=256, n_threads=1)
    at_once = engine.generate(PROMPT, max_tokens=20, logit_bias={IM_END: 1e6})
    assert (at_once.finish_reason, at_once.tokens, at_once.text) == ("stop", (), "")
    on = engine.generate(PROMPT, max_tokens=20, logit_bias={IM_END: 1e6}, ignore_eos=True)
    assert on.tokens == (IM_END,) * 20


def test_a_full_context_ends_the_text_with_its_own_reason(tiny_model: TinyModel) -> None:
    engine = Engine(tiny_model("rope"), drafter=EAGER, n_ctx=256, n_threads=1)
    prompt = list(range(5, 200))
    done = engine.generate(prompt, max_tokens=1000)
    assert done.finish_reason == "context"
    # the last token written needs no cell
    assert len(done.tokens) == 256 - len(prompt) + 1
    assert cache_is_empty(engine)


def test_a_model_with_learned_positions_ends_where_they_end(tiny_model: TinyModel) -> None:
    model = tiny_model("learned", n_ctx_train=64)
    assert model.n_positions == 64
    assert tiny_model("rope").n_positions is None
    engine = Engine(model, drafter=EAGER, n_ctx=256, n_threads=1)
    done = engine.generate(PROMPT, max_tokens=200)
    assert done.finish_reason == "context"
    assert len(engine.encode_prompt(PROMPT)) + len(done.tokens) == 64 + 1
    with pytest.raises(RequestError, match="context of 64"):
        engine.generate([5] * 64, max_tokens=1)


@pytest.mark.parametrize("drafter", ["none", EAGER], ids=["none", "eager"])
def test_logits_that_are_no_numbers_choose_nothing(
    tiny_model_path: Callable[..., Path], tmp_path: Path, drafter: draft.DrafterSpec
) -> None:
    broken = tmp_path / "nan.gguf"
    data = bytearray(tiny_model_path("rope").read_bytes())
    output = next(
        t for t in GGUFReader(tiny_model_path("rope")).tensors if t.name == "output.weight"
    )
    nothing = np.full(output.n_elements, np.nan, dtype=np.float32).tobytes()
    data[output.data_offset : output.data_offset + output.n_bytes] = nothing
    broken.write_bytes(data)
    with Model(broken) as model, pytest.raises(SamplerError, match="NaN"):
        Engine(model, drafter, n_ctx=256, n_threads=1).generate("ab ab ab ab", max_tokens=4)


def test_many_prompts_run_in_turns_when_they_do_not_fit_together(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    prompts = [PROMPT[i:] for i in range(0, 20, 2)]
    alone = Engine(model, drafter=EAGER, n_ctx=256, n_threads=1)
    together = Engine(model, drafter=EAGER, n_ctx=256, n_seq_max=4, n_threads=1)
    expected = [alone.generate(prompt, max_tokens=24).tokens for prompt in prompts]
    assert [done.tokens for done in together.generate(prompts, max_tokens=24)] == expected
    assert cache_is_empty(together)


def test_steps_tell_every_tree_and_add_up_to_the_text(engine: Engine) -> None:
    steps: list[Step] = []
    done = engine.generate(PROMPT, max_tokens=40, on_step=steps.append)
    assert sum((step.tokens for step in steps), ()) == done.tokens
    assert [len(step.tree) for step in steps] == done.stats.tree_sizes
    for step in steps:
        assert len(step.path) == len(step.tokens)
        assert step.tree.tokens[list(step.path[1:])].tolist() == list(step.tokens[:-1])
    assert done.stats.n_accepted == sum(len(step.path) - 1 for step in steps)


def test_prefill_is_reported_up_to_the_whole(tiny_model: TinyModel) -> None:
    engine = Engine(tiny_model("rope"), n_ctx=256, n_ubatch=32, n_threads=1)
    shares: list[float] = []
    engine.generate(list(range(5, 105)), max_tokens=1, on_prefill=shares.append)
    assert shares == pytest.approx([32 / 99, 64 / 99, 96 / 99, 1.0])


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_models_with_a_recurrent_state_write(tiny_model: TinyModel, kind: str) -> None:
    engine = Engine(tiny_model(kind), drafter="suffix", n_ctx=256, n_threads=1)
    assert len(engine.generate(PROMPT, max_tokens=8).tokens) == 8


def test_sampled_text_is_the_same_with_and_without_trees(tiny_model: TinyModel) -> None:
    options: dict[str, Any] = {
        "max_tokens": 40,
        "temperature": 1.0,
        "top_k": 20,
        "repeat_penalty": 1.1,
        "seed": 5,
    }
    texts = {
        Engine(tiny_model("rope"), drafter=drafter, n_ctx=256, n_threads=1)
        .generate(PROMPT, **options)
        .tokens
        for drafter in ("none", "suffix", EAGER)
    }
    assert len(texts) == 1


def test_a_grammar_holds_on_every_path_of_the_tree(tiny_model: TinyModel) -> None:
    grammar = 'root ::= ("ab" | "cd")+'
    texts = {
        Engine(tiny_model("rope"), drafter=drafter, n_ctx=256, n_threads=1)
        .generate("ababcdcdabab", max_tokens=24, grammar=grammar)
        .text
        for drafter in ("none", EAGER)
    }
    assert len(texts) == 1
    text = texts.pop().removesuffix("a").removesuffix("c")
    assert text
    assert set(text[i : i + 2] for i in range(0, len(text), 2)) <= {"ab", "cd"}


class TestRequestsThatCannotBeServed:
    def test_a_prompt_longer_than_the_context(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="context of 256"):
            engine.generate(list(np.full(256, 5)), max_tokens=1)
        assert cache_is_empty(engine)

    def test_no_tokens_at_all(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="no tokens"):
            engine.generate([], max_tokens=1)

    def test_ids_out_of_the_vocabulary(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="token id 100000"):
            engine.generate([5, 100000], max_tokens=1)

    def test_text_that_is_not_unicode(self, engine: Engine) -> None:
        with pytest.raises(VocabError, match="UTF-8"):
            engine.generate("broken \ud800 text", max_tokens=1)

    def test_no_room_for_a_single_token(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="invalid max_tokens=-1"):
            engine.generate(PROMPT, max_tokens=-1)

    @pytest.mark.parametrize("max_tokens", [2.5, "8"])
    def test_a_number_of_tokens_that_is_none(self, engine: Engine, max_tokens: Any) -> None:
        with pytest.raises(RequestError, match="max_tokens"):
            engine.generate(PROMPT, max_tokens=max_tokens)

    def test_a_stop_that_is_no_text(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="stop"):
            engine.generate(PROMPT, max_tokens=2, stop=[1])  # type: ignore[list-item]

    def test_a_prompt_that_is_none(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="token ids"):
            engine.generate(cast(Any, [1.5, 2]), max_tokens=2)

    def test_streams_of_their_own(self, tiny_model: TinyModel) -> None:
        with pytest.raises(ContextError, match="kv_unified"):
            Engine(tiny_model("rope"), n_ctx=256, n_seq_max=2, kv_unified=False)

    def test_an_unknown_option(self, engine: Engine) -> None:
        with pytest.raises(
            RequestError, match=r"unknown option temprature; .*did you mean 'temperature'"
        ):
            engine.generate(PROMPT, temprature=0.5)  # type: ignore[call-overload]

    def test_an_unknown_drafter(self, tiny_model: TinyModel) -> None:
        with pytest.raises(DraftError, match="expected one of auto, eagle3, medusa, mtp, ngram"):
            Engine(tiny_model("rope"), drafter="clairvoyant")

    def test_a_closed_engine(self, tiny_model: TinyModel) -> None:
        with Engine(tiny_model("rope"), n_ctx=256) as engine:
            pass
        with pytest.raises(ContextError, match="closed"):
            engine.generate(PROMPT, max_tokens=1)


class Faulty(Oracle):
    """A drafter with a fault, which must not outlive its request."""

    def __init__(self, tree: TokenTree | None) -> None:
        super().__init__((), 0)
        self._tree = tree

    def propose(self, n_nodes: int) -> TokenTree:
        if self._tree is None:
            raise RuntimeError("no idea")
        return self._tree


@pytest.mark.parametrize(
    ("tree", "error"),
    [(None, RuntimeError), (TokenTree.chain([99999]), DraftError)],
    ids=["raises", "invalid id"],
)
def test_a_faulty_drafter_ends_its_request_and_leaves_nothing(
    tiny_model: TinyModel, tree: TokenTree | None, error: type[Exception]
) -> None:
    engine = Engine(tiny_model("rope"), drafter=lambda: Faulty(tree), n_ctx=256, n_threads=1)
    with pytest.raises(error):
        engine.generate(PROMPT, max_tokens=8)
    assert cache_is_empty(engine)


def test_a_drafter_may_not_draft_more_than_it_was_asked_for(tiny_model: TinyModel) -> None:
    tree = TokenTree.chain(list(range(5, 105)))
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}
    with Engine(tiny_model("rope"), drafter=lambda: Faulty(tree), **options) as engine:
        with pytest.raises(DraftError, match="100 nodes"):
            engine.generate(PROMPT, max_tokens=8)
        assert cache_is_empty(engine)


def test_no_tokens_are_a_prefill_that_the_prefix_cache_keeps(default_model: Model) -> None:
    with Engine(default_model, "none", n_ctx=512, n_cached_prefixes=2, n_threads=1) as engine:
        shares: list[float] = []
        done = engine.generate(PROMPT, max_tokens=0, on_prefill=shares.append)
        assert (done.text, done.tokens, done.finish_reason) == ("", (), "length")
        assert done.stats.n_steps == 0
        assert shares[-1] == 1.0
        assert engine.generate(PROMPT, max_tokens=1).stats.n_shared == done.stats.n_prompt - 1


@needs_exact
@pytest.mark.parametrize("drafter", ["suffix", "auto"])
def test_a_request_has_at_most_as_many_draft_nodes_as_it_asks_for(
    default_model: Model, drafter: str
) -> None:
    prompt = "a b c d e " * 20
    with Engine(default_model, drafter, n_draft=8, n_ctx=512, n_threads=1) as engine:
        full = engine.generate(prompt, max_tokens=24)
        if drafter == "suffix":  # what is planned depends on the machine
            assert max(full.stats.tree_sizes) > 2
        for n_draft in (0, 1, 100):
            other = engine.generate(prompt, max_tokens=24, n_draft=n_draft)
            assert other.tokens == full.tokens
            assert max(other.stats.tree_sizes, default=0) <= min(n_draft, 8) + 1
        with pytest.raises(RequestError, match="n_draft = -1"):
            engine.generate(prompt, n_draft=-1)
