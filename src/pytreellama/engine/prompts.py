"""Prompts: the forms in which users give them, and the array of token ids that they become."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.chat.template import needs_bos
from pytreellama.engine.chat_prompts import ChatPrompt, ChatPrompter
from pytreellama.errors import RequestError
from pytreellama.model.model import Model

Int32 = NDArray[np.int32]
Message = Mapping[str, Any]

Prompt = str | Sequence[int] | Sequence[Message] | ChatPrompt
"""Text, token ids, chat messages for the model's chat template, or what was rendered of them."""

Continuation = str | Sequence[int]
"""Text, or token ids."""

_FORMS = "give text, a list of token ids, or a list of chat messages"


class PromptEncoder:
    """Converts prompts to checked token ids: behind it, no id is checked or converted again.

    Args:
        model: its vocabulary and chat template are used.
        n_text_max: tokens of the longest text that the context holds.
    """

    def __init__(self, model: Model, n_text_max: int) -> None:
        self._model = model
        self._vocab = model.vocab
        self._n_text_max = n_text_max
        self._chats = ChatPrompter(model, self.require_fits)

    def encode(self, prompt: Prompt, *, add_eos: bool = False, parse_special: bool = True) -> Int32:
        """Token ids of a prompt, int32, shape (n,); otherwise as ``Engine.encode_prompt``."""
        if isinstance(prompt, str):
            self.require_fits(prompt)
            return self._vocab.encode_array(
                prompt,
                add_bos=not parse_special or needs_bos(self._vocab, prompt),
                add_eos=add_eos,
                parse_special=parse_special,
            )
        if isinstance(prompt, ChatPrompt):
            return prompt.tokens
        _require_list(prompt, "prompt", _FORMS)
        if is_chat(prompt):
            return self.chat(cast("Sequence[Message]", prompt), ChatRequestOptions()).tokens
        return self.array(cast("Sequence[int]", prompt), "prompt", _FORMS)

    def chat(self, messages: Sequence[Message], options: ChatRequestOptions) -> ChatPrompt:
        """A rendered chat; arguments and errors as ``Engine.chat_prompt``."""
        return self._chats.prepare(messages, options)

    def encode_continuation(self, continuation: Continuation) -> list[int]:
        """Token ids of text that continues other text: no BOS and no space in front."""
        if not isinstance(continuation, str):
            form = "give text, or a list of token ids"
            _require_list(continuation, "continuation", form)
            return self.ids(continuation, "continuation", form)
        self.require_fits(continuation)
        return self._vocab.encode_continuation(continuation, parse_special=True)

    def ids(
        self, tokens: Iterable[int], name: str, form: str = "give a list of token ids"
    ) -> list[int]:
        """As ``array``, but the ids are a list."""
        ids: list[int] = self.array(tokens, name, form).tolist()
        return ids

    def array(
        self, tokens: Iterable[int], name: str, form: str = "give a list of token ids"
    ) -> Int32:
        """Checked token ids, int32, shape (n,): a copy.

        Args:
            tokens: integers, as a list, an array, or any iterable.
            name: of the argument, for the message.
            form: what may be given instead.

        Raises:
            RequestError: not integers, or not in the vocabulary.
        """
        _require_no_bytes(tokens, name)
        ids = _integers(tokens)
        if ids is None:
            raise RequestError(f"invalid {name}: {form}")
        wrong = (ids < 0) | (ids >= self._vocab.n_tokens)
        if wrong.any():
            raise RequestError(
                f"invalid {name}: token id {ids[wrong][0]} is not in the vocabulary; ids are from "
                f"0 to {self._vocab.n_tokens - 1}"
            )
        return ids.astype(np.int32)

    def require_fits(self, text: str) -> None:
        """Refuse a text that cannot fit, before it is tokenised; as ``Engine.require_fits``."""
        self._vocab.require_fits(text, self._n_text_max)


def as_list(given: Any, name: str) -> list[Any]:
    """The items of a list of texts; a single text is refused, not split into characters."""
    if isinstance(given, str):
        raise RequestError(f"invalid {name}: one text was given; give a list, such as [text]")
    _require_no_bytes(given, name)
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise RequestError(f"invalid {name} of type {type(given).__name__}: give a list")
    return list(given)


def is_many(prompt: Prompt | Sequence[Prompt]) -> bool:
    """True for a list of prompts: its items are neither tokens nor messages.

    Raises:
        RequestError: neither a prompt nor a list.
    """
    if isinstance(prompt, (str, ChatPrompt)):
        return False
    _require_list(prompt, "prompt", f"{_FORMS}, or a list of such prompts")
    return len(prompt) > 0 and not isinstance(prompt[0], (int, np.integer, Mapping))


def is_chat(prompt: Prompt) -> bool:
    """True for chat messages."""
    if isinstance(prompt, (str, ChatPrompt)) or not isinstance(prompt, Sequence):
        return False
    return len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _require_list(given: object, name: str, form: str) -> None:
    _require_no_bytes(given, name)
    if isinstance(given, Mapping) or not isinstance(given, (Sequence, np.ndarray)):
        raise RequestError(f"invalid {name} of type {type(given).__name__}: {form}")


def _integers(tokens: Iterable[int]) -> NDArray[Any] | None:
    """Tokens as a new array of integers, shape (n,); None if they are anything else."""
    try:
        items = tokens if isinstance(tokens, (list, tuple, np.ndarray)) else list(tokens)
        with contextlib.suppress(ValueError):  # lists of different lengths
            array = np.array(items)
            if array.ndim == 1 and array.dtype.kind in "iu":
                return array
        # booleans, integers of more than 64 bits, or nothing at all
        return np.array([operator.index(token) for token in items], np.object_)
    except TypeError:
        return None


def _require_no_bytes(given: object, name: str) -> None:
    """Refuse bytes: as a sequence of small integers they would pass for token ids."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        raise RequestError(
            f"invalid {name} of type {type(given).__name__}: give text, such as data.decode()"
        )
