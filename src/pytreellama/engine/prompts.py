"""Prompts: what users may give, and the token ids that it becomes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from pytreellama.chat.template import chat_prompt, encode_chat
from pytreellama.errors import RequestError
from pytreellama.model.model import Model

Message = Mapping[str, Any]

Prompt = str | Sequence[int] | Sequence[Message]
"""Text, token ids, or chat messages for the model's template."""

Continuation = str | Sequence[int]
"""Text, or token ids."""

_FORMS = "give text, a list of token ids, or a list of chat messages"


class PromptEncoder:
    """Makes token ids of prompts, and refuses what is none or cannot fit.

    Args:
        model: whose vocabulary and template are used.
        n_text_max: tokens that the context holds for one text.
    """

    def __init__(self, model: Model, n_text_max: int) -> None:
        self._model = model
        self._vocab = model.vocab
        self._n_text_max = n_text_max

    def encode(self, prompt: Prompt, *, add_eos: bool = False) -> list[int]:
        """See ``Engine.encode_prompt``."""
        if isinstance(prompt, str):
            self.require_fits(prompt)
            return self._vocab.encode(prompt, add_eos=add_eos)
        _require_list(prompt, "prompt", _FORMS)
        if len(prompt) and isinstance(prompt[0], Mapping):
            text = chat_prompt(self._model, cast("Sequence[Message]", prompt))
            self.require_fits(text)
            return encode_chat(self._vocab, text)
        return self.ids(cast("Sequence[int]", prompt), "prompt", _FORMS)

    def encode_continuation(self, continuation: Continuation) -> list[int]:
        """Token ids of text that goes on from other text."""
        if not isinstance(continuation, str):
            form = "give text, or a list of token ids"
            _require_list(continuation, "continuation", form)
            return self.ids(continuation, "continuation", form)
        self.require_fits(continuation)
        return self._vocab.encode_continuation(continuation)

    def ids(
        self, tokens: Iterable[int], name: str, form: str = "give a list of token ids"
    ) -> list[int]:
        """Checked token ids.

        Args:
            name: of the argument, for the message.
            form: what may be given instead.

        Raises:
            RequestError: not integers, or not in the vocabulary.
        """
        _require_no_bytes(tokens, name)
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError:
            raise RequestError(f"invalid {name}: {form}") from None
        wrong = [token for token in ids if not 0 <= token < self._vocab.n_tokens]
        if wrong:
            raise RequestError(
                f"invalid {name}: token id {wrong[0]} is not in the vocabulary; ids are from 0 to "
                f"{self._vocab.n_tokens - 1}"
            )
        return ids

    def require_fits(self, text: str) -> None:
        """See ``Engine.require_fits``."""
        self._vocab.require_fits(text, self._n_text_max)


def as_list(given: Any, name: str) -> list[Any]:
    """The items of a list of texts; one text alone is not taken for a list of its letters."""
    if isinstance(given, str):
        raise RequestError(f"invalid {name}: one text was given; give a list, such as [text]")
    _require_no_bytes(given, name)
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise RequestError(f"invalid {name} of type {type(given).__name__}: give a list")
    return list(given)


def is_many(prompt: Prompt | Sequence[Prompt]) -> bool:
    """True for a list of prompts: its items are not tokens or messages.

    Raises:
        RequestError: neither a prompt nor a list.
    """
    if isinstance(prompt, str):
        return False
    _require_list(prompt, "prompt", f"{_FORMS}, or a list of such prompts")
    return len(prompt) > 0 and not isinstance(prompt[0], (int, np.integer, Mapping))


def _require_list(given: object, name: str, form: str) -> None:
    _require_no_bytes(given, name)
    if isinstance(given, Mapping) or not isinstance(given, (Sequence, np.ndarray)):
        raise RequestError(f"invalid {name} of type {type(given).__name__}: {form}")


def _require_no_bytes(given: object, name: str) -> None:
    """Bytes are a sequence of small integers, which would be taken for token ids."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        raise RequestError(
            f"invalid {name} of type {type(given).__name__}: give text, such as data.decode()"
        )
