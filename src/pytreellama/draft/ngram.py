"""The n-gram drafter: counted continuations of the last tokens, in this text and others."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from pytreellama.draft.best_first import grow_best_first
from pytreellama.draft.escape import EscapeTable
from pytreellama.draft.ngram_table import Context, NGramTable
from pytreellama.draft.options import require_at_least_1, require_probability
from pytreellama.draft.protocol import Tokens, checked_n_nodes, checked_tokens
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown


@dataclass(frozen=True, slots=True)
class NGramOptions:
    """Options of the n-gram drafter; lengths in tokens. Raises ``DraftError`` if out of range."""

    min_n: int = 1
    """Shortest context whose continuations are proposed; at least 1."""
    max_n: int = 4
    """Longest context that is told apart; at least `min_n`."""
    max_depth: int = 32
    """Longest path proposed; at least 1."""
    max_fanout: int = 16
    """Continuations of one context that are looked at in each table, the latest first."""
    min_p: float = 0.1
    """Nodes whose path probability is lower are not proposed; in [0, 1]."""
    max_entries: int = 1 << 17
    """Entries of the text's own table, and of the dynamic one; see NGramTable."""
    dynamic_worth: float = 8.0
    """However often the dynamic table saw a context, it counts for less than so many occurrences
    in the text itself; above 0."""
    static_worth: float = 2.0
    """The same for the static table."""

    def __post_init__(self) -> None:
        require_at_least_1(
            min_n=self.min_n,
            max_depth=self.max_depth,
            max_fanout=self.max_fanout,
            max_entries=self.max_entries,
        )
        if self.max_n < self.min_n:
            raise DraftError(f"invalid max_n={self.max_n}: expected at least min_n={self.min_n}")
        require_probability(min_p=self.min_p)
        for name in ("dynamic_worth", "static_worth"):
            if not getattr(self, name) > 0.0:
                raise DraftError(f"invalid {name}={getattr(self, name)}: expected more than 0")


@dataclass(frozen=True, slots=True)
class Trust:
    """Learned escapes, by the first of the three tables that knows a context."""

    own: EscapeTable = field(default_factory=EscapeTable)
    dynamic: EscapeTable = field(default_factory=EscapeTable)
    static: EscapeTable = field(default_factory=EscapeTable)


class _Source(NamedTuple):
    """A table, and how far to believe it."""

    table: NGramTable
    worth: float
    has_text: bool
    """Whether the text's own n-grams are in the table too."""
    escapes: EscapeTable
    """For contexts that no source before this one knows."""


class _Offer(NamedTuple):
    """What the tables say of one context, less the tokens that longer ones offered."""

    weights: dict[int, float]
    """Of every token that is new here; they sum to no more than `n_left`."""
    n_left: float
    """Weighted occurrences of the context that did not go on with a token of a longer one."""
    kind: tuple[int, int, int, bool]
    """Length, occurrences, new tokens, whether a longer context offered any: see EscapeTable."""
    escapes: EscapeTable
    asked: list[dict[int, int]]
    """What the tables counted behind the context."""

    def learn(self, token: int) -> bool:
        """Note whether `token`, which came next, was known here; return that."""
        hit = any(token in counts for counts in self.asked)
        self.escapes.learn(*self.kind, was_escape=not hit)
        return hit


