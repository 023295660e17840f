"""``pytreellama serve``: OpenAI's interface to a model, and a page that shows its trees."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from pytreellama.cli.lora_flags import LoraFiles, lora_files
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import (
    Debug,
    ModelDraft,
    Threads,
    complete_drafter,
    with_model_draft,
)
from pytreellama.cli.placement_flags import PlacementFlags
from pytreellama.cli.sampling_flags import UsualSampling
from pytreellama.cli.serve_models import (
    ModelIdle,
    ModelPaths,
    ModelsDir,
    ModelsMax,
    require_for_one,
    served_models,
)
from pytreellama.errors import RequestError, not_one_of
from pytreellama.text_files import read_text

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pytreellama.engine import Engine
    from pytreellama.model.model import Model
    from pytreellama.serve.settings import ServerSettings

_SERVER, _LIMITS, _ENGINE = "Server", "Limits", "Engine"
_LOOPBACK_ADDRESSES = ("localhost", "127.0.0.1", "::1")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_KEYS_VARIABLE = "PYTREELLAMA_API_KEY"
_N_CACHED_MAX = 128


@dataclass(frozen=True, slots=True)
class ServeOptions(UsualSampling, PlacementFlags):
    """Options of the server."""

    model: ModelPaths = None
    threads: Threads = None
    lora: LoraFiles = None

    models_dir: ModelsDir = None
    models_max: ModelsMax = None
    model_idle_s: ModelIdle = None

    host: Annotated[
        str,
        option("--host", help="Address to listen on; 0.0.0.0 for all interfaces.", panel=_SERVER),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        option(
            "--port",
            "-p",
            help="Port to listen on; 0 for any free port.",
            panel=_SERVER,
            min=0,
            max=65535,
        ),
    ] = 8000
    alias: Annotated[
        list[str] | None,
        option(
            "--alias",
            help="Model name in the API. May be repeated; answers have the first one. Default: the "
            "file name without .gguf.",
            panel=_SERVER,
            show_default=False,
        ),
    ] = None
    any_model: Annotated[
        bool,
        option("--any-model", help="Accept any model name in requests.", panel=_SERVER),
    ] = False
    strict: Annotated[
        bool,
        option(
            "--strict",
            help="Refuse unknown fields in requests, instead of ignoring them.",
            panel=_SERVER,
        ),
    ] = False
    api_key: Annotated[
        list[str] | None,
        option(
            "--api-key",
            help="API key that clients must send. May be repeated. Other users of this machine can "
            f"see command lines: {_KEYS_VARIABLE} or --api-key-file is safer.",
            panel=_SERVER,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        option("--api-key-file", help="File of API keys, one per line.", panel=_SERVER),
    ] = None
    cors: Annotated[
        list[str] | None,
        option(
            "--cors",
            help="Allowed CORS origin, such as https://example.org; * for all. May be repeated.",
            panel=_SERVER,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        option(
            "--allow-host",
            help="Allowed value of the Host header. May be repeated. Default: loopback names if "
            "the server listens on loopback, else any.",
            panel=_SERVER,
        ),
    ] = None
    prefix_cache_file: Annotated[
        Path | None,
        option(
            "--prefix-cache-file",
            help="Save the prefix cache to this file at shutdown and load it at startup.",
            panel=_SERVER,
        ),
    ] = None
    log_level: Annotated[
        str,
        option("--log-level", help="Log level: debug, info, warning or error.", panel=_SERVER),
    ] = "info"

    n_ctx: Annotated[
        int,
        option(
            "--n-ctx",
            "--ctx",
            "--ctx-size",
            "-c",
            help="Size of the KV cache in tokens, shared by all requests; 0 for the model's "
            "training context.",
            panel=_ENGINE,
            min=0,
        ),
    ] = 8192
    parallel: Annotated[
        int,
        option(
            "--parallel",
            help="Maximum number of sequences that run at the same time.",
            panel=_ENGINE,
            min=1,
            max=128,
        ),
    ] = 16
    cached_prefixes: Annotated[
        int,
        option(
            "--cached-prefixes",
            help="Maximum number of finished sequences in the prefix cache.",
            panel=_ENGINE,
            min=0,
            max=_N_CACHED_MAX,
        ),
    ] = 32
    max_checkpoint_bytes: Annotated[
        int,
        option(
            "--max-checkpoint-bytes",
            help="Host memory for cached recurrent states and sliding windows, in bytes.",
            panel=_ENGINE,
            min=0,
        ),
    ] = 256 << 20
    drafter: Annotated[
        str,
        option(
            "--drafter",
            "-d",
            help="Drafter, as for generate.",
            panel=_ENGINE,
            autocompletion=complete_drafter,
        ),
    ] = "auto"
    model_draft: ModelDraft = None
    n_draft: Annotated[
        int | None,
        option(
            "--n-draft",
            help="Maximum number of draft nodes in a tree. Default: 64 for auto, else 8.",
            panel=_ENGINE,
            min=0,
            show_default=False,
        ),
    ] = None

    queue: Annotated[
        int, option("--queue", help="Maximum number of waiting requests.", panel=_LIMITS, min=0)
    ] = 256
    max_tokens: Annotated[
        int | None,
        option(
            "--max-tokens",
            help="Maximum number of tokens per answer; larger requests are capped.",
            panel=_LIMITS,
            min=1,
        ),
    ] = None
    max_choices: Annotated[
        int,
        option(
            "--max-choices",
            help="Maximum number of answers per request (n times prompts).",
            panel=_LIMITS,
            min=1,
        ),
    ] = 16
    max_body: Annotated[
        int,
        option(
            "--max-body", help="Maximum size of a request body, in bytes.", panel=_LIMITS, min=1024
        ),
    ] = 4 << 20
    request_time: Annotated[
        float,
        option(
            "--request-time",
            help="Time limit of a request in seconds, waiting included; the answer is then cut.",
            panel=_LIMITS,
            min=1.0,
        ),
    ] = 600.0
    shutdown_time: Annotated[
        float,
        option(
            "--shutdown-time",
            help="Seconds that running answers get to finish at shutdown.",
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
    r"""Serve a model over OpenAI's HTTP API, with a web page that shows the draft trees.

    Needs the extra serve: pip install 'pytreellama\[serve]'.
    """
    run = _required_run()
    from pytreellama.cli import session

    options = _with_new_names(options)

    _check_log_level(options.log_level)
    _check_origins(options.cors or ())
    keys = _api_keys(options)
    drafter = with_model_draft(options.drafter, options.model_draft)
    session.check_drafter(drafter)
    models = served_models(options.model, options.models_dir)
    if models is not None:
        _serve_several(run, options, models, drafter, keys)
        return
    source = options.model[0] if options.model else None
    listening = run.listening_socket(options.host, options.port)
    with (
        listening,
        session.load_model(source, options, drafter) as model,
    ):
        from pytreellama.serve.app import make_app

        settings = _settings(options, model, keys)
        with _engine(options, model, drafter) as engine:
            _say(options, settings, listening.getsockname()[1])
            run.run_app(
                make_app(engine, settings),
                listening,
                shutdown_s=options.shutdown_time,
                log_level=options.log_level,
            )


def _serve_several(
    run: ModuleType,
    options: ServeOptions,
    models: Mapping[str, Path],
    drafter: str,
    keys: tuple[str, ...],
) -> None:
    """Serve models that are loaded when they are asked for."""
    from pytreellama.cli.session import load_quietly
    from pytreellama.serve.app import make_app
    from pytreellama.serve.host.host_app import make_host_app
    from pytreellama.serve.host.model_host import ModelHost

    require_for_one(options.alias, options.lora)

    def open_app(name: str, path: Path) -> FastAPI:
        with load_quietly(path, options, drafter) as model:
            settings = _settings(options, model, keys)
            file = settings.prefix_cache_file
            settings = replace(
                settings,
                model_name=name,
                prefix_cache_file=None if file is None else f"{file}.{name}",
            )
            engine = _engine(options, model, drafter)
        try:
            return make_app(engine, settings, is_outermost=False)
        except BaseException:
            engine.close()
            raise

    host = ModelHost(
        models,
        open_app,
        n_max=options.models_max,
        idle_s=options.model_idle_s,
        wait_s=options.request_time,
    )
    settings = _server_settings(options, ", ".join(models), keys)
    with run.listening_socket(options.host, options.port) as listening:
        _say(options, settings, listening.getsockname()[1])
        run.run_app(
            make_host_app(host, settings),
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


def _engine(options: ServeOptions, model: Model, drafter: str) -> Engine:
    from pytreellama.cli.session import with_scales
    from pytreellama.engine import Engine

    engine = Engine(
        model,
        drafter,
        n_draft=options.n_draft,
        n_ctx=options.n_ctx,
        n_seq_max=options.parallel,
        n_queue_max=options.queue,
        n_cached_prefixes=options.cached_prefixes,
        max_checkpoint_bytes=options.max_checkpoint_bytes,
        n_threads=options.threads,
        lora=lora_files(options.lora),
    )
    return with_scales(engine, options.lora)


def _settings(options: ServeOptions, model: Model, keys: tuple[str, ...]) -> ServerSettings:
    from pytreellama.sampling.defaults import sampling_defaults

    name, *aliases = options.alias or [model.path.stem]
    return replace(
        _server_settings(options, name, keys),
        aliases=tuple(aliases),
        sampling=sampling_defaults(model.metadata, options.usual()),
    )


def _server_settings(options: ServeOptions, name: str, keys: tuple[str, ...]) -> ServerSettings:
    """Settings that no model has a say in."""
    from pytreellama.serve.settings import ServerSettings

    is_local = options.host in _LOOPBACK_ADDRESSES
    return ServerSettings(
        model_name=name,
        is_any_model=options.any_model,
        is_strict=options.strict,
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
        raise RequestError(not_one_of("--log-level", level, allowed))


def _check_origins(origins: Iterable[str]) -> None:
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/]+", origin):
            raise RequestError(
                f"invalid --cors={origin}: expected an origin as browsers send it, such as "
                "http://localhost:3000, or * for all"
            )


def _say(options: ServeOptions, settings: ServerSettings, port: int) -> None:
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
            "no API key is set: anyone who can reach this machine can use the server "
            "(set one with --api-key-file)",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
