"""``pytreellama plan``: what the planner chose at every step, and why."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pytreellama.bench.facts import model_dict
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import GenerationOptions, Json
from pytreellama.cli.output import facts_table, print_json, stdout_console
from pytreellama.errors import RequestError
from pytreellama.units import milliseconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pytreellama.draft import DrafterFactory
    from pytreellama.engine import Completion, Engine, Step
    from pytreellama.model.vocab import Vocab
    from pytreellama.plan import CostCurve, Plan

_TOLD_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_OTHER_COLUMNS, _SHORTEST_PATH = 60, 20


@unpacked(GenerationOptions)
def plan(
    options: GenerationOptions,
    n_shown: Annotated[
        int,
        option(
            "--candidates",
            help="Number of candidates to show per step, most likely first; chosen ones are "
            "always shown.",
            min=0,
        ),
    ] = 8,
    n_guesses: Annotated[
        int | None, option("--guesses", help="Old name of --candidates.", min=0, hidden=True)
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate text and show what the planner chose at every step, and why.

    Uses the drafters of --drafter, such as suffix+recycling; by default those of auto.
    With --json, the object holds all candidates of all steps.
    """
    from pytreellama.cli import session

    if n_guesses is not None:
        warnings.warn("--guesses is deprecated: use --candidates", DeprecationWarning, stacklevel=2)
        n_shown = n_guesses
    prompt = session.read_prompt(options)
    options.check_sampling()
    drafter = planned_drafter(options.drafter_spec)
    console = stdout_console()
    with session.load_model(options.model, options, options.drafter_spec) as model:
        watch = _Watch(model.vocab, None if as_json else console, n_shown)
        sampling = options.sampling_for(model)
        with session.open_engine(model, options, drafter) as engine:
            completion = session.run(engine, prompt, options, sampling, on_step=watch.on_step)
            summary = _Summary.of(engine)
        if as_json:
            print_json(
                session.completion_dict(completion)
                | {"model": model_dict(model), "drafter": options.drafter_spec}
                | {"steps": watch.to_dicts()}
                | summary.to_dict()
            )
            return
    _print_end(console, completion, summary)


def planned_drafter(name: str) -> DrafterFactory:
    """A factory whose trees are planned, of "auto" or of names joined by "+".

    Raises:
        RequestError: "none", which proposes nothing to plan.
        DraftError: an unknown drafter.
    """
    from pytreellama.draft import Auto, drafter_factory

    names = name.split("+")
    if "auto" in names:
        return drafter_factory(name)
    if "none" in names:
        raise RequestError("--drafter none proposes nothing to plan with; choose another")
    return Auto(*map(drafter_factory, names))


# -- steps


@dataclass(slots=True)
class _Watch:
    """Keeps every step with the time that it took, and tells of it at once."""

    vocab: Vocab
    console: Console | None
    n_shown: int
    steps: list[Step] = field(default_factory=list)
    took_s: list[float | None] = field(default_factory=list)
    _ended_s: float | None = None

    def on_step(self, step: Step) -> None:
        now_s = time.perf_counter()
        self.took_s.append(None if self._ended_s is None else now_s - self._ended_s)
        self.steps.append(step)
        if self.console is not None:
            self._tell(self.console, step)
        self._ended_s = time.perf_counter()

    def _tell(self, console: Console, step: Step) -> None:
        number, took_s = len(self.steps), self.took_s[-1]
        console.print(step_line(number, step, took_s), style="bold", markup=False, soft_wrap=True)
        written = "".join(self.text_of(token) for token in step.tokens)
        if step.plan is not None and len(step.plan.candidates):
            longest = max(console.width - _OTHER_COLUMNS, _SHORTEST_PATH)
            console.print(self._candidates_table(step, step.plan, longest))
        console.print(f"the text goes on with {written!r}\n", markup=False, soft_wrap=True)

    def _candidates_table(self, step: Step, plan: Plan, longest: int) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in ("path", "token", "taken", "came"):
            table.add_column(name, justify="right" if name in ("path", "token") else "left")
        table.add_column("candidate", no_wrap=True)
        table.add_column("proposed by", overflow="fold")
        came = dict(plan.candidates.outcomes(step.tokens))
        for node in self._shown(plan):
            table.add_row(
                f"{plan.candidates.p[node]:.3f}",
                f"{plan.candidates.p_token[node]:.3f}",
                "yes" if node in plan.nodes else "",
                {True: "true", False: "false", None: ""}[came.get(node)],
                Text(_end_of(repr(self._path_text(plan, node)), longest)),
                Text(_proposers(plan, node)),
            )
        n_left_out = len(plan.candidates) - table.row_count
        if n_left_out:
            table.add_row("", "", "", "", f"and {n_left_out} less likely", "")
        return table

    def _shown(self, plan: Plan) -> list[int]:
        return plan.candidates.by_p()[: max(self.n_shown, len(plan.nodes))]

    def _path_text(self, plan: Plan, node: int) -> str:
        union = plan.candidates.union
        texts = []
        while node >= 0:
            texts.append(self.text_of(union.tokens[node]))
            node = union.parents[node]
        return "".join(reversed(texts))

    def text_of(self, token: int) -> str:
        """A token's text; half a character is a question mark."""
        return self.vocab.piece_text(token)

    def to_dicts(self) -> list[dict[str, Any]]:
        """All steps for JSON."""
        pairs = zip(self.steps, self.took_s, strict=True)
        return [self._step_dict(i, step, took_s) for i, (step, took_s) in enumerate(pairs, 1)]

    def _step_dict(self, number: int, step: Step, took_s: float | None) -> dict[str, Any]:
        plan = step.plan
        described = None if plan is None else plan.to_dict()
        for candidate in described["guesses"] if described else []:
            candidate["text"] = self.text_of(candidate["token"])
        return {
            "step": number,
            "took_s": took_s,
            "n_expected": None if plan is None else plan.n_expected,
            "n_accepted": len(step.path) - 1,
            "tokens": [int(token) for token in step.tokens],
            "texts": [self.text_of(token) for token in step.tokens],
            "plan": described,
        }


