"""``--lora`` on command lines: files, scales, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pytreellama import Engine, Model
from pytreellama.cli import app
from pytreellama.cli.lora_flags import lora_files, lora_scales
from pytreellama.errors import RequestError
from tiny_lora import write_tiny_lora


def invoke(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def test_a_number_behind_the_last_equals_sign_is_a_scale() -> None:
    given = ["a.gguf", "b/x=1.gguf", "c.gguf=0.5", "d.gguf=-1"]
    assert lora_files(given) == {
        "a": "a.gguf",
        "x=1": "b/x=1.gguf",
        "c": "c.gguf",
        "d": "d.gguf",
    }
    assert lora_scales(given) == {"a": 1.0, "x=1": 1.0, "c": 0.5, "d": -1.0}
    assert lora_files(None) == lora_scales(None) == {}


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="another adapter is called 'a' too"):
        lora_files(["a.gguf", "other/a.gguf=0.5"])


def test_generate_writes_what_an_engine_with_the_adapter_does(
    tiny_model: Callable[..., Model], tmp_path: Path
) -> None:
    model = tiny_model("rope")
    path = write_tiny_lora(tmp_path / "a.gguf", model.path)
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0}
    with Engine(model, "none", lora=path) as engine:
        expected = engine.generate("the cat", lora={"a": 0.5}, **options).text
        assert expected != engine.generate("the cat", lora={}, **options).text
    arguments = ("generate", "the cat", "-m", str(model.path), "-n", "12", "--temp", "0")
    assert expected in invoke(*arguments, "--lora", f"{path}=0.5").stdout
    assert "cannot load" in invoke(*arguments, "--lora", str(model.path), code=1).stderr
    assert "invalid scale" in invoke(*arguments, "--lora", f"{path}=nan", code=1).stderr
