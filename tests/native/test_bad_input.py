"""Whatever a caller gets wrong raises, and everything is as it was before.

Each misuse is made twice over a context at work: its positions, its cells and the logits of the
token that comes next must not tell that anything happened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pytreellama import Batch, Context, Model, Sampler, SamplingParams, TokenTree
from pytreellama.errors import (
    BatchError,
    CacheFullError,
    ContextError,
    MemoryStateError,
    PyTreeLlamaError,
    SamplerError,
    TreeError,
)
from pytreellama.testing.cells import read_cells
from tiny_models import BRANCHING_KINDS, KINDS

TinyModel = Callable[..., Model]

N_CTX, N_BATCH, N_SEQ_MAX, N_VOCAB = 256, 64, 3, 320
TEXT = [1, *(261 + i * 7 % 59 for i in range(20))]
N_PAST = len(TEXT)
TREE = TokenTree.from_paths([[270, 271], [270, 272], [273]])


def make(model: Model, **options: Any) -> Context:
    sizes = {"n_ctx": N_CTX, "n_batch": N_BATCH, "n_seq_max": N_SEQ_MAX, "n_threads": 1}
    return Context(model, **sizes | options)


def at_work(model: Model, **options: Any) -> Context:
    """A context with a text in sequence 0, a beginning of it in sequence 1, and logits."""
    context = make(model, **options)
    context.prefill(TEXT[:5], 1)
    context.prefill(TEXT, 0, logits=True)
    return context


@dataclass(frozen=True)
class Snapshot:
    """What can be seen of a context from outside."""

    positions: tuple[tuple[int, int], ...]
    cells: tuple[bytes, ...]

    @classmethod
    def of(cls, context: Context) -> Snapshot:
        memory, seqs = context.memory, range(context.n_seq_max)
        held = [read_cells(context, sliding=sliding) for sliding in (False, True)]
        return cls(
            tuple((memory.pos_min(seq), memory.pos_max(seq)) for seq in seqs),
            tuple(c.positions.tobytes() + c.members.tobytes() for c in held if c is not None),
        )


def next_logits(context: Context, seq: int = 0) -> np.ndarray:
    context.prefill([300], seq, logits=True)
    return context.outputs.logits[0]


def batch(
    tokens: Any = (5,), positions: Any = (N_PAST,), seqs: Any = 0, capacity: int = 512
) -> Batch:
    made = Batch(capacity)
    made.add(list(tokens), list(positions), seqs, True)
    return made


BAD_BATCHES: dict[str, tuple[Callable[[], Batch], str]] = {
    "empty": (lambda: Batch(4), "the batch is empty; add at least one token"),
    "negative id": (lambda: batch([-1]), "has id -1; ids are from 0 to 319"),
    "id beyond the vocabulary": (lambda: batch([N_VOCAB]), "has id 320"),
    "largest id": (lambda: batch([2**31 - 1]), "has id 2147483647"),
    "smallest id": (lambda: batch([-(2**31)]), "has id -2147483648"),
    "one bad id of many": (
        lambda: batch([5] * 30 + [999], range(N_PAST, N_PAST + 31)),
        "token 30 of the batch has id 999",
    ),
    "too early": (lambda: batch(positions=[0]), f"must go on at {N_PAST}"),
    "a gap": (lambda: batch(positions=[N_PAST + 1]), f"must go on at {N_PAST}"),
    "negative position": (lambda: batch(positions=[-1], seqs=2), "must not be negative"),
    "position far off": (lambda: batch(positions=[2**31 - 1]), f"must go on at {N_PAST}"),
    "positions that jump": (lambda: batch([5, 6], [N_PAST, N_PAST + 2]), "jumps from 21 to 23"),
    "positions that fall": (lambda: batch([5, 6], [0, -1], 2), "falls from 0 to -1"),
    "sequence beyond": (lambda: batch(seqs=N_SEQ_MAX), "sequence id 3 is out of range"),
    "negative sequence": (lambda: batch(seqs=-1), "sequence id -1 is out of range"),
    "sequence of a tree": (lambda: batch(seqs=255), "sequence id 255 is out of range"),
    "no sequence": (lambda: batch(seqs=[[]]), "belongs to no sequence"),
    "sequences that differ": (
        lambda: batch(seqs=[[0, 1]]),
        r"starts at position 21 .* must go on at 5",
    ),
    "more than a pass takes": (
        lambda: batch([5] * 65, range(N_PAST, N_PAST + 65)),
        "has 65 tokens, this context takes at most n_batch = 64",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_batches_are_refused_and_change_nothing(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    with at_work(model) as context, at_work(model) as untouched:
        before, logits = Snapshot.of(context), context.outputs.logits
        for make_batch, message in BAD_BATCHES.values():
            with pytest.raises(BatchError, match=message):
                context.decode(make_batch())
        assert Snapshot.of(context) == before
        assert np.array_equal(context.outputs.logits, logits)
        assert np.array_equal(next_logits(context), next_logits(untouched))


@pytest.mark.parametrize(
    ("seq", "token"),
    [(0, -1), (0, N_VOCAB), (0, 2**31), (0, 2**40), (-1, 5), (N_SEQ_MAX, 5), (255, 5), (2**40, 5)],
)
def test_a_bad_plain_step_is_refused_and_changes_nothing(
    tiny_model: TinyModel, seq: int, token: int
) -> None:
    model = tiny_model("rope")
    with at_work(model) as context, at_work(model) as untouched:
        before = Snapshot.of(context)
        with pytest.raises(BatchError, match="token ids are from 0 to 319, sequences from 0 to 2"):
            context.decode(token, seq=seq)
        assert Snapshot.of(context) == before
        assert np.array_equal(next_logits(context), next_logits(untouched))


def test_a_plain_step_without_room_or_position_is_refused(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill([290] * N_CTX, 0)
        with pytest.raises(CacheFullError, match="no room for 1 more token"):
            context.decode(5, seq=0)
        assert context.sequences.n_past(0) == N_CTX
    with make(tiny_model("learned"), n_ctx=1024) as context:
        context.prefill([290] * 512, 0)
        with pytest.raises(BatchError, match="learned 512 positions"):
            context.decode(5, seq=0)
        assert context.sequences.n_past(0) == 512


BAD_TEXTS: dict[str, Any] = {
    "nothing": [],
    "fractions": [1.5],
    "negative": [5, -1],
    "beyond": [5, N_VOCAB],
    "32 bits": [2**31],
    "64 bits": [2**64],
    "words": ["a"],
    "none": [None],
    "rows": [[5, 6]],
    "a number": 5,
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_texts_are_refused_and_take_no_sequence(tiny_model: TinyModel, name: str) -> None:
    with at_work(tiny_model("rope")) as context:
        before = Snapshot.of(context)
        for seq in (0, None):
            with pytest.raises(BatchError):
                context.prefill(BAD_TEXTS[name], seq)
        assert Snapshot.of(context) == before
        assert context.sequences.new() == 2  # the only one that is not in use


def test_sequences_that_went_apart_cannot_share_a_token(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        context.memory.cp(0, 1)
        context.decode(batch(seqs=[[0, 1]]))  # now they hold the same
        context.memory.rm(1, 0, 5)
        before = Snapshot.of(context)
        with pytest.raises(BatchError, match="hold different positions; copy the one to the other"):
            context.decode(batch(positions=[N_PAST + 1], seqs=[[0, 1]]))
        assert Snapshot.of(context) == before


# -- a full cache


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
@pytest.mark.parametrize("kv_unified", [True, False])
def test_a_full_cache_refuses_and_stays_as_it_is(
    tiny_model: TinyModel, kind: str, kv_unified: bool
) -> None:
    model = tiny_model(kind)
    sizes = {"n_ctx": N_CTX if kv_unified else N_SEQ_MAX * N_CTX, "kv_unified": kv_unified}
    n_left = 10
    with at_work(model, **sizes) as context, at_work(model, **sizes) as untouched:
        n_used = N_PAST + (5 if kv_unified else 0)
        for each in (context, untouched):
            each.prefill([290] * (N_CTX - n_used - n_left), 0)
        before, n_past = Snapshot.of(context), context.sequences.n_past(0)
        for n_more in (n_left + 1, N_BATCH):
            with pytest.raises(CacheFullError, match=rf"no room for {n_more} more tokens"):
                context.decode(batch([5] * n_more, range(n_past, n_past + n_more)))
        assert Snapshot.of(context) == before
        assert np.array_equal(next_logits(context), next_logits(untouched))


def test_what_did_not_fit_fits_when_room_is_made(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with make(model) as context, make(model) as roomy:
        for seq in (0, 1):
            context.prefill([*TEXT, *[280 + seq] * 80], seq)
        with pytest.raises(CacheFullError):
            context.prefill(TEXT * 3, 2)
        context.memory.rm(1)
        context.prefill(TEXT * 3, 2, logits=True)
        roomy.prefill(TEXT * 3, 2, logits=True)
        np.testing.assert_allclose(context.outputs.logits, roomy.outputs.logits, atol=2e-2)


def test_a_tree_without_room_is_not_pending(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with at_work(model) as context, at_work(model) as untouched:
        for each in (context, untouched):
            each.prefill([290] * (N_CTX - N_PAST - 5 - 3), 2)
        before = Snapshot.of(context)
        with pytest.raises(CacheFullError):
            context.decode(TREE, seq=0)
        assert not context.sequences.is_pending(0)
        assert Snapshot.of(context) == before
        assert np.array_equal(next_logits(context), next_logits(untouched))


# -- trees


def test_bad_trees_are_refused_and_change_nothing(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    wide = TokenTree.from_paths([[token] for token in range(N_BATCH + 1)])
    with at_work(model) as context, at_work(model) as untouched:
        before = Snapshot.of(context)
        calls: list[tuple[type[PyTreeLlamaError], Callable[[], Any]]] = [
            (BatchError, lambda: context.decode(TokenTree.from_paths([[N_VOCAB]]), seq=0)),
            (PyTreeLlamaError, lambda: context.decode(TokenTree.from_paths([[-1]]), seq=0)),
            (TreeError, lambda: context.decode(wide, seq=0)),
            (TreeError, lambda: context.grow(0, [], [])),
            (TreeError, lambda: context.grow(0, [5], [0])),
            (TreeError, lambda: context.grow(0, [5], [-2])),
            (TreeError, lambda: context.grow(0, [5, 6], [-1])),
            (BatchError, lambda: context.grow(0, [1.5], [-1])),  # type: ignore[list-item]
            (MemoryStateError, lambda: context.commit(0, [0])),
            (MemoryStateError, lambda: context.decode(TREE, seq=N_SEQ_MAX)),
            (MemoryStateError, lambda: context.decode(TREE, seq=-1)),
        ]
        for error, call in calls:
            with pytest.raises(error):
                call()
            assert not context.sequences.is_pending(0)
        assert Snapshot.of(context) == before
        assert np.array_equal(next_logits(context), next_logits(untouched))


def test_bad_paths_leave_the_tree_pending(tiny_model: TinyModel) -> None:
    with at_work(tiny_model("rope")) as context:
        context.decode(TREE, seq=0)
        before = Snapshot.of(context)
        root, other_root = np.flatnonzero(TREE.parents == -1).tolist()
        child = TREE.children(root)[0]
        paths = (
            [child],
            [root, other_root],
            [other_root, child],
            [root, root],
            [-1],
            [99],
            [2**40],
        )
        for path in paths:
            with pytest.raises(TreeError, match="is not a path of the pending tree"):
                context.commit(0, path)
        with pytest.raises(MemoryStateError, match="pending"):
            context.decode(TREE, seq=0)
        assert context.sequences.is_pending(0)
        assert Snapshot.of(context) == before
        context.discard(0)
        assert context.sequences.n_past(0) == N_PAST


# -- after the end


def test_a_closed_context_refuses_every_use(tiny_model: TinyModel) -> None:
    context = at_work(tiny_model("rope"))
    memory = context.memory
    context.close()
    context.close()
    assert context.closed
    assert repr(context) == "<Context: closed>"
    for call in (
        lambda: context.prefill([5], 0),
        lambda: context.decode(batch()),
        lambda: context.decode(TREE, seq=0),
        lambda: context.grow(0, [5], [-1]),
        lambda: context.decode(5, seq=0),
        lambda: context.place(Batch(8), 0, TREE),
        lambda: context.sequences.n_past(0),
        lambda: context.sequences.free(0),
        lambda: context.outputs.logits,
        lambda: context.outputs.logits_pointer(0),
        lambda: context.outputs.argmax(),
        lambda: context.outputs.top_k(1),
        lambda: context.outputs.token_logps([5]),
        lambda: context.n_reused_graphs,
        lambda: memory.is_shared(0),
        lambda: memory.can_shift,
        lambda: memory.pos_min(0),
        lambda: memory.pos_max(0),
        lambda: memory.clear(),
        lambda: memory.rm(0),
        lambda: memory.cp(0, 1),
        lambda: memory.keep(0),
        lambda: memory.add(0, 0, -1, 1),
        lambda: memory.div(0, 0, -1, 2),
        lambda: memory.save(),
        lambda: memory.save(0),
        lambda: memory.load(b"x"),
        lambda: memory.load(b"x", 0),
        lambda: context.decode(5, seq=0),
    ):
        with pytest.raises(ContextError, match="closed"):
            call()
    context.abort()
    context.discard(0)


def test_a_context_closes_at_the_end_of_its_block(tiny_model: TinyModel) -> None:
    with pytest.raises(KeyError), make(tiny_model("rope")) as context:
        raise KeyError
    assert context.closed


def test_a_closed_sampler_refuses_every_use(tiny_model: TinyModel) -> None:
    with at_work(tiny_model("rope")) as context:
        sampler = Sampler(context.model.vocab, SamplingParams(temperature=1.0))
        sampler.sample(context.outputs, 0)
        sampler.close()
        sampler.close()
        for call in (
            lambda: sampler.sample(context.outputs, 0),
            lambda: sampler.accept(5),
            lambda: sampler.reset(),
            lambda: sampler.clone(),
        ):
            with pytest.raises(SamplerError, match="closed"):
                call()


# -- two threads


def calls_of(context: Context) -> dict[str, Callable[[], Any]]:
    """Everything that touches the native context."""
    memory = context.memory
    return {
        "prefill": lambda: context.prefill([5], 0),
        "decode": lambda: context.decode(batch()),
        "decode a token": lambda: context.decode(5, seq=0),
        "decode a tree": lambda: context.decode(TREE, seq=0),
        "place": lambda: context.place(Batch(8), 0, TREE),
        "new": lambda: context.sequences.new(),
        "grow": lambda: context.grow(0, [5], [-1]),
        "commit": lambda: context.commit(0, []),
        "discard": lambda: context.discard(0),
        "free": lambda: context.sequences.free(0),
        "n_past": lambda: context.sequences.n_past(0),
        "logits": lambda: context.outputs.logits,
        "argmax": lambda: context.outputs.argmax(),
        "top_k": lambda: context.outputs.top_k(1),
        "token_logps": lambda: context.outputs.token_logps([5]),
        "is_shared": lambda: memory.is_shared(0),
        "pos_min": lambda: memory.pos_min(0),
        "pos_max": lambda: memory.pos_max(0),
        "clear": lambda: memory.clear(),
        "rm": lambda: memory.rm(0),
        "cp": lambda: memory.cp(0, 1),
        "keep": lambda: memory.keep(0),
        "add": lambda: memory.add(0, 0, -1, 1),
        "div": lambda: memory.div(0, 0, -1, 2),
        "save": lambda: memory.save(),
        "load": lambda: memory.load(b"x"),
        "close": lambda: context.close(),
    }


def test_a_context_belongs_to_one_thread_at_a_time(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with at_work(model) as context, at_work(model) as untouched:
        told: dict[str, str] = {}

        def use_from_outside() -> None:
            for name, call in calls_of(context).items():
                try:
                    call()
                    told[name] = "nothing"
                except ContextError as error:
                    told[name] = str(error)

        with context.exclusive():
            thread = threading.Thread(target=use_from_outside)
            thread.start()
            thread.join()
        assert set(told) == set(calls_of(context))
        for name, message in told.items():
            assert "in use by another thread; give each thread a context" in message, name
        assert Snapshot.of(context) == Snapshot.of(untouched)
        assert np.array_equal(next_logits(context), next_logits(untouched))


def test_a_pass_keeps_other_threads_out_and_lets_them_run(tiny_model: TinyModel) -> None:
    model = tiny_model("rope", n_layer=8, n_embd=256)
    with make(model, n_ctx=4096, n_batch=512) as context:
        started, finished = threading.Event(), threading.Event()

        def prefill() -> None:
            context.prefill([300] * 3000, 0, progress=lambda share: started.set())
            finished.set()

        thread = threading.Thread(target=prefill)
        thread.start()
        started.wait()
        n_refused = 0
        while not finished.is_set():
            try:
                context.memory.pos_max(0)
            except ContextError:
                n_refused += 1
        thread.join()
        assert n_refused > 0  # so this thread ran while the other was in its passes
        assert context.sequences.n_past(0) == 3000


def test_contexts_of_one_model_work_in_threads_of_their_own(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    texts = [[1, *range(270 + i, 290 + i)] for i in range(4)]
    expected = []
    for text in texts:
        with make(model) as context:
            context.prefill(text, 0, logits=True)
            expected.append(context.outputs.logits)
    found: dict[int, list[np.ndarray]] = {}

    def run(i: int) -> None:
        with make(model) as context:
            found[i] = []
            for _ in range(10):
                context.prefill(texts[i], 0, logits=True)
                found[i].append(context.outputs.logits)
                context.memory.clear()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, rows in found.items():
        assert len(rows) == 10
        assert all(np.array_equal(row, expected[i]) for row in rows)
