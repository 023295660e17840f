"""``pytreellama serve``: OpenAI's interface to a model, and a page that shows its trees."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from pytreellama.cli.options import (
    Debug,
    GpuLayers,
    ModelPath,
    Threads,
    complete_drafter,
    option,
    unpacked,
)
from pytreellama.errors import RequestError
from pytreellama.text_files import read_text

if TYPE_CHECKING:
    from pytreellama.engine import Engine
    from pytreellama.model.model import Model
    from pytreellama.serve.settings import Settings

_SERVER, _LIMITS, _ENGINE = "Server", "Limits", "Engine"
_LOOPBACK_ADDRESSES = ("localhost", "127.0.0.1", "::1")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_KEYS_VARIABLE = "PYTREELLAMA_API_KEY"
_N_CACHED_MAX = 128


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a server is asked for on the command line."""

    model: ModelPath = None
    threads: Threads = None
    n_gpu_layers: GpuLayers = -1

    host: Annotated[
        str,
        option("--host", help="Where to listen; 0.0.0.0 is the whole network.", panel=_SERVER),
    ] = "127.0.0.1"
    port: Annotated[
        int, option("--port", "-p", help="0 takes any free one.", panel=_SERVER, min=0, max=65535)
    ] = 8000
    alias: Annotated[
        str | None,
        option(
            "--alias",
            help="What clients call the model; by default its file's name.",
            panel=_SERVER,
            show_default=False,
        ),
    ] = None
    api_key: Annotated[
        list[str] | None,
        option(
            "--api-key",
            help="A key that clients must send; may be repeated. Others on this machine see "
            f"command lines: {_KEYS_VARIABLE}, or --api-key-file, is safer.",
            panel=_SERVER,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        option("--api-key-file", help="Keys, one a line.", panel=_SERVER),
    ] = None
    cors: Annotated[
        list[str] | None,
        option(
            "--cors",
            help="Pages of this origin may use the server, as https://example.org; * is all. May "
            "be repeated.",
            panel=_SERVER,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        option(
            "--allow-host",
            help="A name that requests may call the server by. Where it listens on loopback, only "
            "loopback's names are allowed besides; elsewhere all are, unless some are given.",
            panel=_SERVER,
        ),
    ] = None
    prefix_cache_file: Annotated[
        Path | None,
        option(
            "--prefix-cache-file",
            help="Load the prefix cache from this file at the start, and save it there at the end.",
            panel=_SERVER,
        ),
    ] = None
    log_level: Annotated[
        str,
        option("--log-level", help="debug, info, warning or error.", panel=_SERVER),
    ] = "info"

    n_ctx: Annotated[
        int,
        option(
            "--n-ctx",
            "--ctx",
            "-c",
            help="Tokens that the cache holds, for all requests.",
            panel=_ENGINE,
            min=1,
        ),
    ] = 8192
    parallel: Annotated[
        int,
        option("--parallel", help="Requests that run at once.", panel=_ENGINE, min=1, max=128),
    ] = 16
    cached_prefixes: Annotated[
        int,
        option(
            "--cached-prefixes",
            help="Maximum number of ended requests whose tokens stay in the KV cache, for prompts "
            "with the same prefix.",
            panel=_ENGINE,
            min=0,
            max=_N_CACHED_MAX,
        ),
    ] = 32
    drafter: Annotated[
        str,
        option(
            "--drafter",
            "-d",
            help="What guesses the trees; as for generate.",
            panel=_ENGINE,
            autocompletion=complete_drafter,
        ),
    ] = "auto"
    n_draft: Annotated[
        int | None,
        option(
            "--n-draft",
            help="Most guessed nodes in a tree.",
            panel=_ENGINE,
            min=0,
            show_default=False,
        ),
    ] = None

    queue: Annotated[
        int, option("--queue", help="Requests that may wait.", panel=_LIMITS, min=0)
    ] = 256
    max_tokens: Annotated[
        int | None,
        option("--max-tokens", help="Most tokens of one answer.", panel=_LIMITS, min=1),
    ] = None
    max_choices: Annotated[
        int, option("--max-choices", help="Most answers of one request.", panel=_LIMITS, min=1)
    ] = 16
    max_body: Annotated[
        int, option("--max-body", help="Bytes of a request's body.", panel=_LIMITS, min=1024)
    ] = 4 << 20
    request_time: Annotated[
        float,
        option(
            "--request-time",
            help="Seconds that an answer may take; then it ends where it is.",
            panel=_LIMITS,
            min=1.0,
        ),
    ] = 600.0
    shutdown_time: Annotated[
        float,
        option(
            "--shutdown-time",
            help="Seconds that answers have when the server is stopped.",
            panel=_LIMITS,
            min=1.0,
        ),
    ] = 30.0

    debug: Debug = False

    # deprecated names
    kept: Annotated[
        int | None, option("--kept", help="", hidden=True, min=0, max=_N_CACHED_MAX)
    ] = None
    kept_file: Annotated[Path | None, option("--kept-file", help="", hidden=True)] = None


@unpacked(ServeOptions)
def serve(options: ServeOptions) -> None:
    r"""Serve a model to OpenAI's clients, and a page that shows its trees at the address itself.

    Needs the extra serve: pip install 'pytreellama\[serve]'.
    """
    run = _required_run()
    from pytreellama.cli import session

    options = _with_new_names(options)

    _check_log_level(options.log_level)
    keys = _api_keys(options)
    session.check_drafter(options.drafter)
    listening = run.listening_socket(options.host, options.port)
    with listening, session.load_model(options.model, options.n_gpu_layers) as model:
        from pytreellama.serve.app import make_app

        settings = _settings(options, model, keys)
        with _engine(options, model) as engine:
            _say(options, settings, listening.getsockname()[1])
            run.run_app(
                make_app(engine, settings),
                listening,
                shutdown_s=options.shutdown_time,
                log_level=options.log_level,
            )


def _with_new_names(options: ServeOptions) -> ServeOptions:
    """Options in which deprecated names stand under their new ones; warns on stderr."""
    for old, new in (("kept", "cached_prefixes"), ("kept_file", "prefix_cache_file")):
        value = getattr(options, old)
        if value is not None:
            flags = [f"--{name.replace('_', '-')}" for name in (old, new)]
            typer.echo(f"warning: {flags[0]} is deprecated; use {flags[1]}", err=True)
            options = replace(options, **{new: value, old: None})
    return options


def _required_run() -> ModuleType:
    try:
        from pytreellama.serve import run
    except ImportError as error:
        raise RequestError(
            f"serving needs {error.name}, which is not installed; install the extra: "
            "pip install 'pytreellama[serve]'"
        ) from error
    return run


def _engine(options: ServeOptions, model: Model) -> Engine:
    from pytreellama.engine import Engine

    return Engine(
        model,
        options.drafter,
        n_draft=options.n_draft,
        n_ctx=options.n_ctx,
        n_seq_max=options.parallel,
        n_queue_max=options.queue,
        n_cached_prefixes=options.cached_prefixes,
        n_threads=options.threads,
    )


def _settings(options: ServeOptions, model: Model, keys: tuple[str, ...]) -> Settings:
    from pytreellama.serve.settings import Settings

    is_local = options.host in _LOOPBACK_ADDRESSES
    return Settings(
        model_name=options.alias or model.path.stem,
        max_tokens=options.max_tokens,
        n_choices_max=options.max_choices,
        max_body_bytes=options.max_body,
        request_s=options.request_time,
        shutdown_s=options.shutdown_time,
        api_keys=keys,
        cors_origins=tuple(options.cors or ()),
        allowed_hosts=(*(_LOOPBACK if is_local else ()), *(options.allow_host or ())),
        prefix_cache_file=(
            None if options.prefix_cache_file is None else str(options.prefix_cache_file)
        ),
    )


def _api_keys(options: ServeOptions) -> tuple[str, ...]:
    given = list(options.api_key or [])
    if options.api_key_file is not None:
        given += read_text(options.api_key_file, "--api-key-file").split()
        if not given:
            raise RequestError(f"--api-key-file {options.api_key_file} holds no keys")
    given += os.environ.get(_KEYS_VARIABLE, "").split()
    if not all(given):
        raise RequestError("an API key is empty; leave --api-key out to ask for none")
    return tuple(given)


def _check_log_level(level: str) -> None:
    allowed = ("debug", "info", "warning", "error")
    if level not in allowed:
        raise RequestError(f"--log-level {level} was asked for; give one of {', '.join(allowed)}")


def _say(options: ServeOptions, settings: Settings, port: int) -> None:
    from pytreellama.cli.output import stderr_console

    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{port}"
    console = stderr_console()
    console.print(
        f"{settings.model_name} is served at {address}/v1; the page is {address}/",
        markup=False,
        soft_wrap=True,
    )
    if not settings.api_keys and options.host not in _LOOPBACK_ADDRESSES:
        console.print(
            "anyone who reaches this machine may use it: there is no API key (--api-key-file)",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
