"""What a peer is asked and what it answers; ``peers.py`` compares them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from lib.questions import Question
from pytreellama import Model
from pytreellama.chat.template import chat_prompt, encode_chat

MOST_SECONDS = 900.0  # a peer that takes longer for one answer has failed
MOST_LETTERS = 160  # of a reason
TELLING = re.compile("error|assert|failed", re.IGNORECASE)


class PeerError(Exception):
    """Why a peer cannot be measured, in one line."""


@dataclass(frozen=True)
class Prompt:
    """A question as the model's chat template writes it.

    Attributes:
        text: for tools that tokenise, and add the beginning of text themselves.
        tokens: what becomes of it.
        echo: the tokens in writing, as llama.cpp's examples print them back.
    """

    category: str
    text: str
    tokens: tuple[int, ...]
    echo: bytes

    @classmethod
    def of(cls, model: Model, question: Question) -> Prompt:
        vocab = model.vocab
        text = chat_prompt(model, question.messages)
        tokens = encode_chat(vocab, text)
        if vocab.adds_bos and vocab.bos is not None:
            text = text.removeprefix(vocab.decode([vocab.bos], special=True))
        echo = vocab.decode_bytes(tokens, special=True)
        return cls(question.category, text, tuple(tokens), echo)


@dataclass(frozen=True)
class Answer:
    """What a peer wrote, and how long that took.

    Attributes:
        n_written: tokens; one that ends the text counts.
        n_timed: of them, those that passes within ``seconds`` brought. A first token that was drawn
            from the prompt's own pass is not among them.
        seconds: decoding alone: no process, model or prompt.
    """

    text: str
    n_written: int
    n_timed: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """What all peers are given.

    Attributes:
        draft: the same model at 4 bits.
        n_ctx: room for the longest prompt, its answer and what is guessed.
        eagle: an EAGLE-3 file of the model.
    """

    model: Model
    draft: Path
    n_tokens: int
    n_threads: int
    n_ctx: int
    eagle: Path | None = None

    def text_of(self, tokens: Iterable[int]) -> str:
        ends = self.model.vocab.eog_tokens
        kept = [token for token in tokens if token not in ends]
        return self.text_in(self.model.vocab.decode_bytes(kept))

    def text_in(self, written: bytes) -> str:
        """Without white space and names of end tokens behind the text, and half characters."""
        text = written.decode("utf-8", "ignore").rstrip()
        for token in self.model.vocab.eog_tokens:
            text = text.removesuffix(self.model.vocab.decode([token], special=True))
        return text.rstrip()


class Peer(Protocol):
    """Something that answers prompts with one model."""

    def answer(self, prompt: Prompt) -> Answer: ...

    def close(self) -> None: ...


OpenPeer: TypeAlias = Callable[[Task], Peer]
"""Raises PeerError, or what the building of a tool raises."""


def short(reason: object) -> str:
    """The last line that tells of an error, or else the last one."""
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    telling = [line for line in lines if TELLING.search(line)]
    return (telling or lines or [type(reason).__name__])[-1][:MOST_LETTERS]
