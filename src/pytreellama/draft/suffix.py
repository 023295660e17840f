"""The suffix drafter: continuations of earlier occurrences of the text's end."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from pytreellama.draft.automaton import ROOT, SuffixAutomaton
from pytreellama.draft.best_first import grow_best_first
from pytreellama.draft.corpus import Corpus, Places
from pytreellama.draft.corpus_reader import CorpusReader
from pytreellama.draft.escape import EscapeTable
from pytreellama.draft.options import require_at_least_1, require_probability
from pytreellama.draft.protocol import Tokens, checked_n_nodes, checked_tokens
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown


@dataclass(frozen=True, slots=True)
class SuffixOptions:
    """Options of the suffix drafter; lengths in tokens. Raises ``DraftError`` if out of range."""

    min_match: int = 1
    """Shortest suffix of the text whose earlier continuations are proposed; at least 1."""
    max_match: int = 32
    """Longest suffix that is told apart; at least `min_match`."""
    max_depth: int = 64
    """Longest path proposed; at least 1."""
    max_fanout: int = 32
    """Continuations of one context that are looked at, the latest first; at least 1."""
    min_p: float = 0.1
    """Nodes whose path probability is lower are not proposed; in [0, 1]."""

    def __post_init__(self) -> None:
        require_at_least_1(
            min_match=self.min_match, max_depth=self.max_depth, max_fanout=self.max_fanout
        )
        if self.max_match < self.min_match:
            raise DraftError(
                f"invalid max_match={self.max_match}: expected at least min_match={self.min_match}"
            )
        require_probability(min_p=self.min_p)


class _Context(NamedTuple):
    """Earlier occurrences of the end of a text: an automaton state, read at one length."""

    state: int
    length: int
    places: Places | None = None
    """Occurrences of that end in the corpus, whatever their length."""


class SuffixDrafter:
    """Proposes the continuations of the longest suffixes of the text that occurred before.

    Contexts are tried from the longest match down along suffix links. In each, a token's share is
    its count among the tokens that no longer context offered; what the context leaves to tokens it
    has not shown (its escape probability) goes to the next shorter one. That is prediction by
    partial matching with exclusion (PPM, Cleary and Witten 1984), with learned escapes. The tree
    takes the likeliest paths first, until `n_nodes` or `min_p`.

    A path is always one that the text took before: at depth d only contexts are used that still
    hold `min_match` tokens of the text before the d draft tokens.

    With a corpus, the places behind the longest match there are one context more. Where they match
    more tokens than the text's own longest context does, they are asked before it.

    observe() costs amortised O(1) per token (see SuffixAutomaton), propose() O(1) per node,
    whatever the text's length; with a corpus of n tokens, O(log n) more per observed token.

    Source: SAM Decoding (arXiv 2411.10666); SuffixDecoding (arXiv 2411.04975); with a corpus, REST
    (arXiv 2311.08252).
    """

    __slots__ = ("_automaton", "_corpus", "_escapes", "_options", "_reader")

    name = "suffix"

    def __init__(self, options: SuffixOptions | None = None, corpus: Corpus | None = None) -> None:
        self._options = SuffixOptions() if options is None else options
        self._corpus = corpus
        self.reset()

    @property
    def options(self) -> SuffixOptions:
        """What this drafter was made with."""
        return self._options

    @property
    def match_length(self) -> int:
        """Tokens in the longest suffix of the text that occurs earlier, up to `max_match`."""
        return self._automaton.longest_match(self._options.max_match)[1]

    def reset(self) -> None:
        """Forget the text and everything learned from it."""
        # Guessed paths are counted too, so that a deep node's share is as exact as a root's.
        self._automaton = SuffixAutomaton(self._options.max_match + self._options.max_depth)
        self._escapes = EscapeTable()
        self._reader = None if self._corpus is None else self._reader_of(self._corpus)

    def _reader_of(self, corpus: Corpus) -> CorpusReader:
        return CorpusReader(corpus, self._options.min_match, self._options.max_match)

    def observe(self, tokens: Tokens) -> None:
        """Observe committed text, shape (n,); raises ``DraftError`` if not token ids."""
        for token in checked_tokens(tokens):
            self._learn_escapes(token)
            self._automaton.append(token)
            if self._reader is not None:
                self._reader.append(token)

    def _learn_escapes(self, token: int) -> None:
        """Score each context that `token` is about to follow, down to the first that knew it."""
        automaton, options = self._automaton, self._options
        state, length = automaton.longest_match(options.max_match)
        offered = self._learn_corpus_escape(token, length)
        if token in offered:
            return
        longer: Collection[int] = ()
        while length >= options.min_match:
            following = automaton.following(state)
            n_new = _n_new(following, longer, offered)
            if n_new:
                hit = token in following
                n_seen = automaton.count(state) - 1
                escaped = bool(longer or offered)
                self._escapes.learn(length, n_seen, n_new, escaped, not hit)
                if hit:
                    if len(following) > options.max_fanout:
                        automaton.mark_latest(state, token)
                    return
            longer = following
            state, length = automaton.shorter(state)

    def _learn_corpus_escape(self, token: int, own_length: int) -> Collection[int]:
        """Score the corpus, if it is to be asked before a match of `own_length`; its tokens."""
        if self._reader is None:
            return ()
        places = self._reader.longest_match()
        if places is None or places.length <= own_length:
            return ()
        self._reader.learn(places, token)
        return places.following()

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes; raises ``DraftError`` if ``n_nodes`` < 0."""
        return self.grow_likely(n_nodes, self._options.min_p).tree()

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """Propose nodes of at least ``min_p``; raises ``DraftError`` if ``n_nodes`` < 0."""
        start = self._start()
        if checked_n_nodes(n_nodes) == 0 or start is None:
            return NOTHING
        ending = self._automaton.ending_states()

        def continuations(
            context: _Context, p_path: float, depth: int, least: float
        ) -> list[tuple[int, float, _Context]]:
            return self._continuations(context, p_path, depth, ending, least)

        return grow_best_first(
            start, continuations, n_nodes=n_nodes, max_depth=self._options.max_depth, min_p=min_p
        )

    def _start(self) -> _Context | None:
        """The context of the text's end; None if nothing there occurred before."""
        places = None if self._reader is None else self._reader.longest_match()
        state, length = self._automaton.longest_match(self._options.max_match)
        if length < self._options.min_match and places is None:
            return None
        return _Context(state, length, places)

    def _continuations(
        self, context: _Context, p_path: float, depth: int, ending: set[int], min_p: float
    ) -> list[tuple[int, float, _Context]]:
        """Tokens that followed `context` or a suffix of it, with their path probabilities."""
        automaton, options = self._automaton, self._options
        found: list[tuple[int, float, _Context]] = []
        state, length, places = context
        offered: Collection[int] = ()
        if places is not None and places.length > length and places.following():
            offered = places.following()
            found, p_path = self._corpus_continuations(context, places, p_path, depth, min_p)
        known = set(offered)
        longer: Collection[int] = ()
        while length >= options.min_match + depth and p_path >= min_p:
            following = automaton.following(state)
            n_new = _n_new(following, longer, offered)
            if n_new:
                # The occurrence at the very end of the text has no continuation yet.
                n_seen = automaton.count(state) - (state in ending)
                p_escape = self._escapes.p_escape(length, n_seen, n_new, bool(known))
                n_left = n_seen - sum(
                    automaton.count(following[token]) for token in known if token in following
                )
                share = p_path * (1.0 - p_escape) / n_left
                for token in automaton.latest_following(state, options.max_fanout):
                    if token in known:
                        continue
                    known.add(token)
                    p_token = share * automaton.count(following[token])
                    if p_token >= min_p:
                        after = None if places is None else places.after(token)
                        found.append(
                            (token, p_token, _Context(following[token], length + 1, after))
                        )
                p_path *= p_escape
            longer = following
            state, length = automaton.shorter(state)
        return found

    def _corpus_continuations(
        self, context: _Context, places: Places, p_path: float, depth: int, min_p: float
    ) -> tuple[list[tuple[int, float, _Context]], float]:
        """Tokens that followed in the corpus, with path probabilities, and what escapes them."""
        assert self._reader is not None
        p_escape = self._reader.p_escape(places)
        share = p_path * (1.0 - p_escape) / places.n_continued
        found = []
        for token, after in places.following().items():
            p_token = share * len(after)
            if p_token >= min_p:
                state, length = self._own_context_after(context, token, depth)
                found.append((token, p_token, _Context(state, length, places.after(token))))
        return found, p_path * p_escape

    def _own_context_after(self, context: _Context, token: int, depth: int) -> tuple[int, int]:
        """State and length of the longest suffix of `context` that `token` followed, with it."""
        automaton = self._automaton
        state, length = context.state, context.length
        while length >= self._options.min_match + depth:
            following = automaton.following(state)
            if token in following:
                return following[token], length + 1
            state, length = automaton.shorter(state)
        return ROOT, 0


