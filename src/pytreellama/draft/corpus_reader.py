"""One text beside a corpus: where the corpus goes on as the text may, and how far to believe it."""

from __future__ import annotations

from collections import deque

from pytreellama.draft.corpus import Corpus, Places
from pytreellama.draft.escape import EscapeTable


class CorpusReader:
    """Finds the end of a growing text in a corpus, and learns how often the text leaves it.

    Args:
        corpus: what is searched; only read.
        min_match, max_match: shortest and longest suffix of the text to look for, in tokens.
    """

    __slots__ = (
        "_corpus",
        "_escapes",
        "_is_searched",
        "_match",
        "_max_match",
        "_min_match",
        "_text",
    )

    def __init__(self, corpus: Corpus, min_match: int, max_match: int) -> None:
        self._corpus = corpus
        self._min_match = min_match
        self._max_match = max_match
        self._text: deque[int] = deque(maxlen=max_match)
        self._escapes = EscapeTable()
        self._match: Places | None = None
        self._is_searched = True

    def append(self, token: int) -> None:
        """Add one token to the end of the text."""
        self._text.append(token)
        self._is_searched = False

    def longest_match(self) -> Places | None:
        """The places behind the longest suffix of the text in the corpus, if that is long enough.

        One search a token, when it is first asked for: see `Corpus.longest_match`.
        """
        if not self._is_searched:
            found = self._corpus.longest_match(list(self._text), self._max_match)
            self._match = found if found is not None and found.length >= self._min_match else None
            self._is_searched = True
        return self._match

    def learn(self, places: Places, token: int) -> None:
        """Note that `token` came next at the end of the text, whose match is `places`."""
        self._escapes.learn(*_kind(places), was_escape=token not in places.following())

    def p_escape(self, places: Places) -> float:
        """Probability, in (0, 1), that the next token is none of those at `places`."""
        return self._escapes.p_escape(*_kind(places))


def _kind(places: Places) -> tuple[int, int, int, bool]:
    following = places.following()
    return places.length, places.n_continued, len(following), False
