"""A corpus on disk: a user's texts, searched for what followed the end of another text."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft.corpus_file import checksum, map_corpus, write_corpus
from pytreellama.draft.protocol import Int32Array, Tokens
from pytreellama.errors import DraftError

_TEXT_END = -1  # stands after every text, so that nothing is found across two of them
_SORTED_LENGTH = 64
_MAX_PLACES = 64
_MAX_ITEMS = 2**31 - 1
_MAX_TOKEN = int(np.iinfo(np.int32).max)


class Corpus:
    """Texts of token ids in a file, in which the longest suffix of any other text is found.

    A place is the index of a token that has another one before it in the same text. The file keeps
    all places in the order of the tokens before them, read backwards: a suffix array of the texts
    read from their ends (Manber and Myers 1993), sorted by up to 64 tokens. So the places behind
    the same tokens are neighbours, and those behind the longest known suffix of a text are found
    by binary search: O(log n) comparisons of runs of tokens.

    The file is mapped into memory, not read: to open it takes the same time at any size, and only
    what is looked up is loaded. It takes 8 bytes a token. A corpus never changes, so drafters of
    many sequences and engines can share one.

    Args:
        path: a file that `build` wrote.
        vocab: the fingerprint that it was built with; by default any will do.

    Raises:
        DraftError: there is no such file, it is cut short or something else, or it was built for
            another vocabulary. Damage that leaves its size as it was is found by `verify`.
    """

    __slots__ = ("_header", "_path", "_places", "_tokens")

    def __init__(self, path: str | os.PathLike[str], *, vocab: str | None = None) -> None:
        self._path = Path(path)
        self._header, self._tokens, self._places = map_corpus(self._path)
        if vocab is not None and self.vocab != vocab:
            known = "no vocabulary" if self.vocab is None else f"the vocabulary {self.vocab!r}"
            raise DraftError(
                f"{path} was built for {known}, but is to serve {vocab!r}, to which its token ids "
                "mean something else; encode the texts anew, and make it again with Corpus.build"
            )

    @classmethod
    def build(
        cls,
        texts: Iterable[Tokens],
        path: str | os.PathLike[str],
        *,
        vocab: str | None = None,
    ) -> Corpus:
        """Write a corpus of `texts`, each token ids of shape (n,), and open it.

        A file that is there already is replaced when all is written. `vocab` is a fingerprint of
        the vocabulary, such as `vocab_fingerprint` gives, to be checked when the file is opened.

        Takes O(n log n) time, about a second for a million tokens, and some 60 bytes a token of
        memory. Raises DraftError if something is no text of token ids, if no text has two tokens,
        or if there are 2**31 or more in all; OSError if the file cannot be written.
        """
        checked = [_checked_text(text, index) for index, text in enumerate(texts)]
        if sum(len(text) + 1 for text in checked) > _MAX_ITEMS:
            raise DraftError(f"a corpus holds less than {_MAX_ITEMS} tokens; make several of them")
        end = np.array([_TEXT_END], np.int32)
        tokens = np.concatenate([end, *(part for text in checked for part in (text, end))])[1:]
        places = _places_in_order(tokens)
        if not len(places):
            raise DraftError("a corpus needs a text of two tokens or more: nothing follows one")
        write_corpus(Path(path), tokens, places, len(checked), vocab)
        return cls(path)

    def __repr__(self) -> str:
        return f"<Corpus of {self.n_tokens} tokens in {self.n_texts} texts: {self._path}>"

    @property
    def n_tokens(self) -> int:
        """Tokens in all texts."""
        return self._header.n_items - self._header.n_texts

    @property
    def n_texts(self) -> int:
        """Texts that it was built of."""
        return self._header.n_texts

    @property
    def vocab(self) -> str | None:
        """The fingerprint of the vocabulary that it was built with, if any."""
        return self._header.vocab

    def verify(self) -> None:
        """Read the whole file; raises DraftError if it is not what was written."""
        if checksum(self._header, self._tokens, self._places) != self._header.crc32:
            raise DraftError(f"{self._path} is damaged; make it again with Corpus.build")

    def longest_match(self, text: Sequence[int], max_length: int) -> Places | None:
        """The places behind the longest suffix of `text` that the corpus holds and goes on from.

        A suffix of more than `max_length` tokens (or 64) is cut to that. None if even the last
        token never stands before another. Of many places 64 are taken, evenly.
        """
        backwards = list(text[-min(max_length, _SORTED_LENGTH) :][::-1])
        nearest = bisect_left(self._places, backwards, key=partial(self._before, len(backwards)))
        length = max(
            _n_common(backwards, self._before(len(backwards), place))
            for place in self._places[max(nearest - 1, 0) : nearest + 1]
        )
        if length == 0:
            return None
        begin, end = self._bounds(backwards[:length], nearest)
        step = max(1, -(-(end - begin) // _MAX_PLACES))
        places = Places(self._tokens, self._places[begin:end:step].tolist(), length)
        return places if places.following() else None  # nothing follows only in a damaged file

    def _bounds(self, wanted: list[int], at: int) -> tuple[int, int]:
        """Where the places behind `wanted`, read backwards, begin and end; `at` is between.

        Mostly they are few, so the bounds are looked for near `at`, in steps that double.
        """
        places, before = self._places, partial(self._before, len(wanted))
        step = 1
        while step <= at and before(places[at - step]) == wanted:
            step *= 2
        begin = bisect_left(places, wanted, max(at - step, 0), at - step // 2, key=before)
        step = 1
        while at + step <= len(places) and before(places[at + step - 1]) == wanted:
            step *= 2
        low, high = at + step // 2, min(at + step, len(places))
        return begin, bisect_right(places, wanted, low, high, key=before)

    def _before(self, length: int, place: int) -> list[int]:
        """At most `length` tokens before `place`, read backwards."""
        end = int(place)
        before: list[int] = self._tokens[max(end - length, 0) : end][::-1].tolist()
        return before


class Places:
    """Places of a corpus that stand behind the same tokens, and what comes there."""

    __slots__ = ("_following", "_places", "_tokens", "length")

    def __init__(self, tokens: Int32Array, places: list[int], length: int) -> None:
        self.length = length
        """How many tokens before them are the same."""
        self._tokens = tokens
        self._places = places
        self._following: dict[int, list[int]] | None = None

    def following(self) -> dict[int, list[int]]:
        """By each token that comes at some of the places, the places after those."""
        if self._following is None:
            self._following = {}
            # Clipped, so that a damaged file leads to wrong guesses, not to a crash.
            tokens = self._tokens.take(self._places, mode="clip").tolist()
            for token, place in zip(tokens, self._places, strict=True):
                if token >= 0:
                    self._following.setdefault(token, []).append(place + 1)
        return self._following

    @property
    def n_continued(self) -> int:
        """At how many of the places a token comes; at the others their text ends."""
        return sum(map(len, self.following().values()))

    def after(self, token: int) -> Places | None:
        """Those of the places where `token` comes, moved on behind it; None if there are none."""
        places = self.following().get(token)
        return None if places is None else Places(self._tokens, places, self.length + 1)


def vocab_fingerprint(pieces: Iterable[bytes]) -> str:
    """A short name of a vocabulary, from the bytes of its tokens in order: `model.vocab.pieces`."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    return digest.hexdigest()[:32]


