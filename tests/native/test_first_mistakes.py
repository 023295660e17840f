"""What newcomers type first and wrongly, and the advice that they must get."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pytreellama as ptl
from pytreellama.cli import app

Errors = ptl.errors
PathOf = Callable[..., Path]

TYPED = {
    "a prompt without quotes": ("generate Once upon a time -m MODEL", "in quotes"),
    "llama.cpp's conversation": ("generate hi -m MODEL -no-cnv", "pytreellama chat"),
    "llama.cpp's repository": ("generate hi -hf owner/name", "-m hf:owner/name"),
    "an option of llama.cpp that is not ours": ("generate hi -m MODEL -mu 0", "-mu.*--help|-m'"),
    "a value joined to its letter": ("generate hi -m MODEL -dsuffix", "written after a space"),
    "a misspelt option": ("generate hi -m MODEL --temprature 1", "--temperature"),
    "a name for a model": ("generate hi -m llama3", "hf:owner/name or ollama:name"),
    "a repository for a path": ("generate hi -m Qwen/Qwen3-0.6B-GGUF", "hf:owner/name"),
    "a system message for plain text": ("generate hi -m MODEL --system x", "--chat"),
    "a misspelt drafter": ("generate hi -m MODEL -d sufix", "did you mean 'suffix'"),
    "heads that are none": ("medusa convert nothing.pt -o heads.gguf", "nothing.pt"),
    "a repository without its owner": ("pull SmolLM3", "owner/name"),
    "a command of Ollama": ("run hi", "No such command 'run'"),
}  # fmt: skip

CALLS: dict[str, tuple[str, type[Exception], str]] = {
    "a file that is not there": ("ptl.Engine('no.gguf')", Errors.ModelLoadError, "give the path"),
    "a message without its list": ("engine.generate({'role': 'user'})", ValueError, "list of chat"),
    "no prompt": ("engine.generate(None)", ValueError, "give text"),
    "a generator": ("engine.generate(x for x in 'a')", ValueError, "give text"),
    "bytes": ("engine.generate(b'hello')", ValueError, r"data\.decode\(\)"),
    "llama.cpp's temp": ("engine.generate('x', temp=1)", ValueError, "mean 'temperature'"),
    "transformers' limit": ("engine.generate('x', max_new_tokens=9)", ValueError, "'max_tokens'"),
    "OpenAI's stream": ("engine.generate('x', stream=True)", ValueError, r"engine\.stream"),
    "no limit, as llama.cpp says it": ("engine.generate('x', max_tokens=-1)", ValueError, "None"),
    "a list of seeds": ("engine.generate('x', seed=[1, 2])", ValueError, "expected an integer"),
    "a list for a tree": ("engine.context.decode([[1]], seq=0)", ValueError, "a TokenTree"),
    "a vocabulary for labels": (
        "ptl.TokenTree.chain([1]).to_text(engine.vocab)", ValueError, r"vocab\.piece_text",
    ),
    "its own engine in a callback": (
        "engine.generate('x', on_step=lambda _: engine.generate('y'))",
        ptl.errors.ContextError, "another thread",
    ),
    "the context's size for the model": (
        "ptl.Model(engine.model.path, n_ctx=64)", ptl.errors.ModelLoadError, "to the engine",
    ),
    "a misspelt option of the model": (
        "ptl.Model(engine.model.path, n_gpu_layer=1)", ptl.errors.ModelLoadError, "'n_gpu_layers'",
    ),
    "a misspelt size": ("ptl.ContextParams(nctx=5)", ptl.errors.ContextError, "mean 'n_ctx'"),
    "a misspelt parameter": ("ptl.SamplingParams(topp=0.5)", ValueError, "mean 'top_p'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[..., ptl.Model]) -> Iterator[ptl.Engine]:
    with ptl.Engine(tiny_model("rope"), n_ctx=256) as opened:
        yield opened


@pytest.mark.parametrize(("typed", "advice"), TYPED.values(), ids=TYPED)
def test_a_command_gets_advice(typed: str, advice: str, tiny_model_path: PathOf) -> None:
    command = typed.replace("MODEL", str(tiny_model_path("rope"))).split()
    result = CliRunner().invoke(app, command, env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code in (1, 2) and result.stdout == ""
    assert re.search(advice, result.stderr), result.stderr


@pytest.mark.parametrize(("call", "error", "advice"), CALLS.values(), ids=CALLS)
def test_a_call_gets_advice(
    call: str, error: type[Exception], advice: str, engine: ptl.Engine
) -> None:
    with pytest.raises(error, match=advice):
        eval(call, {"ptl": ptl, "engine": engine})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-ngl", "99"], "n_gpu_layers=99 has no effect: this build and machine have no GPU"),
        (["-c", "100000"], "n_ctx=100000 is more than the 512 tokens of context that"),
        (["-c", "5"], "n_ctx=5 is raised to"),
        (["-c", "0"], None),
        (["-ngl", "0"], None),
    ],
)
def test_sizes_without_effect_are_said(
    options: list[str],
    said: str | None,
    tiny_model_path: PathOf,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from pytreellama.native.system import has_gpu

    if "-ngl" in options and has_gpu():
        pytest.skip("this machine has a GPU")
    command = ["generate", "hi", "-m", str(tiny_model_path("rope")), "-n", "2", *options]
    with caplog.at_level(logging.WARNING, "pytreellama"):
        assert CliRunner().invoke(app, command).exit_code == 0
    assert caplog.messages == [] if said is None else said in caplog.messages[0]


def test_an_unknown_name_does_not_hide_a_known_ones_value() -> None:
    assert ptl.SamplingParams(top_p=0.5).top_p == 0.5
    with pytest.raises(ptl.errors.SamplerError, match="top_p"):
        ptl.SamplingParams(top_p=2.0)
