"""The suffix drafter: what followed the same words before, in the prompt or in the output."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

from pytreellama.draft.automaton import SuffixAutomaton
from pytreellama.draft.escape import EscapeTable
from pytreellama.draft.protocol import EMPTY_TREE, Tokens, checked_n_nodes, checked_tokens
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree


@dataclass(frozen=True, slots=True)
class SuffixOptions:
    """How the suffix drafter searches; all lengths in tokens. Raises DraftError if out of range."""

    min_match: int = 1
    """Shortest suffix of the text whose earlier continuations count as a guess; at least 1."""
    max_match: int = 32
    """Longest suffix that is told apart; at least `min_match`."""
    max_depth: int = 64
    """Longest path proposed; at least 1."""
    max_fanout: int = 32
    """Continuations of one context that are looked at, the latest first; at least 1."""
    min_p: float = 0.1
    """Nodes whose path probability is lower are not proposed; in [0, 1]."""

    def __post_init__(self) -> None:
        for name in ("min_match", "max_depth", "max_fanout"):
            if getattr(self, name) < 1:
                raise DraftError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.max_match < self.min_match:
            raise DraftError(
                f"max_match is {self.max_match}; it must be min_match ({self.min_match}) or more"
            )
        if not 0.0 <= self.min_p <= 1.0:
            raise DraftError(f"min_p is {self.min_p}; it must lie between 0 and 1")


class _Context(NamedTuple):
    """Earlier occurrences of the end of a text: an automaton state, read at one length."""

    state: int
    length: int


class _Guess(NamedTuple):
    """A node that may join the tree. Ordered so that a heap gives the likeliest, oldest first."""

    minus_p: float
    order: int
    token: int
    parent: int
    depth: int
    context: _Context


class SuffixDrafter:
    """Proposes the continuations of the longest suffixes of the text that occurred before.

    Contexts are tried from the longest match down along suffix links. In each, a token's share is
    its count among the tokens that no longer context offered; what the context leaves to tokens it
    has not shown (its escape probability) goes to the next shorter one. That is prediction by
    partial matching with exclusion (PPM, Cleary and Witten 1984), with learned escapes. The tree
    takes the likeliest paths first, until `n_nodes` or `min_p`.

    A path is always one that the text took before: at depth d only contexts are used that still
    hold `min_match` tokens of the text in front of the d guesses.

    observe() costs amortised O(1) per token (see SuffixAutomaton), propose() O(1) per node,
    whatever the text's length.

    Source: SAM Decoding (arXiv 2411.10666); SuffixDecoding (arXiv 2411.04975).
    """

    __slots__ = ("_automaton", "_escapes", "_options")

    name = "suffix"

    def __init__(self, options: SuffixOptions | None = None) -> None:
        self._options = SuffixOptions() if options is None else options
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

    def observe(self, tokens: Tokens) -> None:
        """Hear committed text, shape (n,); raises DraftError, keeping nothing, if not token ids."""
        for token in checked_tokens(tokens):
            self._learn_escapes(token)
            self._automaton.append(token)

    def _learn_escapes(self, token: int) -> None:
        """Score each context that `token` is about to follow, down to the first that knew it."""
        automaton, options = self._automaton, self._options
        n_known = 0
        state, length = automaton.longest_match(options.max_match)
        while length >= options.min_match:
            following = automaton.following(state)
            n_new = len(following) - n_known
            if n_new:
                hit = token in following
                n_seen = automaton.count(state) - 1
                self._escapes.learn(length, n_seen, n_new, n_known > 0, not hit)
                if hit:
                    if len(following) > options.max_fanout:
                        automaton.mark_latest(state, token)
                    return
                n_known += n_new
            state, length = automaton.shorter(state)

    def propose(self, n_nodes: int) -> TokenTree:
        """Guess what follows, in at most `n_nodes` nodes; see Drafter. Raises DraftError if < 0."""
        checked_n_nodes(n_nodes)
        start = _Context(*self._automaton.longest_match(self._options.max_match))
        if n_nodes == 0 or start.length < self._options.min_match:
            return EMPTY_TREE
        return _as_tree(self._grow(start, n_nodes))

    def _grow(self, start: _Context, n_nodes: int) -> list[_Guess]:
        """The likeliest guesses in falling order; each one's parent is an index into the list."""
        ending = self._automaton.ending_states()
        grown: list[_Guess] = []
        heap: list[_Guess] = []
        n_guesses = 0
        context, p, parent, depth = start, 1.0, -1, 0
        while True:
            if depth < self._options.max_depth:
                for token, p_path, longer in self._continuations(context, p, depth, ending):
                    guess = _Guess(-p_path, n_guesses, token, parent, depth, longer)
                    heapq.heappush(heap, guess)
                    n_guesses += 1
            if not heap or len(grown) == n_nodes:
                return grown
            best = heapq.heappop(heap)
            context, p, parent, depth = best.context, -best.minus_p, len(grown), best.depth + 1
            grown.append(best)

    def _continuations(
        self, context: _Context, p_path: float, depth: int, ending: set[int]
    ) -> list[tuple[int, float, _Context]]:
        """Tokens that followed `context` or a suffix of it, with their path probabilities."""
        automaton, options = self._automaton, self._options
        found: list[tuple[int, float, _Context]] = []
        known: set[int] = set()
        n_known = 0
        state, length = context
        while length >= options.min_match + depth and p_path >= options.min_p:
            following = automaton.following(state)
            n_new = len(following) - n_known
            if n_new:
                # The occurrence at the very end of the text has no continuation yet.
                n_seen = automaton.count(state) - (state in ending)
                p_escape = self._escapes.p_escape(length, n_seen, n_new, n_known > 0)
                n_left = n_seen - sum(automaton.count(following[token]) for token in known)
                share = p_path * (1.0 - p_escape) / n_left
                for token in automaton.latest_following(state, options.max_fanout):
                    if token in known:
                        continue
                    known.add(token)
                    longer = _Context(following[token], length + 1)
                    p_token = share * automaton.count(longer.state)
                    if p_token >= options.min_p:
                        found.append((token, p_token, longer))
                p_path *= p_escape
                n_known += n_new
            state, length = automaton.shorter(state)
        return found


@dataclass(frozen=True, slots=True)
class Suffix(SuffixOptions):
    """Makes suffix drafters, one for each sequence: `Engine(model, drafter=Suffix(min_p=0.3))`."""

    def __call__(self) -> SuffixDrafter:
        """Return a fresh drafter with these options."""
        return SuffixDrafter(self)


def _as_tree(grown: list[_Guess]) -> TokenTree:
    if not grown:
        return EMPTY_TREE
    return TokenTree.from_parents(
        [guess.token for guess in grown],
        [guess.parent for guess in grown],
        p=[-guess.minus_p for guess in grown],
    )
