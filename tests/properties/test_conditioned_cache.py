"""The cache of drafts that read hidden states: whatever comes, it holds what it says it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carried_drafts import Float32
from pytreellama import Context, Model
from pytreellama.context.draft_context import DraftContext, Piece
from pytreellama.draft.conditioned_cache import Ask, ConditionedCache
from pytreellama.draft.conditioned_text import ConditionedText
from pytreellama.draft.growth import Growth

pytest.importorskip("gguf", reason="needs gguf: pip install 'pytreellama[test]'")

N_CTX, N_SEQ_MAX = 96, 4
GROWTH = Growth.of("best", top=3, width=2, n_levels=3, min_p=0.0)
TOKENS = st.integers(261, 263)  # so few that texts often begin alike


class Shadowed:
    """A draft context, and for each sequence what its cells must hold."""

    def __init__(self, context: DraftContext, patch: pytest.MonkeyPatch) -> None:
        self.cells: dict[int, list[tuple[int, Float32]]] = {}
        decode, cp, free = context.decode, context.memory.cp, context.sequences.free

        def decoded(pieces: Sequence[Piece], **options: Any) -> Any:
            places = decode(pieces, **options)
            for piece in pieces:
                if piece.parents is None:
                    new = zip(piece.tokens.tolist(), piece.states, strict=True)
                    self.cells.setdefault(piece.seq, []).extend(new)
            return places

        def copied(source: int, target: int, p0: int, p1: int) -> None:
            cp(source, target, p0, p1)
            assert not self.cells.get(target)
            self.cells[target] = self.cells[source][p0:p1]

        def freed(seq: int) -> None:
            free(seq)
            self.cells[seq] = []

        patch.setattr(context, "decode", decoded)
        patch.setattr(context.memory, "cp", copied)
        patch.setattr(context.sequences, "free", freed)


@pytest.fixture(scope="module")
def context(tiny_model_path: Callable[..., Path]) -> Iterator[DraftContext]:
    path = tiny_model_path("deepseek2-mtp")
    with (
        Model(path, load_mtp=True) as model,
        Context(model, n_ctx=N_CTX, n_threads=1) as target,
        DraftContext(model, target, n_seq_max=N_SEQ_MAX, is_mtp=True) as context,
    ):
        yield context


def state_of(prefix: Sequence[int], n_embd: int) -> Float32:
    """The state from which the target would draw the token after a prefix."""
    seed = hash(tuple(prefix)) & 0xFFFF
    return np.random.default_rng(seed).standard_normal(n_embd).astype(np.float32)


def states_of(tokens: Sequence[int], first: int, end: int, n_embd: int) -> Float32:
    return np.stack([state_of(tokens[:i], n_embd) for i in range(first, end)])


def check(text: ConditionedText, shadow: Shadowed, n_embd: int) -> None:
    """The cells hold the text's tokens, each with its state, or zeros where nobody knew it."""
    cells = shadow.cells.get(text.seq, []) if text.seq is not None else []
    assert [token for token, _ in cells] == text.tokens[text.start : text.n_read]
    for i, (_, state) in enumerate(cells, text.start):
        is_known = np.array_equal(state, state_of(text.tokens[:i], n_embd))
        assert is_known or not state.any()
        assert is_known or text.start == 0


def alone(context: DraftContext, cells: Sequence[tuple[int, Float32]]) -> Float32:
    """The state of a text's last token where it is read alone, in a sequence of its own."""
    seq = context.sequences.new()
    tokens = np.array([token for token, _ in cells], np.int32)
    context.decode([Piece(seq, tokens, np.stack([state for _, state in cells]))])
    state = context.states()[-1]
    context.sequences.free(seq)
    return state


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_comes_the_draft_has_read_what_it_says(
    data: st.DataObject, context: DraftContext
) -> None:
    """Texts come, go on and end; states are missing here and there; cells and sequences run out."""
    for seq in range(N_SEQ_MAX):
        context.discard(seq)
        context.sequences.free(seq)
    with pytest.MonkeyPatch.context() as patch:
        shadow = Shadowed(context, patch)
        cache = ConditionedCache(context, n_row=context.n_embd, first=0, n_vocab=320)
        texts: list[ConditionedText] = []
        for _step in range(data.draw(st.integers(4, 14))):
            if len(texts) < N_SEQ_MAX and data.draw(st.booleans()):
                texts.append(cache.new_text())
                texts[-1].tokens += data.draw(st.lists(TOKENS, min_size=2, max_size=40))
                prefill(cache, texts[-1], data, context.n_embd)
            elif texts and data.draw(st.integers(0, 5)) == 0:
                cache.abandon(texts.pop(data.draw(st.integers(0, len(texts) - 1))))
            for text in texts:
                go_on(cache, text, data, context.n_embd)
            grow(cache, texts, data)
            for text in texts:
                check(text, shadow, context.n_embd)
            seqs = [text.seq for text in cache._texts if text.seq is not None]
            assert len(set(seqs)) == len(seqs)
            rooted = [text for text in texts if text.root is not None]
            n_cells = sum(map(len, shadow.cells.values()))
            if rooted and len(seqs) < N_SEQ_MAX and n_cells + rooted[0].n_cells <= N_CTX:
                text = rooted[0]
                assert text.root is not None
                expected = alone(context, list(shadow.cells[text.require_seq()]))
                assert np.array_equal(text.root.state, expected)


def prefill(
    cache: ConditionedCache, text: ConditionedText, data: st.DataObject, n_embd: int
) -> None:
    """The states of a prompt, in chunks; a prefix may be shared, so that nobody tells of it."""
    begin = data.draw(st.integers(0, len(text.tokens) - 1))
    begin = begin if data.draw(st.booleans()) else 0
    while begin < len(text.tokens) - 1:
        end = min(begin + 16, len(text.tokens) - 1)
        cache.observe(text, begin + 1, states_of(text.tokens, begin + 1, end + 1, n_embd))
        begin = end


def go_on(cache: ConditionedCache, text: ConditionedText, data: st.DataObject, n_embd: int) -> None:
    tokens = data.draw(st.lists(TOKENS, max_size=3))
    if tokens:
        first = len(text.tokens)
        grown = [*text.tokens, *tokens]
        cache.observe(text, first, states_of(grown, first, len(grown), n_embd))
        outcomes = text.go_on(tokens)
        assert text.root is None
        assert [came for _, came in outcomes] == tokens[: len(outcomes)]


def grow(cache: ConditionedCache, texts: Sequence[ConditionedText], data: st.DataObject) -> None:
    asks = [Ask(text, GROWTH, 6) for text in texts if data.draw(st.booleans())]
    for ask in asks:
        cache.announce(ask)
    for ask in asks:
        tree = ask.tree or cache.grow(ask)
        assert len(tree) <= 6
        assert (len(tree) == 0) == (ask.text.root is None)
        seq = ask.text.seq
        assert seq is None or not cache._context.sequences.is_pending(seq)
