"""Measuring: every drafter's engine answers every prompt, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytreellama.bench.planning import Planning
from pytreellama.bench.prompts import BenchPrompt
from pytreellama.bench.results import PLAIN, BenchAnswer, Results, in_turn
from pytreellama.errors import RequestError

if TYPE_CHECKING:
    from pytreellama.engine import Engine, Step
    from pytreellama.model.model import Model

DRAFTERS = ("suffix", "recycling", "ngram", "suffix+recycling", "auto")
"""What is measured beside plain decoding unless the user says otherwise."""

_WARM_UP, _N_WARM_UP = "Once upon a time", 4
_ROOM_FOR_TREES = 128
_N_CTX_STEP = 256
_N_NODES_TOLD = 64
_N_TEXT_TOLD = 1024


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """How to measure.

    Attributes:
        drafters: beside plain decoding; a name, or ``NAME:N`` for trees of at most N nodes.
        n_tokens: most tokens of an answer.
        n_repeats: rounds of all prompts, each with new engines.
        n_ctx: tokens that a cache holds; None is what the longest prompt needs.
        n_threads: None is the cores of this machine.
    """

    drafters: tuple[str, ...] = DRAFTERS
    n_tokens: int = 64
    n_repeats: int = 3
    n_ctx: int | None = None
    n_threads: int | None = None

    @property
    def all_drafters(self) -> tuple[str, ...]:
        """Plain decoding, and each of the others once."""
        return tuple(dict.fromkeys((PLAIN, *self.drafters)))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark gives: how it was made, all answers, and how trees were planned.

    Attributes:
        settings: with the sizes that were really used.
        planning: None where no trees were planned.
    """

    settings: BenchSettings
    prompts: tuple[BenchPrompt, ...]
    results: Results
    planning: Planning | None


def drafter_and_size(name: str) -> tuple[str, int | None]:
    """A drafter's name, and the most nodes of its trees if ``NAME:N`` gives that.

    Raises:
        RequestError: N is not a number of nodes.
        DraftError: there is no such drafter.
    """
    from pytreellama.draft import drafter_factory

    drafter, colon, size = name.rpartition(":")
    is_file = "=" in name or name.lower().endswith(".gguf")
    if not colon or (is_file and not size.isdecimal()):  # C:\draft.gguf, hf:owner/name:Q4_K_M
        drafter, colon = name, ""
    drafter_factory(drafter)
    if not colon:
        return drafter, None
    if not size.isdecimal() or int(size) < 1:
        raise RequestError(
            f"--drafter {name}: {size!r} is not a number of nodes; write for example {drafter}:16"
        )
    return drafter, int(size)


def measure(
    model: Model,
    prompts: Sequence[BenchPrompt],
    settings: BenchSettings,
    report: Callable[[float], None],
) -> Measured:
    """Let all engines answer all prompts, greedily.

    Each repeat has new engines, so that nothing that they learned of the answers is kept. They
    answer prompt by prompt in turns, and the one that begins changes.

    Args:
        report: called with the share that is done, from 0.0 to 1.0.

    Raises:
        RequestError: a prompt that leaves no room for an answer.
    """
    inputs = [prompt_tokens(model, prompt) for prompt in prompts]
    n_ctx = _fitting_n_ctx(model, prompts, inputs, settings)
    bench = _Bench(model, replace(settings, n_ctx=n_ctx), prompts, inputs, report)
    for repeat in range(settings.n_repeats):
        bench.run(repeat)
    used = replace(bench.settings, n_threads=bench.n_threads)
    return Measured(used, tuple(prompts), bench.results, bench.planning)


def prompt_tokens(model: Model, prompt: BenchPrompt) -> list[int]:
    """What an engine reads; messages without their roles if the model has no chat template."""
    from pytreellama.chat.plain_names import chat_array

    if isinstance(prompt.content, str) or not model.chat_template:
        return model.vocab.encode(prompt.text, add_eos=False)
    ids: list[int] = chat_array(model, prompt.content).tolist()
    return ids


