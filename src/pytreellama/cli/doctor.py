"""``pytreellama doctor``: what was built, this machine, this model, and what would be faster."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pytreellama.bench.facts import (
    Report,
    build_lines,
    file_lines,
    machine_lines,
    model_facts,
    model_lines,
    native_facts,
    python_facts,
)
from pytreellama.cli.failures import FAILED, as_one_line
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import Debug, Json, ModelPath, Threads
from pytreellama.cli.output import (
    facts_table,
    print_json,
    stderr_console,
    stdout_console,
)
from pytreellama.cli.placement_flags import PlacementFlags
from pytreellama.errors import PyTreeLlamaError
from pytreellama.units import milliseconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pytreellama.bench.speed_check import SpeedCheck
    from pytreellama.model.model import Model


@unpacked(PlacementFlags)
def doctor(
    placement: PlacementFlags,
    model: ModelPath = None,
    threads: Threads = None,
    speed: Annotated[
        bool,
        option(
            "--speed/--no-speed", help="Measure the cost of forward passes; at most ten seconds."
        ),
    ] = True,
    verify: Annotated[
        bool,
        option(
            "--verify",
            help="Also compare the compiled files and the default model with their hashes.",
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the build, the machine, the model, and what would make decoding faster.

    The exit code is 1 if a check fails; the other checks are still shown.
    """
    report: Report = python_facts() | {
        "build": None,
        "devices": None,
        "machine": None,
        "model": None,
        "speed": None,
        "files": None,
        "advice": [],
        "problems": [],
    }
    if verify:
        _verify(report)
    with _problems_in(report, debug):
        _examine(report, model, placement, threads, speed)
    if as_json:
        print_json({name: value for name, value in report.items() if not name.startswith("_")})
    else:
        _print(stdout_console(), report)
    for problem in report["problems"]:
        typer.echo(f"error: {problem}", err=True)
    if report["problems"]:
        raise typer.Exit(FAILED)


@contextmanager
def _problems_in(report: Report, debug: bool) -> Iterator[None]:
    try:
        yield
    except PyTreeLlamaError as error:
        if debug:
            raise
        report["problems"].append(as_one_line(error))


def _verify(report: Report) -> None:
    """Check hashes; what differs is a problem. The model's own file is checked as it is loaded."""
    from pytreellama import integrity

    checks = integrity.check_native()
    default = integrity.check_default_model()
    checks += [] if default is None else [default]
    report["files"] = [
        {"path": str(check.path), "sha256": check.sha256, "problem": check.problem}
        for check in checks
    ]
    report["problems"] += [check.problem for check in checks if check.problem is not None]


def _examine(
    report: Report,
    path: ModelPath,
    placement: PlacementFlags,
    threads: Threads,
    measure: bool,
) -> None:
    """Fill the report; where it raises, what was found so far stands."""
    from pytreellama import system

    report |= native_facts()
    report["gpu_traces"] = list(system.gpu_traces())

    from pytreellama.cli.session import load_model

    with system.native_log() as log:
        loaded = load_model(path, placement)
    with loaded as model:
        report["model"] = model_facts(model) | {"weight_buffers": system.weight_buffers(log)}
        if measure:
            check = _measure(model, threads)
            report["_check"] = check
            report["model"] |= {
                "can_branch": check.draft_shape == "trees",
                "draft_shape": check.draft_shape,
                "node_bytes": check.node_bytes,
            }
            report["speed"] = check.to_dict()
    report["advice"] = _advice(report)


def _measure(model: Model, threads: int | None) -> SpeedCheck:
    from pytreellama.bench.speed_check import check_speed

    console = stderr_console()
    if not console.is_terminal:
        return check_speed(model, threads)
    with console.status("measuring passes over 1 to 16 nodes"):
        return check_speed(model, threads)


