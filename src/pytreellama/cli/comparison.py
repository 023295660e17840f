"""Speculative against plain generation of one prompt: how much sooner, and is it the same text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytreellama.cli.output import ProgressBar
from pytreellama.cli.session import OnStep, completion_dict, open_engine, run

if TYPE_CHECKING:
    from rich.table import Table

    from pytreellama.cli.options import GenerationOptions
    from pytreellama.engine import Completion, Engine, Step
    from pytreellama.engine.prompts import Prompt
    from pytreellama.model.model import Model
    from pytreellama.sampling.params import SamplingParams

_EXCERPT = 32


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two generations of one prompt with the same seed.

    Attributes:
        plain: token by token.
        speculative: with trees.
        n_same: tokens that both begin with.
        logp_gap: how far apart the two likeliest tokens were, in natural logarithms, where plain
            decoding went another way; None if the texts are identical or tokens were drawn.
    """

    plain: Completion
    speculative: Completion
    n_same: int
    logp_gap: float | None

    @property
    def is_identical(self) -> bool:
        """The same tokens, to the same end?"""
        ends = (self.plain.finish_reason, self.speculative.finish_reason)
        return self.plain.tokens == self.speculative.tokens and ends[0] == ends[1]

    @property
    def speedup(self) -> float | None:
        """Ratio of tokens a second, prefill left out; None if nothing was written."""
        plain = self.plain.stats.tokens_per_s
        return self.speculative.stats.tokens_per_s / plain if plain else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, beside the speculative generation."""
        return {
            "plain": completion_dict(self.plain),
            "comparison": {
                "speedup": self.speedup,
                "identical": self.is_identical,
                "n_same_tokens": self.n_same,
                "logp_gap": self.logp_gap,
            },
        }


@dataclass(slots=True)
class _PartingWatch:
    """Watches plain decoding for the first token that is not the speculative one."""

    engine: Engine
    expected: tuple[int, ...]
    is_greedy: bool
    bar: ProgressBar
    n_same: int = 0
    has_parted: bool = False
    logp_gap: float | None = field(default=None)
    _n_seen: int = 0

    def on_step(self, step: Step) -> None:
        self._n_seen += 1
        self.bar.report(min(self._n_seen / max(len(self.expected), 1), 1.0))
        if self.has_parted:
            return
        at = self.n_same
        if at < len(self.expected) and step.tokens[0] == self.expected[at]:
            self.n_same += 1
            return
        is_same_end = at == len(self.expected) and step.tokens[0] in self.engine.vocab.eog_tokens
        self.has_parted = not is_same_end
        if self.has_parted and self.is_greedy:
            _, logp = self.engine.context.outputs.top_k(2)
            self.logp_gap = float(logp[0, 0] - logp[0, 1])


def compare(
    model: Model,
    prompt: Prompt,
    options: GenerationOptions,
    sampling: SamplingParams,
    speculative: Completion,
) -> Comparison:
    """Generate once more, plainly and quietly, with the same seed."""
    with open_engine(model, options, "none") as engine, ProgressBar("plain decoding") as bar:
        watch = _PartingWatch(engine, speculative.tokens, sampling.is_greedy, bar)
        on_step: OnStep = watch.on_step
        plain = run(engine, prompt, options, sampling, on_step=on_step)
    return Comparison(plain, speculative, watch.n_same, watch.logp_gap)


def comparison_table(comparison: Comparison) -> Table:
    """Both generations side by side."""
    from rich.table import Table

    plain, speculative = comparison.plain.stats, comparison.speculative.stats
    table = Table(title="plain and speculative", title_justify="left")
    table.add_column("")
    table.add_column("plain", justify="right")
    table.add_column("speculative", justify="right")
    table.add_row("tokens", str(plain.n_tokens), str(speculative.n_tokens))
    table.add_row("seconds", f"{plain.decode_s:.2f}", f"{speculative.decode_s:.2f}")
    table.add_row("tokens/s", f"{plain.tokens_per_s:.1f}", f"{speculative.tokens_per_s:.1f}")
    if comparison.speedup is not None:
        table.add_row("ratio", "1.00", f"{comparison.speedup:.2f}")
    steps = (f"{plain.tokens_per_step:.2f}", f"{speculative.tokens_per_step:.2f}")
    table.add_row("tokens a step", *steps)
    table.add_row("drafted", str(plain.n_drafted), str(speculative.n_drafted))
    table.add_row("accepted", str(plain.n_accepted), str(speculative.n_accepted))
    table.add_row("same text", "", "yes" if comparison.is_identical else "no")
    return table


def parting_text(comparison: Comparison) -> str:
    """Where two texts part, and why they may."""
    plain, speculative = comparison.plain.text, comparison.speculative.text
    at = _n_common(plain, speculative)
    same = plain[max(at - _EXCERPT, 0) : at]
    lines = [
        f"The texts part after {comparison.n_same} tokens: {same!r} goes on as",
        f"  plain        {plain[at : at + _EXCERPT]!r}",
        f"  speculative  {speculative[at : at + _EXCERPT]!r}",
    ]
    if comparison.logp_gap is not None:
        lines.append(
            "There, plain decoding's top two tokens were "
            f"{comparison.logp_gap:.3g} apart in log-probability."
        )
    lines.append(
        "llama.cpp's stock kernels round differently over one token and over several, so texts may "
        "part where two tokens are all but equal. `pytreellama doctor` measures by how much."
    )
    return "\n".join(lines)


def _n_common(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
