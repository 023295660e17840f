"""The commands on tiny models: the same as the library says, in the place where it belongs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from pytreellama import Engine, Model, integrity
from pytreellama.cli import app
from pytreellama.cli.comparison import Comparison, compare, parting_text
from pytreellama.cli.options import GenerationOptions
from pytreellama.cli.session import open_engine, run
from pytreellama.engine import Completion
from pytreellama.integrity import FileCheck

PROMPT = "the cat and the dog and the cat and the dog and the"
PathOf = Callable[..., Path]
Loaded = Callable[..., Model]


@pytest.fixture
def model_path(tiny_model_path: PathOf) -> str:
    return str(tiny_model_path("rope"))


@pytest.fixture
def model(tiny_model: Loaded) -> Model:
    return tiny_model("rope")


def invoke(*arguments: str, stdin: str | None = None, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments], input=stdin)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def invoke_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The one object on stdout: anything beside it does not parse."""
    parsed: dict[str, Any] = json.loads(invoke(*arguments, "--json", code=code).stdout)
    return parsed


def common(one: list[int], other: list[int]) -> int:
    n = min(len(one), len(other))
    return next((i for i in range(n) if one[i] != other[i]), n)


# -- generate


def test_generate_writes_what_the_engine_writes(model: Model, model_path: str) -> None:
    with Engine(model) as engine:
        expected = engine.generate(PROMPT, max_tokens=12)
    result = invoke("generate", PROMPT, "-m", model_path, "-n", "12")
    assert result.stdout.rstrip("\n") == expected.text.rstrip("\n")
    assert result.stderr == "(cut after 12 tokens; -n sets another limit)\n"


def test_a_draft_model_is_named_by_its_file(model_path: str) -> None:
    asked = ("generate", PROMPT, "-m", model_path, "-n", "16")
    plain = invoke_json(*asked, "-d", "none")
    alone = invoke_json(*asked, "-d", model_path)
    planned = invoke_json(*asked, "-md", model_path)
    assert alone["tokens"] == planned["tokens"] == plain["tokens"]
    assert alone["stats"]["drafters"]["model"]["n_accepted"] > 0
    assert planned["drafter"] == f"auto+model={model_path}"


def test_minus_one_writes_until_the_context_is_full(model_path: str) -> None:
    arguments = ("-m", model_path, "--n-predict", "-1", "--ctx-size", "256", "-s", "1")
    got = invoke_json("generate", PROMPT, *arguments, "--ignore-eos", "--compare")
    assert got["finish_reason"] == "context" and len(got["tokens"]) > 128
    assert "-1" in invoke("generate", PROMPT, "-m", model_path, "-n", "-2", code=2).stderr


def test_a_prompt_from_stdin_is_the_prompt_as_an_argument(model_path: str) -> None:
    arguments = ("generate", "-m", model_path, "-n", "8")
    assert invoke(*arguments, stdin=PROMPT + "\n").stdout == invoke(*arguments, PROMPT).stdout


def test_generate_json_is_the_completion(model: Model, model_path: str) -> None:
    with Engine(model) as engine:
        expected = engine.generate(PROMPT, max_tokens=12, temperature=0.9, seed=3)
    arguments = ("-m", model_path, "-n", "12", "--temperature", "0.9", "--seed", "3")
    got = invoke_json("generate", PROMPT, *arguments)
    assert got["text"] == expected.text
    assert got["tokens"] == list(expected.tokens)
    assert (got["finish_reason"], got["seed"]) == (expected.finish_reason, 3)
    assert got["stats"]["n_prompt"] == expected.stats.n_prompt
    assert got["model"]["path"] == model_path and got["model"]["architecture"] == "llama"


def test_a_drawn_seed_is_reported_and_gives_the_same_text_again(model_path: str) -> None:
    arguments = ("generate", PROMPT, "-m", model_path, "-n", "12", "--temperature", "1.5")
    first = invoke_json(*arguments)
    assert invoke_json(*arguments, "--seed", str(first["seed"]))["tokens"] == first["tokens"]


