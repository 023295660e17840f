"""TokenState behaves as a list of tokens, and never changes what it has handed out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytreellama.engine.token_state import TokenState

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=600)


class Machine(RuleBasedStateMachine):
    """A state beside a list, and every view that was ever taken, beside its copy."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = [7, 8, 9]
        self.prompt = np.array(self.tokens, np.int32)
        self.state = TokenState(self.prompt)
        self.n_kept = 2**31 - 1
        self.views = [(self.prompt, self.prompt.copy())]

    @rule(tokens=TOKENS)
    def extend(self, tokens: list[int]) -> None:
        self.state.extend(tuple(tokens))
        self.tokens += tokens

    @rule()
    def take_view(self) -> None:
        self.views.append((self.state.ids, self.state.ids.copy()))

    @rule(share=st.floats(0, 1))
    def decode(self, share: float) -> None:
        self.state.n_past += round(share * self.state.n_missing)

    @precondition(lambda self: self.state.n_past > 0)
    @rule(data=st.data())
    def shift(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, self.state.n_past - 1))
        last = data.draw(st.integers(first + 1, self.state.n_past))
        n_past = self.state.n_past
        self.state.drop(first, last)
        del self.tokens[first:last]
        self.n_kept = min(self.n_kept, first)
        assert self.state.n_past == n_past - (last - first)

    @invariant()
    def it_is_the_list(self) -> None:
        assert self.state.ids.tolist() == self.tokens
        assert self.state.ids.dtype == np.int32
        assert self.state.last == self.tokens[-1]
        assert self.state.n_missing == len(self.tokens) - 1 - self.state.n_past
        n_shareable = min(self.state.n_past, self.n_kept)
        assert self.state.shareable.tolist() == self.tokens[:n_shareable]
        assert self.state.is_shifted == (self.n_kept < 2**31 - 1)

    @invariant()
    def views_do_not_change(self) -> None:
        for view, copy in self.views:
            assert np.array_equal(view, copy)


TestTokenState = Machine.TestCase


def test_ids_cannot_be_written_to() -> None:
    state = TokenState(np.array([1, 2], np.int32))
    state.extend([3])
    with pytest.raises(ValueError, match="read-only"):
        state.ids[0] = 5


def test_prompts_that_are_not_extended_are_not_copied() -> None:
    prompt = np.arange(9, dtype=np.int32)
    assert np.shares_memory(TokenState(prompt).ids, prompt)
