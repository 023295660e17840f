"""Recorder: collects the tokens that an engine generates, with their hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pytreellama.draft.protocol import (
    EMPTY_TREE,
    Float32Array,
    Tokens,
    checked_n_nodes,
    checked_tokens,
)
from pytreellama.engine import Engine
from pytreellama.errors import MedusaError
from pytreellama.model.model import Model
from pytreellama.training.text import Text
from pytreellama.tree import TokenTree

Prompt = tuple[int, ...]
Sink = Callable[[Prompt, Text], None]


class StateRecorder:
    """A drafter that proposes nothing and passes each finished text to a sink."""

    name = "recorder"
    wants_hidden = True

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._forget()

    def _forget(self) -> None:
        self._prompt: Prompt = ()
        self._tokens: list[int] = []
        self._states: list[Float32Array] = []

    def observe_hidden(self, states: Float32Array) -> None:
        """Take the hidden states of accepted tokens."""
        self._states.append(states)

    def observe(self, tokens: Tokens) -> None:
        """Take committed text; the text before the first state is the prompt."""
        if self._states:
            self._tokens += checked_tokens(tokens)
        else:
            self._prompt += tuple(checked_tokens(tokens))

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose nothing."""
        checked_n_nodes(n_nodes)
        return EMPTY_TREE

    def reset(self) -> None:
        """Tell of the text, if there is one, and forget it."""
        if self._states:
            states = np.concatenate(self._states).astype(np.float16)
            tokens, prompt = (np.array(ids, np.int32) for ids in (self._tokens, self._prompt))
            self._sink(self._prompt, Text(tokens, states, prompt))
        self._forget()


class RecordingEngine(Engine):
    """An engine whose texts are recorded.

    Args:
        model: the target.
        sink: told of each text at its end, on the engine's thread.
        n_parallel: texts that run at once.
        n_text: most tokens of a text, its prompt included.
        n_waiting: texts that may wait besides.

    Raises:
        MedusaError: the model is one for which nothing is drafted.
    """

    def __init__(
        self, model: Model, sink: Sink, *, n_parallel: int, n_text: int, n_waiting: int
    ) -> None:
        super().__init__(
            model,
            lambda: StateRecorder(sink),
            n_draft=1,
            n_seq_max=n_parallel,
            n_ctx=n_parallel * n_text,
            n_queue_max=n_waiting,
            n_cached_prefixes=0,  # each text is recorded whole
        )
        if self.n_draft == 0:
            self.close()
            raise MedusaError(
                f"{model.path.name} has a memory from which guesses cannot be taken back, as a "
                "recurrent model's: heads would be of no use to it"
            )
        self.context.outputs.keep_hidden()


def answers(
    model: Model, prompts: Sequence[Sequence[int]], n_tokens: int, n_parallel: int = 16
) -> list[Text]:
    """What a model writes greedily behind prompts of token ids, in their order."""
    heard: dict[Prompt, Text] = {}
    n_text = max(map(len, prompts)) + n_tokens + 1
    with RecordingEngine(
        model,
        heard.__setitem__,
        n_parallel=min(n_parallel, len(prompts)),
        n_text=n_text,
        n_waiting=len(prompts),
    ) as engine:
        engine.generate([list(prompt) for prompt in prompts], max_tokens=n_tokens)
    return [heard[tuple(prompt)] for prompt in prompts]
