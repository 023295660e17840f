"""``pytreellama doctor``: what was built, this machine, this model, and what would be faster."""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytreellama import __version__
from pytreellama.cli.failures import FAILED, as_one_line
from pytreellama.cli.options import Debug, Json, ModelPath, Threads, option
from pytreellama.cli.output import (
    facts_table,
    gibibytes,
    milliseconds,
    print_json,
    stderr_console,
    stdout_console,
)
from pytreellama.errors import PyTreeLlamaError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pytreellama.cli.speed_check import SpeedCheck
    from pytreellama.core.model import Model

Report = dict[str, Any]


def doctor(
    model: ModelPath = None,
    threads: Threads = None,
    speed: Annotated[
        bool, option("--speed/--no-speed", help="Measure what passes cost; ten seconds at most.")
    ] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell what was built, what this machine and this model are, and what would be faster.

    Ends with exit code 1 if something does not work; the rest is told all the same.
    """
    report: Report = {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "build": None,
        "devices": None,
        "machine": None,
        "model": None,
        "speed": None,
        "advice": [],
        "problems": [],
    }
    with _problems_in(report, debug):
        _examine(report, model, threads, speed)
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


def _examine(report: Report, path: ModelPath, threads: Threads, measure: bool) -> None:
    """Fill the report; where it raises, what was found so far stands."""
    from pytreellama.core import system

    report["build"] = system.build_info()
    report["llama_cpp"] = system.llama_version()
    report["cpu_features"] = list(system.cpu_features())
    report["devices"] = [asdict(device) for device in system.devices()]
    report["machine"] = system.machine_facts()
    report["gpu_traces"] = list(system.gpu_traces())

    from pytreellama.cli.session import load_model

    with system.native_log() as log:
        loaded = load_model(path)
    with loaded as model:
        report["model"] = _model_facts(model) | {"weight_buffers": system.weight_buffers(log)}
        if measure:
            check = _measure(model, threads)
            report["_check"] = check
            report["speed"] = check.to_dict()
    report["advice"] = _advice(report)


def _measure(model: Model, threads: int | None) -> SpeedCheck:
    from pytreellama.cli.speed_check import check_speed

    console = stderr_console()
    if not console.is_terminal:
        return check_speed(model, threads)
    with console.status("measuring passes over 1 to 16 nodes"):
        return check_speed(model, threads)


def _model_facts(model: Model) -> Report:
    from pytreellama.cli.session import model_dict

    return model_dict(model) | {
        "n_ctx_train": model.n_ctx_train,
        "n_layer": model.n_layer,
        "n_embd": model.n_embd,
        "n_head": model.n_head,
        "n_head_kv": model.n_head_kv,
        "n_swa": model.n_swa,
        "n_vocab": model.vocab.n_tokens,
        "has_chat_template": model.chat_template is not None,
        "can_generate": model.can_generate,
        "can_branch": model.can_branch,
    }


def _advice(report: Report) -> list[str]:
    from pytreellama.cli.advice import Facts, advise
    from pytreellama.core.system import batched_types

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
            can_branch=model["can_branch"],
            weight_buffers=model["weight_buffers"],
            batched_types=batched_types(report["cpu_features"]),
            speed=report.get("_check"),
        )
    )


# -- printing


def _print(console: Console, report: Report) -> None:
    console.print(facts_table("this build", _build_lines(report)))
    if report["machine"]:
        console.print(facts_table("this machine", _machine_lines(report)))
    if report["model"]:
        console.print(facts_table("this model", _model_lines(report["model"])))
    check: SpeedCheck | None = report.get("_check")
    if check is not None:
        console.print(_speed_table(check))
        console.print(
            f"{1 / check.median_s[1]:.1f} tokens/s plainly, {check.n_threads} threads, "
            f"{check.n_past} tokens in the cache"
        )
    if report["model"]:
        console.print(exactness_text(check, report["cpu_features"]), markup=False, soft_wrap=True)
    if report["advice"]:
        console.print("\nWhat follows from that:", style="bold")
    for text in report["advice"]:
        console.print(f"* {text}", markup=False, soft_wrap=True)


def _build_lines(report: Report) -> Report:
    lines = {
        "pytreellama": f"{report['version']}, Python {report['python']}",
        "platform": report["platform"],
    }
    build = report["build"]
    if build is None:
        return lines | {"native part": "cannot be loaded"}
    flags = " ".join(build.get("cmake_args", [])) or "none"
    return lines | {
        "llama.cpp": f"{build.get('commit')} (version {report.get('llama_cpp', 'unknown')}), "
        f"from {build.get('source')}",
        "patches": "\n".join(build.get("patches", [])) or "none",
        "backends": ", ".join(build.get("backends", [])),
        "CMake flags": flags,
        "compiler": build.get("cxx_compiler"),
        "toolkit": build.get("toolkit") or "none",
        "made for this CPU": "yes" if build.get("native_cpu") else "no, for any of its kind",
    }


def _machine_lines(report: Report) -> Report:
    machine = report["machine"]
    quota = "" if machine["cpu_quota"] is None else f", limited to {machine['cpu_quota']:g}"
    load = "" if machine["load"] is None else f", load {machine['load']:.1f}"
    cores = f"{machine['n_cores']} physical, {machine['n_logical_cores']} logical"
    return {
        "cores": f"{cores}{quota}{load}",
        "memory": f"{gibibytes(machine['memory_available'])} available of "
        f"{gibibytes(machine['memory'])}",
        "devices": "\n".join(map(_device_line, report["devices"])),
        "CPU features": " ".join(report["cpu_features"]),
    }


def _device_line(device: Report) -> str:
    if device["kind"] == "cpu" or not device["total"]:
        return f"{device['name']}: {device['description']}"
    free = f"{gibibytes(device['free'])} free of {gibibytes(device['total'])}"
    return f"{device['name']}: {device['description']}, {free}"


def _model_lines(model: Report) -> Report:
    buffers = (f"{name} {size:.0f} MiB" for name, size in model["weight_buffers"].items())
    window = f", sliding window {model['n_swa']}" if model["n_swa"] else ""
    return {
        "file": model["path"],
        "name": model["name"],
        "architecture": model["architecture"],
        "type": model["file_type"],
        "size": f"{gibibytes(model['size'])}, {model['n_params'] / 1e6:.0f} million weights",
        "weights are in": ", ".join(buffers) or "unknown",
        "layers": f"{model['n_layer']}, width {model['n_embd']}, {model['n_head']} heads, "
        f"{model['n_head_kv']} for keys and values{window}",
        "trained for": f"{model['n_ctx_train']} tokens of context",
        "vocabulary": f"{model['n_vocab']} tokens",
        "chat template": "yes" if model["has_chat_template"] else "no",
        "trees": "yes" if model["can_branch"] else "no, its state cannot branch",
    }


def _speed_table(check: SpeedCheck) -> Table:
    from rich.table import Table

    table = Table(title="a pass over a chain of n nodes", title_justify="left")
    for name in ("nodes", "median", "cost", "pays if guesses hold", "passes"):
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


def exactness_text(check: SpeedCheck | None, features: Collection[str]) -> str:
    """What speculative text has to do with plain text, measured where it was."""
    from pytreellama.core.system import has_invariant_products

    general = "Speculative text is drawn by the model's own sampler from the model's own logits"
    products = (
        "On this CPU matrix products and flash attention give the same bits at every width, for "
        "every type of weights; on GPUs they do not (docs/exactness.md)."
        if has_invariant_products(features)
        else "Here matrix products depend on the width of a pass (docs/exactness.md)."
    )
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