def test_chat_goes_through_the_models_template(model: Model, model_path: str) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    with Engine(model) as engine:
        expected = engine.generate([messages], max_tokens=8, seed=7)[0]
    arguments = ("--chat", "--system", "be brief", "-m", model_path, "-n", "8", "-s", "7")
    got = invoke_json("generate", "hi", *arguments)
    assert got["tokens"] == list(expected.tokens)
    assert got["stats"]["n_prompt"] == expected.stats.n_prompt


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(model_path: str) -> None:
    arguments = ("generate", PROMPT, "-m", model_path, "-n", "24", "--ignore-eos")
    whole = invoke_json(*arguments)["text"]
    stop = whole[len(whole) // 2 :][:3]
    stopped = invoke_json(*arguments, "--stop", stop)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole[: whole.index(stop)]


def test_sizes_and_threads_reach_the_engine(model: Model) -> None:
    options = GenerationOptions(n_ctx=512, threads=1, n_draft=3)
    with open_engine(model, options) as engine:
        assert (engine.context.n_ctx, engine.context.n_threads, engine.n_draft) == (512, 1, 3)
    with open_engine(model, GenerationOptions(n_ctx=256, threads=2)) as engine:
        assert (engine.context.n_ctx, engine.context.n_threads) == (256, 2)


def test_end_tokens_are_written_past_where_asked(model: Model, model_path: str) -> None:
    bias = ("--logit-bias", f"{model.vocab.eos}=1000")
    arguments = ("generate", PROMPT, "-m", model_path, "-n", "6", *bias)
    ended = invoke_json(*arguments)
    assert (ended["tokens"], ended["finish_reason"]) == ([], "stop")
    ignored = invoke_json(*arguments, "--ignore-eos")
    assert ignored["tokens"] == [model.vocab.eos] * 6


def test_compare_sees_the_same_end_token_as_the_same_text(model: Model, model_path: str) -> None:
    bias = ("--logit-bias", f"{model.vocab.eos}=1000")
    got = invoke_json("generate", PROMPT, "-m", model_path, "-n", "6", *bias, "--compare")
    assert got["comparison"]["identical"] is True
    assert (got["comparison"]["n_same_tokens"], got["comparison"]["logp_gap"]) == (0, None)


def test_stats_go_to_stderr(model_path: str) -> None:
    arguments = ("generate", PROMPT, "-m", model_path, "-n", "8")
    with_stats = invoke(*arguments, "--stats")
    assert with_stats.stdout == invoke(*arguments).stdout
    assert "tokens a step" in with_stats.stderr and "8 tokens in" in with_stats.stderr


@pytest.mark.parametrize("kind", ["rope", "recurrent"])
def test_compare_tells_both_generations_and_whether_they_are_the_same(
    kind: str, tiny_model_path: PathOf
) -> None:
    arguments = ("-m", str(tiny_model_path(kind)), "-n", "16", "-d", "suffix", "--compare")
    got = invoke_json("generate", PROMPT, *arguments)
    plain, comparison = got["plain"], got["comparison"]
    assert plain["stats"]["n_drafted"] == 0 and plain["stats"]["tokens_per_step"] == 1.0
    assert comparison["identical"] == (plain["tokens"] == got["tokens"])
    assert comparison["n_same_tokens"] == common(plain["tokens"], got["tokens"])
    ratio = got["stats"]["tokens_per_s"] / plain["stats"]["tokens_per_s"]
    assert comparison["speedup"] == pytest.approx(ratio)


def test_compare_draws_alike_on_both_sides(model_path: str) -> None:
    arguments = ("-m", model_path, "-n", "16", "--temperature", "1", "--compare", "-d", "suffix")
    got = invoke_json("generate", PROMPT, *arguments)
    assert got["plain"]["seed"] == got["seed"]


def test_compare_ends_with_a_table(model_path: str) -> None:
    result = invoke("generate", PROMPT, "-m", model_path, "-n", "8", "--compare")
    for row in ("tokens/s", "ratio", "tokens a step", "drafted", "accepted", "same text"):
        assert row in result.stderr


def comparison_with(model: Model, change: Callable[[Completion], Completion]) -> Comparison:
    """Plain decoding compared with a changed plain generation."""
    options = GenerationOptions(prompt=PROMPT, max_tokens=8, ignore_eos=True)
    sampling = options.sampling()
    with open_engine(model, options, "none") as engine:
        honest = run(engine, PROMPT, options, sampling)
    return compare(model, PROMPT, options, sampling, change(honest))


def test_a_parting_is_found_where_it_is_with_its_distance(model: Model) -> None:
    def other_token_at_5(honest: Completion) -> Completion:
        tokens = list(honest.tokens)
        tokens[5] = (tokens[5] + 1) % model.vocab.n_tokens
        return replace(honest, tokens=tuple(tokens), text=model.vocab.decode(tokens))

    comparison = comparison_with(model, other_token_at_5)
    assert not comparison.is_identical
    assert comparison.n_same == 5
    assert comparison.logp_gap is not None and comparison.logp_gap >= 0
    assert "part after 5 tokens" in parting_text(comparison)
    assert "apart in log-probability" in parting_text(comparison)


def test_a_text_that_ends_too_early_is_not_the_same(model: Model) -> None:
    comparison = comparison_with(
        model, lambda honest: replace(honest, tokens=honest.tokens[:4], finish_reason="stop")
    )
    assert not comparison.is_identical
    assert comparison.n_same == 4
    assert comparison.logp_gap is not None


def test_the_same_text_is_the_same(model: Model) -> None:
    comparison = comparison_with(model, lambda honest: honest)
    assert comparison.is_identical and comparison.speedup
    assert (comparison.n_same, comparison.logp_gap) == (8, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drafter", "nope"], "invalid drafter='nope'"),
        (["--drafter", "none", "--compare"], "compares plain with plain"),
        (["--top-p", "2"], "top_p"),
        (["--system", "x"], "--chat"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_a_request_that_cannot_be_served_is_one_line(
    arguments: list[str], message: str, model_path: str
) -> None:
    result = invoke("generate", PROMPT, "-m", model_path, *arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "not.gguf"
    path.write_bytes(b"hello")
    result = invoke("generate", PROMPT, "-m", str(path), code=1)
    assert "not a GGUF file" in result.stderr and result.stderr.count("\n") == 1


# -- tree


def test_tree_json_holds_every_step_and_their_tokens_are_the_text(model_path: str) -> None:
    arguments = ("-m", model_path, "-n", "12", "-d", "suffix", "--ignore-eos")
    got = invoke_json("tree", PROMPT, *arguments)
    assert [token for step in got["steps"] for token in step["tokens"]] == got["tokens"]
    assert got["stats"]["n_drafted"] > 0
    assert [len(s["tree"]["tokens"]) for s in got["steps"]] == got["stats"]["tree_sizes"]
    for step in got["steps"]:
        assert len(step["texts"]) == len(step["tree"]["tokens"])
        assert step["path"][0] == 0 and len(step["path"]) == len(step["tokens"])


@pytest.mark.parametrize("min_nodes", [1, 2, 5])
def test_tree_draws_the_steps_with_enough_nodes(
    min_nodes: int, model_path: str, tmp_path: Path
) -> None:
    arguments = ("tree", PROMPT, "-m", model_path, "-n", "12", "-d", "suffix", "--ignore-eos")
    sizes = invoke_json(*arguments)["stats"]["tree_sizes"]
    large = [number for number, size in enumerate(sizes, 1) if size >= min_nodes]
    assert large
    folder = tmp_path / "new" / "drawings"
    result = invoke(*arguments, "--min-nodes", str(min_nodes), "--svg", str(folder))
    assert result.stdout.count("\ntrunk\n") == len(large)
    assert result.stdout.count("✓") >= len(large)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{n:04d}.svg" for n in large]
    for path in folder.iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_tree_has_no_colour_codes_where_stdout_is_no_terminal(model_path: str) -> None:
    assert "\x1b" not in invoke("tree", PROMPT, "-m", model_path, "-n", "6").stdout


def test_a_directory_that_cannot_be_made_is_one_line(model_path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    inside = str(tmp_path / "file" / "drawings")
    result = invoke("tree", PROMPT, "-m", model_path, "--svg", inside, code=1)
    assert result.stderr.startswith("error: ") and inside in result.stderr


# -- doctor


def test_doctor_tells_the_models_facts(model: Model, model_path: str) -> None:
    got = invoke_json("doctor", "-m", model_path, "--no-speed")
    assert got["problems"] == [] and got["speed"] is None
    assert got["build"]["backends"] and got["devices"]
    told = got["model"]
    assert told["n_params"] == model.n_params and told["n_vocab"] == model.vocab.n_tokens
    assert told["can_branch"] is True and told["has_chat_template"] is True
    assert sum(told["weight_buffers"].values()) > 0


def test_doctor_verifies_the_compiled_files(model_path: str) -> None:
    got = invoke_json("doctor", "-m", model_path, "--no-speed", "--verify")
    native = [file for file in got["files"] if "native" in file["path"]]
    assert native and all(file["problem"] is None for file in native)


def test_doctor_ends_with_status_1_where_a_hash_differs(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = FileCheck(Path("lib"), "0" * 64, "lib has sha256 1, expected 0")
    monkeypatch.setattr(integrity, "check_native", lambda: [wrong])
    monkeypatch.setattr(integrity, "check_default_model", lambda: None)
    result = invoke("doctor", "-m", model_path, "--no-speed", "--verify", code=1)
    assert "lib has sha256 1, expected 0" in result.stderr


def test_doctor_measures_passes_of_every_size(model_path: str) -> None:
    speed = invoke_json("doctor", "-m", model_path, "--threads", "1")["speed"]
    assert [one["n_nodes"] for one in speed["passes"]] == [1, 2, 4, 8, 16]
    assert all(one["median_s"] > 0 and one["n_samples"] > 0 for one in speed["passes"])
    assert speed["passes"][0]["cost"] == 1.0
    assert speed["n_threads"] == 1
    assert speed["logit_difference"] < 0.1


def test_doctor_measures_a_model_without_drafts_token_by_token(tiny_model_path: PathOf) -> None:
    got = invoke_json("doctor", "-m", str(tiny_model_path("minimax-01")), "--threads", "1")
    assert [one["n_nodes"] for one in got["speed"]["passes"]] == [1]
    assert got["speed"]["logit_difference"] is None
    assert any("token by token" in text for text in got["advice"])


def test_doctor_prints_tables_and_a_line_on_exactness(model_path: str) -> None:
    result = invoke("doctor", "-m", model_path, "--threads", "1")
    for part in ("this build", "this machine", "this model", "a pass over", "Exactness:"):
        assert part in result.stdout
    assert result.stderr == ""


def test_doctor_tells_the_rest_where_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.gguf")
    result = invoke("doctor", "-m", missing, code=1)
    assert "this build" in result.stdout and "this machine" in result.stdout
    assert result.stderr.startswith("error: cannot read the model file")
    got = invoke_json("doctor", "-m", missing, code=1)
    assert got["build"] and got["model"] is None and len(got["problems"]) == 1


# -- demo


def test_the_demonstration_compares_three_tasks(model_path: str) -> None:
    shown = invoke_json("demo", "-m", model_path, "-n", "24")
    assert [task["task"] for task in shown["tasks"]] == ["free prose", "a list", "editing a text"]
    assert all(task["text"] and task["times_plain"] > 0 for task in shown["tasks"])


def test_the_demonstration_streams_and_ends_with_a_table(model_path: str) -> None:
    result = invoke("demo", "-m", model_path, "-n", "8")
    for text in ("free prose", "editing a text", "tokens a pass", "same text"):
        assert text in result.stdout
    assert "Count from 1 to 30" in result.stderr


# -- tokenize, score, embed, quantize


def test_tokenize_shows_what_the_vocabulary_says(model: Model, model_path: str) -> None:
    text = "the cat<|im_end|>"
    expected = model.vocab.encode(text, add_eos=False, parse_special=True)
    got = invoke_json("tokenize", text, "-m", model_path)
    assert got["tokens"] == expected and got["pieces"][-1] == "<|im_end|>"
    letters = invoke_json("tokenize", text, "-m", model_path, "--no-special", "--no-bos")
    assert letters["tokens"] == model.vocab.encode(text, add_special=False)
    shown = invoke("tokenize", "-m", model_path, stdin=text + "\n")
    assert "'<|im_end|>'" in shown.stdout and f"{len(expected)} tokens" in shown.stderr


def test_score_is_the_engines(model: Model, model_path: str) -> None:
    with Engine(model, "none") as engine:
        expected = engine.score(PROMPT, [" cat", " dog and"])
    got = invoke_json("score", PROMPT, " cat", " dog and", "-m", model_path)["scores"]
    assert [row["logp"] for row in got] == [one.logp for one in expected]
    assert [row["tokens"] for row in got] == [list(one.tokens) for one in expected]
    assert "log-probability" in invoke("score", PROMPT, " cat", "-m", model_path).stdout


def test_embed_writes_a_line_for_each_text(model: Model, model_path: str) -> None:
    with Engine(model, "none") as engine:
        expected = engine.embed(["the cat", "the dog"])
    lines = invoke("embed", "-m", model_path, stdin="the cat\nthe dog\n").stdout.splitlines()
    got = [json.loads(line) for line in lines]
    assert [one["text"] for one in got] == ["the cat", "the dog"]
    assert [one["embedding"] for one in got] == expected.tolist()
    assert (
        "error: pooling"
        in invoke("embed", "x", "-m", model_path, "--pooling", "sum", code=1).stderr
    )


def test_quantize_writes_a_model(model_path: str, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    got = invoke_json("quantize", model_path, str(target), "q8_0")
    assert got["path"] == str(target) and got["n_bytes"] == target.stat().st_size
    assert "expected one of" in invoke("quantize", model_path, str(target), "q9", code=1).stderr
