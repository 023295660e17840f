"""An online suffix automaton over a growing token text, with occurrence counts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pytreellama.errors import DraftError

ROOT = 0
_NO_STATE = -1


class SuffixAutomaton:
    """Knows every substring of the text so far, where it leads, and how often it occurred.

    A state stands for all substrings that end at the same places in the text. Its suffix link
    leads to the state of the longest shorter suffix that ends at more places. Appending a token
    costs amortised O(1) states and transitions; n tokens make at most 2n states and 3n
    transitions.

    Counts are exact for every substring of at most `counted_length` tokens. To keep them so, an
    append walks the suffix links from the last `counted_length` tokens down to the root and adds
    one to each state: at most `counted_length` steps, in ordinary text about log(n). Substrings
    that are all longer than that are found, but not counted.

    Source: A. Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985);
    its use for drafting: SAM Decoding (arXiv 2411.10666).
    """

    __slots__ = (
        "_counted_length",
        "_counts",
        "_last",
        "_lengths",
        "_links",
        "_recent",
        "_recent_length",
        "_transitions",
    )

    def __init__(self, counted_length: int) -> None:
        """Start with the empty text; raises DraftError unless `counted_length` >= 1 tokens."""
        if counted_length < 1:
            raise DraftError(f"invalid counted_length={counted_length}: expected at least 1")
        self._counted_length = counted_length
        # Parallel lists, indexed by state.
        self._transitions: list[dict[int, int]] = [{}]
        self._links: list[int] = [_NO_STATE]
        self._lengths: list[int] = [0]
        self._counts: list[int] = [0]
        self._last = ROOT
        # The state of the last `counted_length` tokens (of the whole text while it is shorter).
        self._recent = ROOT
        self._recent_length = 0

    @property
    def n_tokens(self) -> int:
        """Tokens in the text so far."""
        return self._lengths[self._last]

    @property
    def n_states(self) -> int:
        """States in use, the root included: at most 2 * n_tokens (2 for a text of one token)."""
        return len(self._lengths)

    def append(self, token: int) -> None:
        """Add one token to the end of the text, in amortised O(1) plus the counting walk."""
        transitions, links, lengths = self._transitions, self._links, self._lengths
        new = len(lengths)
        transitions.append({})
        lengths.append(lengths[self._last] + 1)
        self._counts.append(0)

        state = self._last
        while state != _NO_STATE and token not in transitions[state]:
            transitions[state][token] = new
            state = links[state]
        if state == _NO_STATE:
            links.append(ROOT)
        else:
            target = transitions[state][token]
            if lengths[target] == lengths[state] + 1:
                links.append(target)
            else:
                links.append(_NO_STATE)
                links[new] = self._split(state, token, target)
        self._last = new
        self._advance_recent(token)
        self._count_recent()

    def _split(self, state: int, token: int, target: int) -> int:
        """Part the substrings of `target` that now also end here from those that do not."""
        transitions, links, lengths = self._transitions, self._links, self._lengths
        clone = len(lengths)
        transitions.append(transitions[target].copy())
        links.append(links[target])
        lengths.append(lengths[state] + 1)
        self._counts.append(self._counts[target])
        links[target] = clone
        while state != _NO_STATE and transitions[state].get(token) == target:
            transitions[state][token] = clone
            state = links[state]
        return clone

    def _advance_recent(self, token: int) -> None:
        if self._recent_length < self._counted_length:
            self._recent = self._last
            self._recent_length += 1
            return
        # One token longer than needed; and if a split just took the old state apart, both parts
        # lead to the same next one.
        state = self._transitions[self._recent][token]
        while self._lengths[self._links[state]] >= self._counted_length:
            state = self._links[state]
        self._recent = state

    def _count_recent(self) -> None:
        counts, links = self._counts, self._links
        state = self._recent
        while state > ROOT:
            counts[state] += 1
            state = links[state]

    def longest_match(self, max_length: int) -> tuple[int, int]:
        """State and length of the longest suffix of the text that also occurs earlier in it.

        Occurrences may overlap. A longer match is cut to its last `max_length` tokens, which must
        not exceed `counted_length`. No match is (ROOT, 0). The last state holds exactly the
        suffixes that end nowhere else, so its suffix link is the answer.
        """
        if self._last == ROOT:
            return ROOT, 0
        links, lengths = self._links, self._lengths
        state = links[self._last]
        if lengths[state] <= max_length:
            return state, lengths[state]
        state = self._recent
        while lengths[links[state]] >= max_length:
            state = links[state]
        return state, max_length

    def shorter(self, state: int) -> tuple[int, int]:
        """State and length of the longest suffix of `state` that occurs at more places."""
        link = self._links[state]
        return link, self._lengths[link]

    def ending_states(self) -> set[int]:
        """States of all suffixes of the text, up to `counted_length` tokens, the root excluded."""
        ending = set()
        state = self._recent
        while state > ROOT:
            ending.add(state)
            state = self._links[state]
        return ending

    def count(self, state: int) -> int:
        """How often the state's substrings of at most `counted_length` tokens occur."""
        return self._counts[state]

    def following(self, state: int) -> dict[int, int]:
        """Every token that ever followed `state`, and the state it leads to. Do not change it."""
        return self._transitions[state]

    def latest_following(self, state: int, n_tokens: int) -> Iterator[int]:
        """At most `n_tokens` tokens that followed `state`, the latest marked or new one first."""
        return islice(reversed(self._transitions[state]), n_tokens)

    def mark_latest(self, state: int, token: int) -> None:
        """Put `token` first among those that `latest_following` gives."""
        following = self._transitions[state]
        following[token] = following.pop(token)
