"""Blocks: reasoning, texts and calls, one after the other, as Anthropic's and OpenAI's newer API
have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pytreellama.serve.protocols.pieces import ChatPiece

BlockKind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Block:
    """One part of an answer.

    Attributes:
        index: in the answer.
        content: so far: words, or a call's arguments as JSON text.
        call_index: which call it is; -1 for words.
        id, name: of a call.
    """

    kind: BlockKind
    index: int
    content: str = ""
    call_index: int = -1
    id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """A block begins, goes on with ``more``, or ends."""

    type: Literal["begin", "more", "end"]
    block: Block
    more: str = ""


class BlockReader:
    """Makes blocks of pieces. At most one block is open at a time.

    Attributes:
        blocks: all so far.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._is_open = False

    def push(self, piece: ChatPiece) -> Iterator[BlockEvent]:
        """What happens to blocks by a piece; all of it must be taken."""
        if piece.reasoning:
            yield from self._go_on("reasoning", piece.reasoning)
        if piece.text:
            yield from self._go_on("text", piece.text)
        for call in piece.calls:
            yield from self._go_on("call", call.arguments, call.index, call.id, call.name)

    def finish(self) -> Iterator[BlockEvent]:
        """What happens at the end; an answer of nothing has an empty text."""
        if not self.blocks:
            yield from self._go_on("text", "")
        yield from self._close()

    def _go_on(
        self, kind: BlockKind, more: str, call_index: int = -1, id: str = "", name: str = ""
    ) -> Iterator[BlockEvent]:
        last = self.blocks[-1] if self._is_open else None
        if last is None or (last.kind, last.call_index) != (kind, call_index):
            yield from self._close()
            last = Block(kind, len(self.blocks), "", call_index, id, name)
            self.blocks.append(last)
            self._is_open = True
            yield BlockEvent("begin", last)
        if more:
            last.content += more
            yield BlockEvent("more", last, more)

    def _close(self) -> Iterator[BlockEvent]:
        if self._is_open:
            self._is_open = False
            yield BlockEvent("end", self.blocks[-1])