def _fitting_n_ctx(
    model: Model,
    prompts: Sequence[BenchPrompt],
    inputs: Sequence[Sequence[int]],
    settings: BenchSettings,
) -> int:
    longest = max(map(len, inputs))
    needed = longest + settings.n_tokens
    most = model.n_ctx_train or needed + _ROOM_FOR_TREES
    rounded = -(-(needed + _ROOM_FOR_TREES) // _N_CTX_STEP) * _N_CTX_STEP
    n_ctx = settings.n_ctx or min(rounded, most)
    too_long = [
        str(prompt.line)
        for prompt, tokens in zip(prompts, inputs, strict=True)
        if len(tokens) + settings.n_tokens > n_ctx
    ]
    if too_long:
        raise RequestError(
            f"{len(too_long)} of {len(prompts)} prompts leave no room for {settings.n_tokens} "
            f"tokens in a context of {n_ctx} (lines {', '.join(too_long[:8])}; the longest is "
            f"{longest} tokens): raise --n-ctx (the model was trained for {model.n_ctx_train}), "
            "lower --tokens, or leave them out"
        )
    return n_ctx


@dataclass(slots=True)
class _Bench:
    """The rounds of one benchmark, and what has been found so far."""

    model: Model
    settings: BenchSettings
    prompts: Sequence[BenchPrompt]
    inputs: Sequence[list[int]]
    report: Callable[[float], None]
    results: Results = field(init=False)
    planning: Planning | None = None
    n_threads: int | None = None
    _n_done: int = 0

    def __post_init__(self) -> None:
        self.results = Results(self.settings.all_drafters)

    def run(self, repeat: int) -> None:
        """One round of all prompts with new engines."""
        with ExitStack() as stack:
            engines = {
                name: stack.enter_context(self._engine(name)) for name in self.results.drafters
            }
            for engine in engines.values():
                self._warm_up(engine)
            for i in range(len(self.prompts)):
                for name in in_turn(self.results.drafters, i + repeat):
                    self._answer(engines[name], name, i, repeat)
            for engine in engines.values():
                self._note_plans_of(engine)

    def _engine(self, name: str) -> Engine:
        from pytreellama.engine import Engine

        drafter, n_draft = drafter_and_size(name)
        engine = Engine(
            self.model,
            drafter,
            n_draft=n_draft,
            n_ctx=self.settings.n_ctx,
            n_threads=self.settings.n_threads,
            n_cached_prefixes=0,  # prefill is measured too
        )
        self.n_threads = engine.context.n_threads
        return engine

    def _warm_up(self, engine: Engine) -> None:
        """Make what is made once: weights are read from disk, and the cost of passes measured."""
        engine.generate(self.model.vocab.encode(_WARM_UP, add_eos=False), max_tokens=_N_WARM_UP)
        self._report_one()

    def _answer(self, engine: Engine, name: str, prompt: int, repeat: int) -> None:
        steps: list[Step] = []
        on_step = steps.append if engine.planner is not None else None
        answer = engine.generate(
            self.inputs[prompt], max_tokens=self.settings.n_tokens, on_step=on_step
        )
        category = self.prompts[prompt].category
        self.results.add(BenchAnswer(repeat, prompt, category, name, answer.tokens, answer.stats))
        for step in steps:
            self._note_outcomes(step)
        self._report_one()

    def _note_outcomes(self, step: Step) -> None:
        if step.plan is None:
            return
        candidates, calibration = step.plan.candidates, self._known_planning().calibration
        for node, came_true in candidates.outcomes(step.tokens):
            calibration.add(candidates.p_token[node], came_true)

    def _note_plans_of(self, engine: Engine) -> None:
        """Keep what the planner knows at the end of a round; the last round's stays."""
        from pytreellama.bench.planning import budgets_of

        if engine.planner is None:
            return
        planning, curve = self._known_planning(), engine.planner.curve
        planning.pass_s = curve.pass_s(_N_NODES_TOLD)
        planning.pass_behind_text_s = curve.pass_s(_N_NODES_TOLD, _N_TEXT_TOLD)
        planning.n_text = _N_TEXT_TOLD
        planning.drafters = budgets_of(engine)

    def _known_planning(self) -> Planning:
        if self.planning is None:
            self.planning = Planning()
        return self.planning

    def _report_one(self) -> None:
        self._n_done += 1
        n_round = len(self.results.drafters) * (1 + len(self.prompts))
        self.report(self._n_done / (n_round * self.settings.n_repeats))
