"""Plugin for ``llm``: models of this package in its process, by the entry point ``llm``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import llm
from pydantic import Field

from pytreellama.errors import PyTreeLlamaError
from pytreellama.model.source import source_path

if TYPE_CHECKING:
    from pytreellama.engine import Engine

_OF_ENGINE = ("n_ctx", "drafter")
_engines: dict[tuple[str | None, Any, Any], Engine] = {}


def sources_file() -> Path:
    """Where ``llm pytreellama add`` keeps models: names and where their files are."""
    folder: Path = llm.user_dir()  # type: ignore[no-untyped-call]
    return folder / "pytreellama.json"


def sources() -> dict[str, str]:
    """The models that were added."""
    path = sources_file()
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


@llm.hookimpl
def register_models(register: Any) -> None:
    """Offer the default model, and those that were added."""
    register(PyTreeLlama("pytreellama", None))
    for name, source in sources().items():
        register(PyTreeLlama(name, source))


@llm.hookimpl
def register_commands(cli: Any) -> None:
    """Offer ``llm pytreellama add``."""

    group = click.Group("pytreellama", help="Models of pytreellama.")
    group.add_command(
        click.Command(
            "add",
            callback=add,
            params=[click.Argument(["name"]), click.Argument(["source"])],
            help="Add a model under a NAME; SOURCE is a GGUF file, hf:owner/name or ollama:name.",
        )
    )
    cli.add_command(group)


def add(name: str, source: str) -> None:
    """Add a model under a name; downloads it, if need be.

    Raises:
        click.ClickException: there is no such model.
    """
    try:
        source_path(source)
    except PyTreeLlamaError as error:
        raise click.ClickException(str(error)) from error
    path = sources_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**sources(), name: source}, indent=1), encoding="utf-8")
    click.echo(f"{name} is added: llm -m {name} '...'")


class PyTreeLlama(llm.Model):
    """A model for ``llm``; its engine stays open, so that a conversation keeps its prefix cache.

    Args:
        model_id: its name.
        source: as ``-m`` on the command line; None for the default model.
    """

    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        """Options by ``-o``; sampling is as the model's file recommends where they are missing."""

        max_tokens: int | None = Field(None, description="Maximum number of tokens.")
        temperature: float | None = Field(None, description="0 for greedy decoding.")
        top_k: int | None = Field(None, description="Sample from the k most likely tokens.")
        top_p: float | None = Field(None, description="Nucleus sampling.")
        min_p: float | None = Field(None, description="Least share of the top probability.")
        seed: int | None = Field(None, description="Random seed.")
        n_ctx: int | None = Field(None, description="Size of the KV cache in tokens.")
        drafter: str | None = Field(None, description="Drafter, as for pytreellama generate.")

    def __init__(self, model_id: str, source: str | None) -> None:
        self.model_id = model_id
        self._source = source

    def __str__(self) -> str:
        return f"pytreellama: {self.model_id}"

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> Iterator[str]:
        """Yield the answer to a prompt, after the conversation before it."""
        given = {k: v for k, v in prompt.options.model_dump().items() if v is not None}
        sizes = {name: given.pop(name, None) for name in _OF_ENGINE}
        try:
            engine = engine_of(self._source, sizes["n_ctx"], sizes["drafter"])
            asked: dict[str, Any] = {"max_tokens": None, **given, "json_schema": prompt.schema}
            for chunk in engine.stream(messages(prompt, conversation), **asked):
                yield chunk.text
                if chunk.stats is not None:
                    used = chunk.stats
                    response.set_usage(input=used.n_prompt, output=used.n_tokens)
        except PyTreeLlamaError as error:
            raise llm.ModelError(str(error)) from error


def messages(prompt: Any, conversation: Any) -> list[dict[str, str]]:
    """Chat messages of a prompt and the conversation before it."""
    before = [] if conversation is None else conversation.responses
    systems = [one.system for one in (*(r.prompt for r in before), prompt) if one.system]
    said = [{"role": "system", "content": systems[0]}] if systems else []
    for response in before:
        said.append({"role": "user", "content": response.prompt.prompt or ""})
        said.append({"role": "assistant", "content": response.text()})
    said.append({"role": "user", "content": prompt.prompt or ""})
    return said


def engine_of(source: str | None, n_ctx: int | None, drafter: str | None) -> Engine:
    """The open engine of a model and its sizes; the first use opens it."""
    from pytreellama.engine import Engine  # not where llm only lists its models
    from pytreellama.model.model import Model

    key = (source, n_ctx, drafter)
    engine = _engines.get(key)
    if engine is None or engine.is_closed:
        with Model(source_path(source)) as model:
            engine = _engines[key] = Engine(model, drafter or "auto", n_ctx=n_ctx)
    return engine


def close_engines() -> None:
    """Close all engines that were opened; the end of the program does so too."""
    while _engines:
        _engines.popitem()[1].close()
