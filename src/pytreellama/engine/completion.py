"""What a generation gives back: chunks while it runs, a completion with statistics at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytreellama.plan import Plan
from pytreellama.tree import TokenTree

FinishReason = Literal["stop", "length", "context", "cancelled"]
"""``stop``: an end token or a stop string; ``length``: max_tokens; ``context``: no room left;
``cancelled``: as its user asked."""


@dataclass(frozen=True, slots=True)
class TokenLogp:
    """How likely the model held a token that was written.

    Attributes:
        token: its id.
        logp: natural logarithm of its probability, at temperature 1 and before any sampler.
        top: the likeliest tokens there with theirs, falling, as many as were asked for.
    """

    token: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One verified tree, for whoever watches (``on_step``).

    Attributes:
        index: which prompt of the call it belongs to.
        tree: node 0 is the text's last token, the drafted nodes are below it.
        path: accepted nodes, node 0 included.
        tokens: what was drawn, one for each node of the path: the text goes on with them, but for
            an end token, or what follows a stop string.
        plan: why the tree is as it is, where it was planned (``drafter="auto"``).
        logprobs: one for each of the tokens, if asked for.
    """

    index: int
    tree: TokenTree
    path: tuple[int, ...]
    tokens: tuple[int, ...]
    plan: Plan | None = None
    logprobs: tuple[TokenLogp, ...] | None = None


@dataclass(slots=True)
class DrafterStats:
    """What one drafter of a planned tree brought; a guess that several propose counts for each."""

    n_drafted: int = 0
    n_accepted: int = 0


@dataclass(slots=True)
class Stats:
    """Where a generation's time went, and what its trees brought. Seconds; counts of tokens.

    A pass that served several sequences is charged to each by its share of the nodes.

    Attributes:
        n_shared: prompt tokens that another sequence had in the cache already.
        n_preempted: times that it had to leave the cache to others.
        is_lossy: was the text verified by a rule that changes it (``verify="typical"``)?
        n_expected: of planned trees, how many drafted tokens were expected to be accepted.
        plan_s: choosing trees; part of neither drafting nor passes.
        drafters: of planned trees, what each drafter brought, by its name.
    """

    n_prompt: int = 0
    n_shared: int = 0
    n_preempted: int = 0
    is_lossy: bool = False
    n_tokens: int = 0
    n_steps: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_expected: float = 0.0
    prefill_s: float = 0.0
    draft_s: float = 0.0
    plan_s: float = 0.0
    target_s: float = 0.0
    verify_s: float = 0.0
    total_s: float = 0.0
    tree_sizes: list[int] = field(default_factory=list)
    drafters: dict[str, DrafterStats] = field(default_factory=dict)

    def count_plan(self, plan: Plan, tokens: Sequence[int]) -> None:
        """Count who proposed what was verified, and what of it the text went on with."""
        self.n_expected += plan.n_expected
        for names in map(plan.candidates.names_of, plan.nodes):
            for name in names:
                self.drafters.setdefault(name, DrafterStats()).n_drafted += 1
        for names in map(plan.candidates.names_of, plan.path(tokens)):
            for name in names:
                self.drafters[name].n_accepted += 1

    def count_step(self, n_nodes: int, n_accepted: int) -> None:
        """Count a verified tree: its root was text already, the others were drafted."""
        self.n_steps += 1
        self.n_drafted += n_nodes - 1
        self.n_accepted += n_accepted
        self.tree_sizes.append(n_nodes)

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one pass of the target brought, its own included: 1.0 is plain decoding."""
        return self.n_tokens / self.n_steps if self.n_steps else 0.0

    @property
    def decode_s(self) -> float:
        """Seconds from the end of prefill to the last token."""
        return max(self.total_s - self.prefill_s, 0.0)

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, prefill left out."""
        return self.n_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def overhead_s(self) -> float:
        """Seconds that went neither into passes nor into drafting and verifying."""
        known = self.prefill_s + self.draft_s + self.plan_s + self.target_s + self.verify_s
        return max(self.total_s - known, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """All fields and rates, for JSON."""
        rates = ("tokens_per_step", "tokens_per_s", "decode_s", "overhead_s")
        return asdict(self) | {name: getattr(self, name) for name in rates}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of text that is certain, as ``Engine.stream`` yields it.

    Attributes:
        text: new text; empty while a stop string or an unfinished character is held back.
        tokens: the tokens behind it; text may lag behind tokens by an unfinished character.
        logprobs: one for each of the tokens, if asked for.
        finish_reason: None until the last chunk.
        stats: the whole generation's, in the last chunk only.
        seed: what the sampler was seeded with, in the last chunk only.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogp, ...] | None = None
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    seed: int | None = None

    @classmethod
    def joined(cls, chunks: Sequence[Chunk]) -> Chunk:
        """Neighbouring pieces as one; at least one."""
        last = chunks[-1]
        if len(chunks) == 1:
            return last
        logprobs = None
        if last.logprobs is not None:
            logprobs = tuple(one for chunk in chunks for one in chunk.logprobs or ())
        return cls(
            "".join(chunk.text for chunk in chunks),
            tuple(token for chunk in chunks for token in chunk.tokens),
            logprobs,
            last.finish_reason,
            last.stats,
            last.seed,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation.

    Attributes:
        text: the continuation, without the prompt, end tokens and stop strings.
        tokens: its tokens, end tokens left out.
        finish_reason: why it ended.
        seed: what the sampler was seeded with; the same seed, request and engine give the same
            text again.
        stats: see ``Stats``.
        logprobs: one for each token, if asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    stats: Stats
    logprobs: tuple[TokenLogp, ...] | None = None