def _checked_text(text: Tokens, index: int) -> Int32Array:
    try:
        tokens = np.asarray(text)
    except ValueError as error:
        raise DraftError(f"text {index} of the corpus is no flat run of tokens: {error}") from error
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise DraftError(
            f"text {index} of the corpus has shape {tokens.shape} and dtype {tokens.dtype}; give "
            "token ids of shape (n,) for each text: a single one is [tokens]"
        )
    if tokens.size and not (tokens.min() >= 0 and tokens.max() <= _MAX_TOKEN):
        raise DraftError(
            f"text {index} of the corpus has token ids from {tokens.min()} to {tokens.max()}; "
            f"a token id lies between 0 and {_MAX_TOKEN}"
        )
    return tokens.astype(np.int32)


def _places_in_order(tokens: Int32Array) -> Int32Array:
    """All places, sorted by what stands before them; of equal ones the first in the text first."""
    is_place = np.zeros(len(tokens), np.bool_)
    is_place[1:] = (tokens[:-1] != _TEXT_END) & (tokens[1:] != _TEXT_END)
    places = np.flatnonzero(is_place).astype(np.int32)
    order = np.argsort(_ranks_backwards(tokens)[places - 1], kind="stable")
    return places[order]


def _ranks_backwards(tokens: Int32Array) -> NDArray[np.int64]:
    """Of each token, the rank of the run that ends there among all runs, read backwards.

    Runs have 64 tokens or reach to the beginning. Prefix doubling (Manber and Myers 1993): the
    ranks of runs of one length order those of twice the length by pairs.
    """
    ranks = _dense_ranks(tokens)
    length = 1
    while length < _SORTED_LENGTH:
        pairs = ranks * (len(tokens) + 1)
        pairs[length:] += ranks[:-length]
        ranks = _dense_ranks(pairs)
        length *= 2
    return ranks


def _dense_ranks(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Of each value, its rank among the different ones, from 1: 0 is left for nothing."""
    ranks: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64) + 1
    return ranks


def _n_common(tokens: list[int], others: list[int]) -> int:
    """Length of the longest common prefix."""
    pairs = enumerate(zip(tokens, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(tokens), len(others)))