class NGramDrafter:
    """Proposes what followed the last `max_n` to `min_n` tokens in any of three tables.

    The text's own table knows this text; the dynamic one every text of the drafter's factory, this
    one too; the static one a corpus. What they counted behind a context is added up: the text's
    own occurrences at their number, another table's n occurrences at n w / (n + w), where w is the
    table's worth. So a few occurrences elsewhere count nearly as much as here, but however many
    they are, never more than w of the text's own: a text is the best sample of itself, earlier
    texts share its user and its model, a corpus neither. (w is the concentration of a Dirichlet
    prior that is itself only as sure as its n draws.)

    Contexts are tried from the longest to the shortest. What one leaves to tokens it has not
    shown, its escape probability, goes to the next, which offers other tokens: prediction by
    partial matching with exclusion (PPM, Cleary and Witten 1984). Escapes are learned as texts go
    on, separately for contexts that the text itself knows, that otherwise the dynamic table knows,
    and that only the static one does: so each is believed as far as it came true.

    A path's probability is the product of its tokens' shares: it never rises with depth, and
    siblings never sum to more than their parent. The tree takes the likeliest paths first, until
    `n_nodes` or `min_p`.

    observe() costs amortised O(1) a token, propose() O(1) a node, whatever the tables hold.

    Source of the three tables: lookup decoding in llama.cpp's examples. Drafting by n-grams of the
    text: Prompt Lookup Decoding (Saxena 2023), ANPD (arXiv 2404.08698).

    Args:
        options: how to search.
        dynamic: a table that learns this text too, shared with others, if there is one.
        static: a table that is only read, if there is one.
        trust: escapes that this text teaches too, shared with others; by default its own.
    """

    __slots__ = ("_context", "_dynamic", "_options", "_own", "_sources", "_static", "_trust")

    name = "ngram"

    def __init__(
        self,
        options: NGramOptions | None = None,
        dynamic: NGramTable | None = None,
        static: NGramTable | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._options = NGramOptions() if options is None else options
        self._dynamic = dynamic
        self._static = static
        self._trust = trust
        self.reset()

    @property
    def options(self) -> NGramOptions:
        """What this drafter was made with."""
        return self._options

    def reset(self) -> None:
        """Forget the text; what is shared with other drafters keeps what it learned."""
        options, trust = self._options, self._trust or Trust()
        self._context: Context = ()
        self._own = NGramTable(options.min_n, options.max_n, options.max_entries)
        self._sources = [_Source(self._own, math.inf, True, trust.own)]
        if self._dynamic is not None:
            worth = options.dynamic_worth
            self._sources.append(_Source(self._dynamic, worth, True, trust.dynamic))
        if self._static is not None:
            self._sources.append(_Source(self._static, options.static_worth, False, trust.static))

    def observe(self, tokens: Tokens) -> None:
        """Observe committed text, shape (n,); raises ``DraftError`` if not token ids."""
        for token in checked_tokens(tokens):
            self._learn_escapes(token)
            self._own.learn(self._context, token)
            if self._dynamic is not None:
                self._dynamic.learn(self._context, token)
            self._context = self._moved(self._context, token)

    def _learn_escapes(self, token: int) -> None:
        """Score each context that `token` is about to follow, down to the first that knew it."""
        for offer in self._offers(self._context):
            if offer.learn(token):
                return

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes; raises ``DraftError`` if ``n_nodes`` < 0."""
        return self.grow_likely(n_nodes, self._options.min_p).tree()

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """Propose nodes of at least ``min_p``; raises ``DraftError`` if ``n_nodes`` < 0."""
        if checked_n_nodes(n_nodes) == 0:
            return NOTHING
        return grow_best_first(
            self._context,
            self._continuations,
            n_nodes=n_nodes,
            max_depth=self._options.max_depth,
            min_p=min_p,
        )

    def _continuations(
        self, context: Context, p_path: float, depth: int, min_p: float
    ) -> list[tuple[int, float, Context]]:
        """Tokens that followed `context` or its end, with path probabilities from `min_p`."""
        found: list[tuple[int, float, Context]] = []
        for offer in self._offers(context):
            p_escape = offer.escapes.p_escape(*offer.kind)
            share = p_path * (1.0 - p_escape) / offer.n_left
            for token, weight in offer.weights.items():
                p_token = share * weight
                if p_token >= min_p:
                    found.append((token, p_token, self._moved(context, token)))
            p_path *= p_escape
            if p_path < min_p:
                break
        return found

    def _offers(self, context: Context) -> Iterator[_Offer]:
        """What the tables say of the end of `context`, at each length, the longest first."""
        offered: set[int] = set()
        for length in range(len(context), self._options.min_n - 1, -1):
            offer = self._offer(context[-length:], offered)
            if offer is not None:
                yield offer
                offered.update(offer.weights)

    def _offer(self, context: Context, offered: set[int]) -> _Offer | None:
        """What the tables say of exactly `context`; None if that is nothing new."""
        weights: dict[int, float] = {}
        asked: list[dict[int, int]] = []
        n_first = 0
        n_weighted = n_offered = 0.0
        for table, worth, has_text, escapes_behind in self._sources:
            counts = table.following(context)
            if counts is None:
                continue
            n_seen = table.n_seen(context)
            if not asked:
                n_first, escapes = n_seen, escapes_behind
            elif has_text and n_seen == n_first:
                continue  # it has this text too, and saw the context nowhere else
            asked.append(counts)
            weight = 1.0 / (1.0 + n_seen / worth)
            n_weighted += weight * n_seen
            if offered:
                n_offered += weight * sum([counts.get(token, 0) for token in offered])
            for token in islice(reversed(counts), self._options.max_fanout):
                if token not in offered:
                    weights[token] = weights.get(token, 0.0) + weight * counts[token]
        if not weights:
            return None
        kind = (len(context), int(n_weighted), len(weights), bool(offered))
        return _Offer(weights, n_weighted - n_offered, kind, escapes, asked)

    def _moved(self, context: Context, token: int) -> Context:
        return (*context, token)[-self._options.max_n :]


class NGram:
    """Factory of n-gram drafters that share what they learn.

    The tables belong to one vocabulary: use one factory per model. To keep what was learned, save
    ``dynamic``, and pass ``NGramTable.load(path)`` next time.

    Example:
        drafter = NGram(max_n=5)
        engine = Engine(model, drafter=drafter)
        drafter.dynamic.save("learned.npz")

    Args:
        options: options of the search; by default ``NGramOptions()``.
        static: a read-only table of a corpus, or the path of a saved one.
        dynamic: a table to continue; by default an empty one. Every sequence's text is added.
        changes: fields of ``NGramOptions`` that replace those in ``options``.

    Raises:
        DraftError: options out of range, or no table at the path.
    """

    __slots__ = ("_trust", "dynamic", "options", "static")

    def __init__(
        self,
        options: NGramOptions | None = None,
        *,
        static: NGramTable | str | os.PathLike[str] | None = None,
        dynamic: NGramTable | None = None,
        **changes: Any,
    ) -> None:
        self.options = replace(options or NGramOptions(), **changes)
        self.static = static if static is None else _as_table(static)
        self.dynamic = self._empty_table() if dynamic is None else dynamic
        # Shared, so that a text of few tokens need not learn first how far to believe the tables.
        self._trust = Trust()

    def __call__(self) -> NGramDrafter:
        """Return a fresh drafter for one sequence."""
        return NGramDrafter(self.options, self.dynamic, self.static, self._trust)

    def _empty_table(self) -> NGramTable:
        return NGramTable(self.options.min_n, self.options.max_n, self.options.max_entries)


def _as_table(table: NGramTable | str | os.PathLike[str]) -> NGramTable:
    return table if isinstance(table, NGramTable) else NGramTable.load(table)