@dataclass(frozen=True, slots=True)
class Suffix(SuffixOptions):
    """Factory of suffix drafters, one for each sequence.

    Example:
        engine = Engine(model, drafter=Suffix(min_p=0.3))
        engine = Engine(model, drafter=Suffix(corpus="notes.corpus"))

    Raises:
        DraftError: options out of range, or no corpus at the path.
    """

    corpus: Corpus | str | os.PathLike[str] | None = None
    """A ``Corpus`` of further texts to draft from, or the path of its file."""

    def __post_init__(self) -> None:
        SuffixOptions.__post_init__(self)
        # Opened at once, so that a wrong path is told here, and all sequences share the file.
        object.__setattr__(self, "corpus", _opened(self.corpus))

    def __call__(self) -> SuffixDrafter:
        """Return a fresh drafter with these options."""
        return SuffixDrafter(self, _opened(self.corpus))


def _opened(corpus: Corpus | str | os.PathLike[str] | None) -> Corpus | None:
    return corpus if corpus is None or isinstance(corpus, Corpus) else Corpus(corpus)


def _n_new(following: Collection[int], longer: Collection[int], offered: Collection[int]) -> int:
    """How many tokens of `following` are neither in `longer` nor in `offered`.

    `longer` is what followed a longer context, so all of it is in `following`.
    """
    n_new = len(following) - len(longer)
    if offered:
        n_new -= sum(token in following and token not in longer for token in offered)
    return n_new