def step_line(number: int, step: Step, took_s: float | None) -> str:
    """A step's plan and what came of it, in a line."""
    plan = step.plan
    if plan is None or not len(plan.candidates):
        return f"step {number}: plain; no candidates were found, or the draft gate was closed"
    choice, n_accepted = plan.choice, len(step.path) - 1
    took = "" if took_s is None else f" (it took {milliseconds(took_s)})"
    return (
        f"step {number}: {len(plan.nodes)} of {len(plan.candidates)} candidates chosen, for "
        f"{choice.n_tokens:.2f} tokens in {milliseconds(choice.seconds)}{took}, "
        f"{choice.gain:.2f} times plain decoding; {n_accepted} accepted"
    )


def _proposers(plan: Plan, node: int) -> str:
    views = plan.candidates.views[node]
    return ", ".join(f"{plan.candidates.names[drafter]} {p:.2f}" for drafter, _, p in views)


def _end_of(text: str, n_characters: int) -> str:
    return text if len(text) <= n_characters else "…" + text[1 - n_characters :]


# -- the end


@dataclass(frozen=True, slots=True)
class _Summary:
    """What the planner held at the end.

    Attributes:
        pass_s: nodes of a pass -> seconds.
        curve: for JSON; empty if there was none.
        drafters: what is known of each; see ``DrafterBudget.to_dicts``.
    """

    pass_s: dict[int, float]
    curve: dict[str, Any]
    drafters: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, engine: Engine) -> _Summary:
        from pytreellama.bench.planning import budgets_of

        known = budgets_of(engine)
        if engine.planner is None:
            return cls({}, {}, known)
        curve: CostCurve = engine.planner.curve
        return cls({n: curve.seconds(n) for n in _TOLD_SIZES}, curve.to_dict(), known)

    def to_dict(self) -> dict[str, Any]:
        return {
            "pass_s": {str(n): seconds for n, seconds in self.pass_s.items()},
            "curve": self.curve,
            "drafters": self.drafters,
        }


def _print_end(console: Console, completion: Completion, summary: _Summary) -> None:
    stats = completion.stats
    console.print(
        facts_table(
            "in all",
            {
                "text": f"{stats.n_tokens} tokens in {stats.n_steps} steps, "
                f"{stats.tokens_per_step:.2f} tokens a step",
                "guesses": f"{stats.n_drafted} taken, {stats.n_expected:.1f} expected to be "
                f"accepted, {stats.n_accepted} accepted",
                "planning": milliseconds(stats.plan_s),
                "drafting": milliseconds(stats.draft_s),
                "passes": milliseconds(stats.target_s),
            },
        )
    )
    if summary.pass_s:
        console.print(_curve_table(summary.pass_s))
    if summary.drafters:
        console.print(_drafters_table(completion, summary))


def _curve_table(pass_s: dict[int, float]) -> Table:
    from rich.table import Table

    table = Table(title="what a pass costs, without text before it", title_justify="left")
    for name in ("nodes", "pass", "passes over one node"):
        table.add_column(name, justify="right")
    for n, seconds in pass_s.items():
        table.add_row(str(n), milliseconds(seconds), f"{seconds / pass_s[1]:.2f}")
    return table


def _drafters_table(completion: Completion, summary: _Summary) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="what is known of the drafters", title_justify="left")
    table.add_column("drafter")
    for name in ("asked", "an ask costs", "and saves", "pays", "taken", "accepted"):
        table.add_column(name, justify="right")
    for name, known in summary.drafters.items():
        brought = completion.stats.drafters.get(name)
        table.add_row(
            Text(name),
            str(known["n_asked"]),
            f"{1e3 * known['cost_s']:.3f} ms",
            f"{1e3 * known['gain_s']:.3f} ms",
            "yes" if known["pays"] else "no",
            str(brought.n_drafted if brought else 0),
            str(brought.n_accepted if brought else 0),
        )
    return table
