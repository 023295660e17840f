"""``Memory.share``: a prefix of a sequence becomes another one, with the bits of a fresh one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from exactness import needs_exact
from pytreellama import Context, Model, TokenTree
from pytreellama.errors import MemoryStateError
from random_texts import text_of

TinyModel = Callable[..., Model]
ContextOf = Callable[..., Context]

CELLS = ("rope", "alibi", "swa", "deepseek2")
STATES = (
    "recurrent",
    "hybrid",
    "mamba2",
    "falcon-h1",
    "granitehybrid",
    "nemotron_h",
    "qwen35",
    "qwen3next",
    "kimi-linear",
    "bailingmoe3",
    "plamo2",
    "rwkv6",
    "rwkv7",
    "lfm2",
    "lfm2-swa",
)
SMALL_WINDOWS = ("swa", "lfm2-swa")
KINDS = [(kind, True) for kind in (*CELLS, *STATES)] + [(kind, False) for kind in SMALL_WINDOWS]


@pytest.fixture
def context_of(new_context: ContextOf) -> ContextOf:
    """Contexts of a kind, for four texts."""
    return partial(new_context, n_ctx=1024, n_seq_max=4, n_threads=1)


def logits_after(context: Context, text: list[int], seq: int | None = None) -> bytes:
    """The logits of the last token, appended to a sequence or to a new one."""
    context.prefill(text, seq, logits=True)
    return context.outputs.logits_view[0].tobytes()


TEXT, REST = text_of(300, 1), text_of(40, 2)


@needs_exact
@pytest.mark.parametrize(("kind", "swa_full"), KINDS)
class TestEveryMemory:
    def test_a_text_is_shared_at_its_end(
        self, context_of: ContextOf, kind: str, swa_full: bool
    ) -> None:
        context, fresh = (context_of(kind, swa_full=swa_full) for _ in range(2))
        source, target = context.prefill(TEXT), context.sequences.new()
        context.memory.share(source, target, len(TEXT))
        expected = logits_after(fresh, [*TEXT, *REST])
        assert logits_after(context, REST, target) == expected
        assert logits_after(context, REST, source) == expected

    def test_a_part_is_shared_with_its_checkpoint(
        self, context_of: ContextOf, kind: str, swa_full: bool
    ) -> None:
        context, fresh = (context_of(kind, swa_full=swa_full) for _ in range(2))
        source, target = context.prefill(TEXT[:60]), context.sequences.new()
        is_whole = context.memory.sharing == "cells"
        checkpoint = None if is_whole else context.memory.checkpoint(source)
        context.prefill(TEXT[60:], source)
        context.memory.share(source, target, 60, checkpoint)
        assert context.sequences.n_past(target) == 60
        assert logits_after(context, REST, target) == logits_after(fresh, [*TEXT[:60], *REST])
        assert logits_after(context, REST, source) == logits_after(fresh, [*TEXT, *REST])

    def test_what_was_shared_can_be_made_longer(
        self, context_of: ContextOf, kind: str, swa_full: bool
    ) -> None:
        context, fresh = (context_of(kind, swa_full=swa_full) for _ in range(2))
        source, target = context.prefill(TEXT[:60]), context.sequences.new()
        context.memory.share(source, target, 60)
        context.prefill(TEXT[60:], source)
        context.memory.share(source, target, len(TEXT))
        context.sequences.free(source)
        assert logits_after(context, REST, target) == logits_after(fresh, [*TEXT, *REST])


@pytest.mark.parametrize(("kind", "sharing"), [("rope", "cells"), ("swa", "cells")])
def test_a_full_kv_cache_needs_no_checkpoints(
    context_of: ContextOf, kind: str, sharing: str
) -> None:
    context = context_of(kind)
    assert context.memory.sharing == sharing
    source = context.prefill(TEXT)
    assert all(context.memory.holds_prefix(source, n) for n in (1, 100, len(TEXT)))
    assert not context.memory.holds_prefix(source, len(TEXT) + 1)
    assert not context.memory.holds_prefix(source, 0)


@pytest.mark.parametrize("kind", ["deepseek4", "glm5-next", "qwen4exp"])
def test_a_memory_that_cannot_be_cut_shares_nothing(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind)
    assert context.memory.sharing == "none"
    source, target = context.prefill(TEXT), context.sequences.new()
    with pytest.raises(MemoryStateError, match="shares no prefixes"):
        context.memory.share(source, target, len(TEXT))


def test_without_a_unified_cache_nothing_is_shared(context_of: ContextOf) -> None:
    assert context_of("rope", kv_unified=False).memory.sharing == "none"


def test_a_state_holds_only_the_whole_text(context_of: ContextOf) -> None:
    context = context_of("qwen35")
    source, target = context.prefill(TEXT), context.sequences.new()
    assert [context.memory.holds_prefix(source, n) for n in (299, 300, 301)] == [False, True, False]
    with pytest.raises(MemoryStateError, match="invalid n=299"):
        context.memory.share(source, target, 299)
    assert context.sequences.n_past(target) == 0


def test_a_window_that_went_on_is_not_held(tiny_model: TinyModel, context_of: ContextOf) -> None:
    context = context_of("swa", swa_full=False, n_seq_max=2, n_ubatch=32, n_ctx=2048)
    source = context.sequences.new()
    for begin in range(0, 1200, 100):
        context.prefill(text_of(100, begin), source)
    assert context.memory.holds_prefix(source, 1200)
    assert not context.memory.holds_prefix(source, 600)


@needs_exact
def test_a_window_that_was_saved_and_loaded_is_known_to_be_short(context_of: ContextOf) -> None:
    # a state holds the cells of the last window alone, also in a cache that has room for all
    context, fresh = context_of("swa"), context_of("swa")
    source, target = context.prefill(TEXT), context.sequences.new()
    context.memory.load(context.memory.save(source), source)
    assert not context.memory.holds_prefix(source, 100)
    with pytest.raises(MemoryStateError):
        context.memory.share(source, target, 100)
    context.memory.share(source, target, len(TEXT))
    assert logits_after(context, REST, target) == logits_after(fresh, [*TEXT, *REST])


@needs_exact
def test_shared_windows_leave_room_for_those_who_go_on(context_of: ContextOf) -> None:
    context = context_of("swa", swa_full=False, n_ctx=4096, n_ubatch=32)
    fresh = context_of("swa", n_ctx=4096)
    seqs = [context.prefill(TEXT)]
    for _ in range(3):
        seqs.append(context.sequences.new())
        context.memory.share(seqs[0], seqs[-1], len(TEXT))
    longer = text_of(600, 3)
    for begin in range(0, 600, 30):
        for seq in seqs:
            context.prefill(longer[begin : begin + 30], seq)
    expected = logits_after(fresh, [*TEXT, *longer, *REST])
    assert [logits_after(context, REST, seq) for seq in seqs] == [expected] * 4


@pytest.mark.parametrize("kind", ["qwen35", "recurrent", "lfm2-swa"])
class TestRefusals:
    def test_a_checkpoint_of_another_length_empties_the_target(
        self, context_of: ContextOf, kind: str
    ) -> None:
        context = context_of(kind)
        source, target = context.prefill(TEXT[:60]), context.sequences.new()
        checkpoint = context.memory.checkpoint(source)
        context.prefill(TEXT[60:], source)
        with pytest.raises(MemoryStateError, match="first 61 tokens"):
            context.memory.share(source, target, 61, checkpoint)
        assert context.sequences.n_past(target) == 0
        context.sequences.free(source)
        assert not context.memory.n_cells_used

    @pytest.mark.parametrize("n_bytes", [0, 5, -1])
    def test_damaged_bytes_empty_the_target(
        self, context_of: ContextOf, kind: str, n_bytes: int
    ) -> None:
        context = context_of(kind)
        source, target = context.prefill(TEXT[:60]), context.sequences.new()
        checkpoint = context.memory.checkpoint(source)[:n_bytes]
        with pytest.raises(MemoryStateError, match="not a state"):
            context.memory.share(source, target, 60, checkpoint)
        assert context.sequences.n_past(target) == 0
        assert context.sequences.n_past(source) == 60

    def test_a_part_is_not_copied_without_its_state(self, context_of: ContextOf, kind: str) -> None:
        context = context_of(kind)
        source, target = context.prefill(TEXT), context.sequences.new()
        with pytest.raises(MemoryStateError, match="invalid p1=100"):
            context.memory.cp(source, target, 0, 100)
        assert context.sequences.n_past(target) == 0
        context.memory.cp(source, target, 0, len(TEXT))
        assert context.sequences.n_past(target) == len(TEXT)

    def test_pending_nodes_are_in_the_way(self, context_of: ContextOf, kind: str) -> None:
        context = context_of(kind)
        source, target = context.prefill(TEXT), context.sequences.new()
        context.decode(TokenTree.chain([5, 6]), seq=source)
        with pytest.raises(MemoryStateError, match="pending"):
            context.memory.share(source, target, len(TEXT))
        with pytest.raises(MemoryStateError, match="pending"):
            context.memory.checkpoint(source)