def _advice(report: Report) -> list[str]:
    from pytreellama.bench.advice import Facts, advise
    from pytreellama.system import batched_types

    build, machine, model = report["build"], report["machine"], report["model"]
    return advise(
        Facts(
            backends=tuple(build.get("backends", ("cpu",))),
            gpu_devices=tuple(d["name"] for d in report["devices"] if d["kind"] in ("gpu", "igpu")),
            gpu_traces=tuple(report["gpu_traces"]),
            is_native_build=bool(build.get("native_cpu", True)),
            n_cores=machine["n_cores"],
            cpu_quota=machine["cpu_quota"],
            load=machine["load"],
            memory_available=machine["memory_available"],
            size=model["size"],
            n_params=model["n_params"],
            file_type=model["file_type"],
            draft_shape=model["draft_shape"],
            weight_buffers=model["weight_buffers"],
            batched_types=batched_types(report["cpu_features"]),
            speed=report.get("_check"),
            is_on_gpu=model["is_on_gpu"],
        )
    )


# -- printing


def _print(console: Console, report: Report) -> None:
    console.print(facts_table("this build", build_lines(report)))
    if report["machine"]:
        console.print(facts_table("this machine", machine_lines(report)))
    if report["model"]:
        console.print(facts_table("this model", model_lines(report["model"])))
    check: SpeedCheck | None = report.get("_check")
    if check is not None:
        console.print(_speed_table(check))
        console.print(
            f"{1 / check.median_s[1]:.1f} tokens/s plainly, {check.n_threads} threads, "
            f"{check.n_past} tokens in the cache"
        )
    if report["files"] is not None:
        console.print(facts_table("files", file_lines(report["files"])))
    if report["model"]:
        console.print(
            exactness_text(check, report["cpu_features"], report["model"]["devices"]),
            markup=False,
            soft_wrap=True,
        )
    if report["advice"]:
        console.print("\nWhat follows from that:", style="bold")
    for text in report["advice"]:
        console.print(f"* {text}", markup=False, soft_wrap=True)


def _speed_table(check: SpeedCheck) -> Table:
    from rich.table import Table

    table = Table(title="a pass over a chain of n nodes", title_justify="left")
    for name in ("nodes", "median", "cost", "break-even acceptance rate", "passes"):
        table.add_column(name, justify="right")
    for n, seconds in check.median_s.items():
        table.add_row(
            str(n),
            milliseconds(seconds),
            f"{check.cost(n):.2f}",
            _break_even_text(check, n),
            str(check.n_samples[n]),
        )
    return table


def _break_even_text(check: SpeedCheck, n_nodes: int) -> str:
    if n_nodes == 1:
        return ""
    share = check.break_even(n_nodes)
    return "never" if share is None else f"{share:.0%} of the time"


def exactness_text(
    check: SpeedCheck | None, features: Collection[str], gpus: Collection[str] = ()
) -> str:
    """What speculative text has to do with plain text, measured where it was.

    Args:
        features: what the kernels use of this CPU.
        gpus: names of the GPUs that compute a part of the model.
    """
    general = "Speculative text is drawn by the model's own sampler from the model's own logits"
    products = _products_text(features, gpus)
    if check is None or not check.n_compared:
        return f"Exactness: {general}. {products}"
    what = (
        f"the logits of {check.n_compared} tokens after {check.n_past}, in one pass and one by one"
    )
    if check.logit_difference == 0.0:
        return (
            f"Exactness: {general}. {products} In this check, {what}, were the same bits: greedy "
            "text is plain text, byte for byte."
        )
    return (
        f"Exactness: {general}. {products} In this check, {what}, differed by up to "
        f"{check.logit_difference:.2g}: greedy text equals plain text except where the two "
        "likeliest tokens are about as close."
    )


def _products_text(features: Collection[str], gpus: Collection[str]) -> str:
    from pytreellama.system import has_invariant_products

    if gpus:
        return (
            f"On {', '.join(gpus)} the bits of a product depend on the width of the pass; with "
            "--n-gpu-layers 0 this build is as exact as one for the CPU (docs/exactness.md)."
        )
    if has_invariant_products(features):
        return (
            "On this CPU matrix products and flash attention give the same bits at every width, "
            "for every type of weights; on GPUs they do not (docs/exactness.md)."
        )
    return "Here matrix products depend on the width of a pass (docs/exactness.md)."
