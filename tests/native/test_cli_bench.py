"""``bench`` and ``plan`` on tiny models: one object, one report, and clean ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pytreellama import Engine, Model
from pytreellama.bench.prompts import BenchPrompt
from pytreellama.bench.runs import BenchSettings, drafter_and_size, measure, prompt_tokens
from pytreellama.cli import app
from pytreellama.cli.output import ProgressBar
from pytreellama.errors import DraftError, RequestError
from pytreellama.plan import CostCurve, PassCost

PROMPT = "the cat and the dog and the cat and the dog and the"
LINES = [
    {"category": "cats", "prompt": PROMPT},
    {"category": "greetings", "turns": ["hello <b> & hello"]},
]
PathOf = Callable[..., Path]
Loaded = Callable[..., Model]


@pytest.fixture(autouse=True)
def cheap_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of tiny models take microseconds: whether a tree pays is chance, unless it is said."""
    curve = CostCurve.fit([PassCost(1, 0, 1.0), PassCost(64, 0, 1.01)])
    monkeypatch.setattr("pytreellama.engine.drafting.load_curve", lambda context: curve)
    monkeypatch.setattr("pytreellama.engine.drafting.save_curve", lambda context, curve: None)


@pytest.fixture
def model_path(tiny_model_path: PathOf) -> str:
    return str(tiny_model_path("rope"))


@pytest.fixture
def model(tiny_model: Loaded) -> Model:
    return tiny_model("rope")


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    return str(path)


