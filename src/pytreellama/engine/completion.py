"""Results of a generation: chunks while it runs, a completion with statistics at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pytreellama.chat.reply.message import Reply, ReplyDelta
from pytreellama.chat.reply.message import joined as joined_deltas
from pytreellama.engine.display import completion_html, stats_html
from pytreellama.plan import Plan
from pytreellama.tree import TokenTree

if TYPE_CHECKING:
    from pytreellama.model.vocab import Vocab

_EXCERPT = 60

FinishReason = Literal["stop", "length", "context", "cancelled"]
"""``stop``: an end token or a stop string; ``length``: max_tokens; ``context``: no room left in the
context; ``cancelled``: by the user."""


@dataclass(frozen=True, slots=True)
class TokenLogp:
    """Log-probability of one generated token.

    Attributes:
        token: its id.
        logp: natural logarithm of its probability, at temperature 1 and before any sampler.
        top: the likeliest tokens at its position with their log-probabilities, in descending order,
            as many as requested.
    """

    token: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One verified tree, as ``on_step`` receives it.

    Attributes:
        index: which prompt of the call it belongs to.
        tree: node 0 is the last token of the text, the draft nodes are its descendants.
        path: accepted nodes, node 0 included.
        tokens: what was drawn, one for each node of the path. They continue the text, except for an
            end token and tokens after a stop string.
        plan: why the tree is as it is, if trees are planned (``drafter="auto"``).
        logprobs: one for each of the tokens, if requested.
        vocab: of the tokens, for pictures.
    """

    index: int
    tree: TokenTree
    path: tuple[int, ...]
    tokens: tuple[int, ...]
    plan: Plan | None = field(default=None, repr=False)
    logprobs: tuple[TokenLogp, ...] | None = None
    vocab: Vocab | None = field(default=None, repr=False, compare=False)

    def _repr_svg_(self) -> str:
        """The tree with its words (token ids once the engine is closed), its path marked."""
        title = f"{len(self.path) - 1} of {len(self.tree) - 1} draft nodes accepted"
        is_open = self.vocab is not None and not self.vocab.owner.closed
        labels = self.vocab.piece_text if self.vocab is not None and is_open else None
        return self.tree.to_svg(labels, accepted=self.path, title=title)


@dataclass(slots=True)
class DrafterStats:
    """Draft nodes of one drafter; in planned trees, a node of several drafters counts for each."""

    n_drafted: int = 0
    n_accepted: int = 0


@dataclass(slots=True)
class Stats:
    """Times in seconds and counts of tokens of one request.

    The time of a pass for several requests is divided among them by numbers of nodes.

    Attributes:
        n_shared: prompt tokens whose keys and values another sequence had computed.
        n_preempted: how often the request was preempted.
        is_lossy: True if verified by a rule that changes the output (``verify="typical"``).
        n_expected: number of draft tokens that the planner expected to be accepted.
        plan_s: time to choose trees; part of neither drafting nor passes.
        drafters: draft nodes of each drafter, by name.
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
    tree_sizes: list[int] = field(default_factory=list, repr=False)
    drafters: dict[str, DrafterStats] = field(default_factory=dict)

    def count_plan(self, plan: Plan, tokens: Sequence[int]) -> None:
        """Count draft and accepted nodes of each drafter of a planned tree."""
        self.n_expected += plan.n_expected
        for names in map(plan.candidates.names_of, plan.nodes):
            for name in names:
                self.drafters.setdefault(name, DrafterStats()).n_drafted += 1
        for names in map(plan.candidates.names_of, plan.path(tokens)):
            for name in names:
                self.drafters[name].n_accepted += 1

    def count_drafts(self, name: str, n_drafted: int, n_accepted: int) -> None:
        """Count the draft nodes of a tree that one drafter made."""
        drafter = self.drafters.setdefault(name, DrafterStats())
        drafter.n_drafted += n_drafted
        drafter.n_accepted += n_accepted

    def count_step(self, n_nodes: int, n_accepted: int) -> None:
        """Count a verified tree; all nodes except the root are draft nodes."""
        self.n_steps += 1
        self.n_drafted += n_nodes - 1
        self.n_accepted += n_accepted
        self.tree_sizes.append(n_nodes)

    @property
    def tokens_per_step(self) -> float:
        """Mean number of tokens generated by a pass of the target: 1.0 is plain decoding."""
        return self.n_tokens / self.n_steps if self.n_steps else 0.0

    @property
    def decode_s(self) -> float:
        """Seconds from the end of prefill to the last token."""
        return max(self.total_s - self.prefill_s, 0.0)

    @property
    def tokens_per_s(self) -> float:
        """Decode throughput in tokens per second, without prefill."""
        return self.n_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def overhead_s(self) -> float:
        """Seconds spent outside prefill, drafting, planning, passes and verification."""
        known = self.prefill_s + self.draft_s + self.plan_s + self.target_s + self.verify_s
        return max(self.total_s - known, 0.0)

    def _repr_html_(self) -> str:
        return stats_html(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields and rates, for JSON."""
        rates = ("tokens_per_step", "tokens_per_s", "decode_s", "overhead_s")
        return asdict(self) | {name: getattr(self, name) for name in rates}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of final text, as ``Engine.stream`` yields it.

    Attributes:
        text: new text; empty while a possible stop string or an incomplete character is held back.
        tokens: new tokens; the text of the last ones may come in a later chunk.
        logprobs: one for each of the tokens, if requested.
        finish_reason: None until the last chunk.
        stats: of the whole request, in the last chunk only.
        seed: the sampler's seed, in the last chunk only.
        stop_string: the stop string that ended the text, in the last chunk if there is one.
        deltas: what the text brings to the reply, for a chat.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogp, ...] | None = None
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    seed: int | None = None
    stop_string: str | None = None
    deltas: tuple[ReplyDelta, ...] = ()

    @classmethod
    def joined(cls, chunks: Sequence[Chunk]) -> Chunk:
        """Consecutive chunks, at least one, as one chunk."""
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
            last.stop_string,
            tuple(joined_deltas(delta for chunk in chunks for delta in chunk.deltas)),
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation.

    Attributes:
        text: the output, without the prompt, end tokens and stop strings.
        tokens: the generated tokens, without end tokens.
        finish_reason: why the output ended.
        seed: the sampler's seed; the same seed, request and engine give the same output.
        stats: see ``Stats``.
        logprobs: one for each token, if requested.
        stop_string: the stop string that ended the output, if one did.
        message: what the text is as a message, for a chat: content, reasoning, calls of tools.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    stats: Stats
    logprobs: tuple[TokenLogp, ...] | None = None
    stop_string: str | None = None
    message: Reply | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return (
            f"<Completion: {_excerpt(self.text)!r}, {len(self.tokens)} tokens, ended by "
            f"{self.finish_reason}, {self.stats.tokens_per_step:.2f} tokens per step>"
        )

    def _repr_html_(self) -> str:
        return completion_html(self)


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."
