"""PlainNames: names of special tokens in messages stay text in a rendered chat.

A template ends turns with names such as ``<|im_end|>``. A message with such a name could end its
turn too, and begin another one in the name of the system. So the first character of each name in a
message is replaced by a mark before the template is rendered, and put back for the tokeniser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pytreellama.chat.content import Message
from pytreellama.chat.template import chat_prompt, encode_chat_array, needs_bos
from pytreellama.errors import ChatTemplateError
from pytreellama.model.vocab import Vocab

if TYPE_CHECKING:
    from pytreellama.model.model import Model

_T = TypeVar("_T")

_MARKS = range(0xF0000, 0xF1000)  # for private use; those that a message has are skipped
_SPACES = " \t\n\v\f\r"  # what special tokens may swallow next to them


class PlainNames:
    """The names of special tokens that one conversation has as text.

    Example:
        names = PlainNames(vocab, messages)
        prompt = template.render(names.marked(messages))
        tokens = names.encode(prompt)

    Args:
        vocab: vocabulary of the model.
        given: all that will be rendered, in strings, lists and mappings.

    Raises:
        ChatTemplateError: all marks are in use.
        VocabError: a text is not valid Unicode.
    """

    def __init__(self, vocab: Vocab, *given: object) -> None:
        self._vocab = vocab
        self._marks: dict[str, str] = {}  # of the first characters of names
        self._start = re.compile("(?!)")
        text = "\0".join(_texts(given))
        names: list[str] = []
        while found := vocab.special_names(text):  # again: a longer name may cover others
            names += found
            self._add_marks(found, text)
            self._start = re.compile(f"(?={_any(names)}).", re.DOTALL)
            text = self._marked_text(text)

    def marked(self, value: _T) -> _T:
        """The same value with all names in its strings marked."""
        if not self._marks:
            return value
        return self._marked(value)  # type: ignore[return-value]

    def plain(self, prompt: str) -> str:
        """A rendered prompt with the characters that the marks stand for."""
        return prompt.translate({ord(mark): start for start, mark in self._marks.items()})

    def encode(self, prompt: str) -> NDArray[np.int32]:
        """Token ids of a rendered prompt, int32, shape (n,); as ``encode_chat`` without marks."""
        if not any(mark in prompt for mark in self._marks.values()):
            return encode_chat_array(self._vocab, prompt)
        vocab = self._vocab
        parts = [vocab.encode_array("", add_bos=needs_bos(vocab, prompt), add_eos=False)]
        for text, is_plain in self._split(prompt):
            parts.append(
                vocab.encode_array(text, add_bos=False, add_eos=False, parse_special=not is_plain)
            )
        return np.concatenate(parts)

    def _add_marks(self, names: list[str], text: str) -> None:
        free = (one for one in map(chr, _MARKS) if one not in text)
        for start in {name[0] for name in names} - self._marks.keys():
            mark = next(free, None)
            if mark is None:
                raise ChatTemplateError(
                    "the messages have all characters from U+F0000 to U+F0FFF; remove one of them"
                )
            self._marks[start] = mark

    def _marked_text(self, text: str) -> str:
        return self._start.sub(lambda found: self._marks[found[0]], text)

    def _marked(self, value: object) -> object:
        if isinstance(value, str):
            return self._marked_text(value)
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._marked(one) for one in value]
        return value

    def _split(self, prompt: str) -> Iterator[tuple[str, bool]]:
        """Parts of a prompt in order, and for each whether its names of special tokens are text.

        Such a part is all between two special tokens of the template, as the tokeniser sees it.
        """
        names = self._vocab.special_names(prompt)
        pieces = re.split(f"({_any(names)})", prompt) if names else [prompt]
        group = ""
        for i, piece in enumerate(pieces):
            if i % 2 or self.plain(piece) == piece:
                group += piece
                continue
            if group:
                yield group, False
            group = ""
            if i > 0 and self._swallows(pieces[i - 1] + " ", pieces[i - 1]):
                piece = piece.lstrip(_SPACES)
            if i + 1 < len(pieces) and self._swallows(" " + pieces[i + 1], pieces[i + 1]):
                piece = piece.rstrip(_SPACES)
            yield self.plain(piece), True
        if group:
            yield group, False

    def _swallows(self, text: str, name: str) -> bool:
        """True if a special token takes the white space next to it."""
        with_space = self._vocab.encode(text, add_special=False, parse_special=True)
        return with_space == self._vocab.encode(name, add_special=False, parse_special=True)


def chat_array(model: Model, messages: Sequence[Message], **options: Any) -> NDArray[np.int32]:
    """Token ids of a chat, int32, shape (n,): names of special tokens in messages are text.

    Arguments and errors as ``chat_prompt``.
    """
    names = PlainNames(model.vocab, messages, options)
    return names.encode(chat_prompt(model, names.marked(messages), **names.marked(options)))


def _any(names: list[str]) -> str:
    """A pattern of any of the names, the longest first."""
    return "|".join(map(re.escape, sorted(set(names), key=lambda name: (-len(name), name))))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