def invoke(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def one_line_of(*arguments: str) -> str:
    result = invoke(*arguments, code=1)
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    return str(result.stderr)


# -- bench


def test_bench_gives_one_object_and_a_report(
    model_path: str, prompts: str, tmp_path: Path, model: Model
) -> None:
    html = tmp_path / "report.html"
    arguments = ("-m", model_path, "-p", prompts, "-n", "12", "--repeats", "2", "-t", "1")
    drafters = ("-d", "suffix", "-d", "suffix:2", "-d", "auto")
    result = invoke("bench", *arguments, *drafters, "--html", str(html), "--json")
    got = json.loads(result.stdout)
    assert [one["drafter"] for one in got["drafters"]] == ["none", "suffix", "suffix:2", "auto"]
    assert len(got["answers"]) == 4 * 2 * 2
    assert (got["settings"]["n_threads"], got["settings"]["n_ctx"]) == (1, 256)
    for one in got["drafters"]:
        assert set(one["categories"]) == {"cats", "greetings"}
        assert one["identical"] is True
        assert one["all"]["totals"]["n_tokens"] == 4 * 12
        assert one["all"]["ratio"]["min"] > 0
    plain = got["drafters"][0]["all"]
    assert plain["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert all(max(a["stats"]["tree_sizes"]) <= 3 for a in of(got, "suffix:2"))
    assert max(max(a["stats"]["tree_sizes"]) for a in of(got, "suffix")) > 3
    assert set(got["planning"]["drafters"]) == {"suffix", "recycling"}
    assert sum(one["n_guesses"] for one in got["planning"]["calibration"]) > 0
    assert got["planning"]["pass_s"][1] > 0
    report = html.read_text(encoding="utf-8")
    assert "hello &lt;b&gt; &amp; hello" in report and report.count("<svg") == 6


def of(got: dict[str, Any], drafter: str) -> list[dict[str, Any]]:
    return [answer for answer in got["answers"] if answer["drafter"] == drafter]


def test_bench_prints_tables_and_what_came_of_it(model_path: str, prompts: str) -> None:
    arguments = ("-m", model_path, "-p", prompts, "-n", "6", "--repeats", "1", "-d", "auto")
    result = invoke("bench", *arguments)
    for part in ("times as fast", "tokens a second", "tokens a step", "cats", "same text", "all"):
        assert part in result.stdout
    assert "With drafter auto" in result.stdout and "1 repeat," in result.stdout
    assert result.stderr == ""


def test_bench_answers_our_own_prompts_by_default(model_path: str) -> None:
    arguments = ("-m", model_path, "-n", "2", "--repeats", "1", "--limit", "1", "-d", "suffix")
    got = json.loads(invoke("bench", *arguments, "--json").stdout)
    assert len(got["prompts"]) == 8 and got["planning"] is None
    assert got["drafters"][1]["categories"].keys() >= {"story", "code", "retrieval"}


def test_bench_measures_a_model_that_cannot_branch(tiny_model_path: PathOf, prompts: str) -> None:
    path = str(tiny_model_path("qwen4exp"))
    arguments = ("-m", path, "-p", prompts, "-n", "4", "--repeats", "1", "-d", "suffix")
    got = json.loads(invoke("bench", *arguments, "--json").stdout)
    assert got["drafters"][1]["all"]["tokens_per_step"]["median"] == 1.0


def test_each_repeat_has_new_engines_and_all_answer_the_same(model: Model) -> None:
    shares: list[float] = []
    prompts = [BenchPrompt(PROMPT), BenchPrompt("one two one two one")]
    settings = BenchSettings(("recycling",), n_tokens=12, n_repeats=2, n_threads=1)
    made = measure(model, prompts, settings, shares.append).results
    of_repeat = [
        [(a.tokens, a.stats.tree_sizes) for a in made.answers if a.repeat == repeat]
        for repeat in range(2)
    ]
    # the turns differ, but nothing that was learned in the first repeat helps in the second
    assert sorted(of_repeat[0]) == sorted(of_repeat[1])
    assert [a.drafter for a in made.answers if a.prompt == 0] == [
        *("none", "recycling"),
        *("recycling", "none"),
    ]
    assert shares == sorted(shares) and len(shares) == 12 and shares[-1] == 1.0
    with Engine(model, "none") as engine:
        expected = engine.generate(PROMPT, max_tokens=12).tokens
    assert {a.tokens for a in made.answers if a.prompt == 0} == {expected}


def test_messages_go_through_the_template_and_texts_do_not(model: Model) -> None:
    chat = BenchPrompt(PROMPT).as_chat()
    with Engine(model, "none") as engine:
        assert prompt_tokens(model, chat) == engine.encode_prompt(chat.content)
        assert prompt_tokens(model, BenchPrompt(PROMPT)) == engine.encode_prompt(PROMPT)
    assert prompt_tokens(model, chat) != prompt_tokens(model, BenchPrompt(PROMPT))


def test_messages_are_texts_to_a_model_without_a_template(model: Model) -> None:
    class WithoutTemplate:
        chat_template = None
        vocab = model.vocab

    chat = BenchPrompt(PROMPT).as_chat()
    assert prompt_tokens(WithoutTemplate(), chat) == model.vocab.encode(PROMPT)  # type: ignore[arg-type]


def test_a_drafters_name_may_have_a_size() -> None:
    assert drafter_and_size("suffix+ngram") == ("suffix+ngram", None)
    assert drafter_and_size("suffix+ngram:16") == ("suffix+ngram", 16)
    for name in ("suffix:", "suffix:0", "suffix:x", "suffix:-1"):
        with pytest.raises(RequestError, match="not a number of nodes"):
            drafter_and_size(name)
    assert drafter_and_size("model=hf:owner/name:Q4_K_M") == ("model=hf:owner/name:Q4_K_M", None)
    assert drafter_and_size("model=hf:owner/name:8") == ("model=hf:owner/name", 8)
    with pytest.raises(DraftError, match="invalid drafter='nope'"):
        drafter_and_size("nope:3")


def test_prompts_that_leave_no_room_are_told_before_anything_is_measured(model: Model) -> None:
    prompts = [BenchPrompt("a", line=1), BenchPrompt("a b " * 300, line=7)]
    with pytest.raises(RequestError, match=r"1 of 2 prompts .* context of 512 \(lines 7;"):
        measure(model, prompts, BenchSettings(("suffix",), n_tokens=8), lambda share: None)
    with pytest.raises(RequestError, match=r"2 of 2 prompts .* context of 32 "):
        measure(
            model, prompts, BenchSettings(("suffix",), n_tokens=64, n_ctx=32), lambda share: None
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "missing.jsonl"], "--prompts missing.jsonl cannot be read: No such file"),
        (["-d", "nope"], "invalid drafter='nope'"),
        (["-d", "none"], "always measured"),
        (["-d", "suffix:x"], "not a number of nodes"),
        (["--html", "."], "is a directory"),
        (["--html", "missing/report.html"], "there is no directory missing"),
        (["-m", "missing.gguf"], "missing.gguf"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], message: str) -> None:
    assert message in one_line_of("bench", *arguments)


