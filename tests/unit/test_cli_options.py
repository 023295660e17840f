"""The command line offers what the library offers, reads prompts and files, and starts quickly."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pytreellama.cli import app
from pytreellama.cli.chat import ChatOptions
from pytreellama.cli.options import GenerationOptions
from pytreellama.cli.sampling_flags import UsualSampling
from pytreellama.cli.serve import ServeOptions
from pytreellama.cli.session import read_prompt
from pytreellama.draft import DRAFTERS
from pytreellama.errors import RequestError, SamplerError
from pytreellama.sampling.params import SamplingParams

NAMED_OTHERWISE = {
    "grammar": "grammar_file",
    "lark": "lark_file",
    "dry_sequence_breakers": "dry_sequence_breaker",
}


class FakeStdin(io.TextIOWrapper):
    """A stdin with given bytes, at a terminal or not."""

    def __init__(self, data: bytes, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def help_text(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return result.stdout


def test_every_sampling_parameter_has_an_option() -> None:
    offered = {field.name for field in fields(GenerationOptions)}
    assert {
        NAMED_OTHERWISE.get(name, name) for name in SamplingParams.__dataclass_fields__
    } <= offered


def test_an_option_that_is_left_out_leaves_the_library_default() -> None:
    chosen, default = GenerationOptions().sampling(), SamplingParams()
    for name in set(SamplingParams.__dataclass_fields__) - {"seed"}:
        assert getattr(chosen, name) == getattr(default, name), name


def test_a_chat_is_sampled_as_its_model_recommends_where_nothing_is_given() -> None:
    recommended = {"general.sampling.temp": "0.6", "general.sampling.top_k": "20"}
    chosen = GenerationOptions(top_p=0.5).sampling(recommended, is_chat=True)
    assert (chosen.temperature, chosen.top_k, chosen.top_p, chosen.min_p) == (0.6, 20, 0.5, 0.05)
    assert GenerationOptions(temperature=0.0).sampling(recommended, is_chat=True).is_greedy
    assert GenerationOptions().sampling(recommended).is_greedy, "plain text"
    assert GenerationOptions(mirostat=2).sampling(recommended, is_chat=True).top_k == 0


def test_each_sampling_option_is_declared_once_for_all_commands() -> None:
    declared = {field.name for field in fields(UsualSampling)}
    assert declared == set(UsualSampling.__annotations__)
    commands: tuple[type, ...] = (GenerationOptions, ChatOptions, ServeOptions)
    for options in commands:
        assert declared.isdisjoint(vars(options).get("__annotations__", {}))
        assert issubclass(options, UsualSampling)


def test_a_draft_model_is_joined_to_the_drafter() -> None:
    assert GenerationOptions(model_draft="a.gguf").drafter_spec == "auto+model=a.gguf"
    assert GenerationOptions(drafter="suffix").drafter_spec == "suffix"
    with pytest.raises(RequestError, match="takes no --model-draft"):
        assert GenerationOptions(drafter="none", model_draft="a.gguf").drafter_spec


def test_a_seed_is_drawn_once_unless_it_is_given() -> None:
    drawn = {GenerationOptions().sampling().seed for _ in range(4)}
    assert None not in drawn and len(drawn) > 1
    assert GenerationOptions(seed=7).sampling().seed == 7


def test_minus_one_is_no_limit() -> None:
    assert GenerationOptions(max_tokens=-1).token_limit is None
    assert GenerationOptions(max_tokens=0).token_limit == 0


def test_names_of_llama_cpps_options_are_taken() -> None:
    text = help_text("generate")
    assert all(name in text for name in ("--n-predict", "--ctx-size", "-s ", "-ngl", "--temp"))
    assert all("--ctx-size" in help_text(command) for command in ("bench", "serve"))


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "bench", "doctor", "score"])
def test_gpus_are_chosen_by_the_names_of_llama_cpp(command: str) -> None:
    text = help_text(command)
    assert all(name in text for name in ("-ngl", "-dev", "-mg", "-sm", "-ts", "-ot", "-ncmoe"))


@pytest.mark.parametrize("command", ["generate", "tree"])
def test_help_names_every_drafter(command: str) -> None:
    text = help_text(command)
    assert "--drafter" in text
    assert all(name in text for name in DRAFTERS)


@pytest.mark.parametrize("command", [[], ["generate"], ["tree"], ["doctor"]])
def test_help_is_given_without_loading_numpy_or_the_native_part(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from pytreellama.cli import app\n"
        f"app({[*command, '--help']!r}, standalone_mode=False)\n"
        "heavy = {'numpy', 'jinja2', 'pytreellama.native'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version_is_printed_alone() -> None:
    from pytreellama import __version__

    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"pytreellama {__version__}\n")


def test_a_logit_bias_is_token_and_bias() -> None:
    params = GenerationOptions(logit_bias=["13=-inf", "42=1.5"]).sampling()
    assert dict(params.logit_bias) == {13: -math.inf, 42: 1.5}
    with pytest.raises(RequestError, match="ID=BIAS"):
        GenerationOptions(logit_bias=["13"]).sampling()


def test_a_schema_is_given_inline_or_as_a_file(tmp_path: Path) -> None:
    schema = '{"type": "object"}'
    path = tmp_path / "schema.json"
    path.write_text(schema, encoding="utf-8")
    assert GenerationOptions(json_schema=schema).sampling().json_schema == schema
    assert GenerationOptions(json_schema=str(path)).sampling().json_schema == schema
    with pytest.raises(RequestError, match=r"--json-schema .*nothing\.json cannot be read"):
        GenerationOptions(json_schema=str(tmp_path / "nothing.json")).sampling()


def test_a_grammar_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "yes.gbnf"
    path.write_text('root ::= "yes"', encoding="utf-8")
    assert GenerationOptions(grammar_file=path).sampling().grammar == 'root ::= "yes"'
    path.write_text('root ::= "yes"', encoding="utf-8-sig")
    assert GenerationOptions(grammar_file=path).sampling().grammar == 'root ::= "yes"'
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not UTF-8"):
        GenerationOptions(grammar_file=path).sampling()


def test_values_are_checked_before_a_model_is_loaded() -> None:
    with pytest.raises(SamplerError, match="top_p"):
        GenerationOptions(top_p=3.0).sampling()


@pytest.mark.parametrize("argument", [None, "-"])
@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"Once upon\n", "Once upon"),
        (b"Once upon\r\n", "Once upon"),
        (b"Once upon\n\n", "Once upon\n"),
        (b"Once\nupon", "Once\nupon"),
        ("größer\n".encode(), "größer"),
        ("\ufeffOnce upon\n".encode(), "Once upon"),
    ],
)
def test_a_piped_prompt_loses_the_line_break_at_its_end(
    argument: str | None, data: bytes, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", FakeStdin(data))
    assert read_prompt(GenerationOptions(prompt=argument)) == prompt


def test_no_prompt_at_a_terminal_is_an_error_and_not_a_silent_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", FakeStdin(b"typed\n", is_terminal=True))
    with pytest.raises(RequestError, match="there is no prompt"):
        read_prompt(GenerationOptions())
    assert read_prompt(GenerationOptions(prompt="-")) == "typed"


@pytest.mark.parametrize("stdin", [None, FakeStdin(b""), FakeStdin(b"\n")])
def test_an_empty_or_closed_stdin_is_an_error(
    stdin: FakeStdin | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(RequestError, match="there is no prompt"):
        read_prompt(GenerationOptions())


def test_a_prompt_that_is_not_utf8_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", FakeStdin(b"\xff\xfe"))
    with pytest.raises(RequestError, match="not UTF-8"):
        read_prompt(GenerationOptions())


def test_a_chat_prompt_is_one_message_after_the_systems() -> None:
    user, system = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief"}
    assert read_prompt(GenerationOptions(prompt="Hi", chat=True)) == [user]
    assert read_prompt(GenerationOptions(prompt="Hi", chat=True, system="Be brief")) == [
        system,
        user,
    ]
    with pytest.raises(RequestError, match="add --chat"):
        read_prompt(GenerationOptions(prompt="Hi", system="Be brief"))
