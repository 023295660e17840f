"""KeptTexts: texts that have ended, whose keys and values stay until their room is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.engine.sequence import Sequence

Int32 = NDArray[np.int32]


@dataclass(eq=False, slots=True)
class KeptText:
    """A text in the cache that nobody writes on.

    Attributes:
        shareable: its tokens, all of them in the cache; int32, shape (n,).
        seq_id: its place in the cache.
    """

    shareable: Int32
    seq_id: int


class KeptTexts:
    """At most so many texts; the one that was used longest ago goes first.

    Cells that a text shares with others count once and stay for them when it goes.

    Args:
        context: the cache; each text holds one of its sequence ids.
        n_most: 0 keeps nothing.
    """

    def __init__(self, context: Context, n_most: int) -> None:
        self._context = context
        self._n_most = n_most
        self._texts: list[KeptText] = []  # the one used last at the end

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[KeptText]:
        return iter(self._texts)

    def keep(self, sequence: Sequence) -> bool:
        """Take over a sequence's place in the cache; False if it is to be freed.

        A text that begins another one is in that one already, and is not kept besides.
        """
        tokens = sequence.shareable.copy()
        if self._n_most == 0 or not len(tokens) or len(tokens) < sequence.n_past:
            return False
        for text in list(self._texts):
            n_equal = n_common(tokens, text.shareable)
            if n_equal == len(tokens):
                self.use(text)
                return False
            if n_equal == len(text.shareable):
                self.drop(text)
        if self.is_full:
            self.drop_oldest()
        self.add(KeptText(tokens, sequence.require_id()))
        return True

    def add(self, text: KeptText) -> None:
        """Keep a text that is in the cache; there must be room for it among the others."""
        assert not self.is_full
        self._texts.append(text)

    @property
    def is_full(self) -> bool:
        """Must one go before another is kept?"""
        return len(self._texts) >= self._n_most

    def use(self, text: KeptText) -> None:
        """It was of use just now."""
        self._texts.remove(text)
        self._texts.append(text)

    def drop(self, text: KeptText) -> None:
        """Free what it alone holds."""
        self._texts.remove(text)
        self._context.sequences.free(text.seq_id)

    def drop_oldest(self) -> bool:
        """Drop the text that was used longest ago; False if there is none."""
        if not self._texts:
            return False
        self.drop(self._texts[0])
        return True


def n_common(a: Int32, b: Int32) -> int:
    """Tokens that both texts begin with; int32, shapes (n,) and (m,)."""
    n_most = min(len(a), len(b))
    differs = a[:n_most] != b[:n_most]
    return int(differs.argmax()) if differs.any() else n_most