def test_a_malformed_line_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n', encoding="utf-8")
    told = one_line_of("bench", "-p", str(path))
    assert f"{path}, line 2 has none of" in told and "its keys are: text" in told


def test_an_interrupt_ends_it_quietly_and_leaves_no_report(
    model_path: str, prompts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(bar: ProgressBar, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "report", interrupt)
    html = tmp_path / "report.html"
    arguments = ("-m", model_path, "-p", prompts, "-n", "4", "-d", "auto", "--html", str(html))
    monkeypatch.setattr("pytreellama.cli.session.ProgressBar", _Silent)
    result = invoke("bench", *arguments, code=130)
    assert (result.stdout, result.stderr, html.exists()) == ("", "", False)


class _Silent(ProgressBar):
    def report(self, share: float) -> None:
        """Loading a model is not interrupted."""


# -- plan


def test_plan_gives_every_step_with_its_guesses(model_path: str) -> None:
    arguments = ("plan", PROMPT, "-m", model_path, "-n", "12", "--ignore-eos", "--json")
    got = json.loads(invoke(*arguments).stdout)
    assert [token for step in got["steps"] for token in step["tokens"]] == got["tokens"]
    assert sum(step["n_accepted"] for step in got["steps"]) == got["stats"]["n_accepted"]
    plans = [step["plan"] for step in got["steps"] if step["plan"] is not None]
    candidates = [candidate for plan in plans for candidate in plan["guesses"]]
    assert candidates and all(
        0 <= candidate["p"] <= 1 and candidate["drafters"] for candidate in candidates
    )
    n_taken = sum(candidate["taken"] for candidate in candidates)
    assert n_taken >= got["stats"]["n_drafted"]
    assert set(got["drafters"]) == {"suffix", "recycling"}
    assert got["pass_s"]["1"] > 0 and got["curve"]["knots"][0] == 1
    assert got["steps"][0]["took_s"] is None
    assert all(step["took_s"] > 0 for step in got["steps"][1:])


def test_plan_tells_why(model_path: str) -> None:
    arguments = ("plan", PROMPT, "-m", model_path, "-n", "12", "--ignore-eos", "-d", "suffix")
    told = invoke(*arguments, "--candidates", "2").stdout
    for part in ("step 1: ", "candidates chosen", "times plain decoding", "proposed by", "goes on"):
        assert part in told
    for part in ("in all", "what a pass costs", "what is known of the drafters", "expected"):
        assert part in told
    assert "recycling" not in told


@pytest.mark.parametrize(
    ("drafter", "message"),
    [("none", "nothing to plan"), ("suffix+none", "nothing to plan"), ("nope", "invalid drafter")],
)
def test_plan_needs_drafters(drafter: str, message: str) -> None:
    assert message in one_line_of("plan", PROMPT, "-d", drafter)


# -- generate --stats


def test_stats_of_planned_trees_tell_what_was_expected_and_whose_guesses_came(
    model_path: str,
) -> None:
    arguments = ("generate", PROMPT, "-m", model_path, "-n", "16", "--ignore-eos", "--stats")
    planned, fixed = invoke(*arguments).stderr, invoke(*arguments, "-d", "suffix").stderr
    assert "planning" in planned and "expected to be accepted" in planned
    assert "planning" not in fixed and "expected" not in fixed


def test_trees_of_any_size_may_be_planned_unless_a_size_is_given(model_path: str) -> None:
    arguments = ("generate", PROMPT, "-m", model_path, "-n", "4", "--json")
    for more, most in (((), 65), (("--n-draft", "2"), 3)):
        sizes = json.loads(invoke(*arguments, *more).stdout)["stats"]["tree_sizes"]
        assert max(sizes) <= most


@pytest.mark.parametrize("command", ["bench", "plan"])
def test_help_is_given_without_loading_numpy_or_the_native_part(command: str) -> None:
    code = (
        "import sys\n"
        "from pytreellama.cli import app\n"
        f"app([{command!r}, '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'jinja2', 'pytreellama.native'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
