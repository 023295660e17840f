"""``medusa train``, ``eval`` and ``convert`` on tiny models: one object, one table, clean ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pytreellama import Model
from pytreellama.cli import app
from pytreellama.model.heads import Heads
from random_heads import write_random_heads

_HOW = "pip install 'pytreellama[train]'"
pytest.importorskip("gguf", reason=f"needs gguf: {_HOW}")

PathOf = Callable[..., Path]
Loaded = Callable[..., Model]

SIZES = (
    "--answer-tokens",
    "12",
    "--heads",
    "2",
    "--layers",
    "1",
    "--shortlist",
    "64",
    "--batch",
    "16",
    "--epochs",
    "2",
)
N_EMBD, N_VOCAB = 64, 320


@pytest.fixture
def model_path(tiny_model_path: PathOf) -> str:
    return str(tiny_model_path("rope", n_embd=N_EMBD, n_vocab=N_VOCAB))


@pytest.fixture
def model(tiny_model: Loaded) -> Model:
    return tiny_model("rope", n_embd=N_EMBD, n_vocab=N_VOCAB)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(f"the cat and {i} dogs" for i in range(30)), encoding="utf-8")
    return str(path)


@pytest.fixture
def heads(model: Model, tmp_path: Path) -> str:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees="path", n_heads=3, n_shortlist=100)
    return str(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    safetensors = pytest.importorskip("safetensors.numpy", reason=f"needs safetensors: {_HOW}")
    random = np.random.default_rng(1)
    shapes = {
        "0.0.linear.weight": (N_EMBD, N_EMBD),
        "0.0.linear.bias": (N_EMBD,),
        "0.1.weight": (N_VOCAB, N_EMBD),
    }
    tensors = {name: random.normal(size=n).astype(np.float32) for name, n in shapes.items()}
    path = tmp_path / "medusa_lm_head.safetensors"
    safetensors.save_file(tensors, path)
    return str(path)


@pytest.fixture
def small_training() -> None:
    torch = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")
    torch.set_num_threads(1)


def invoke(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["medusa", *arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def one_line_of(*arguments: str) -> str:
    result = invoke(*arguments, code=1)
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    return str(result.stderr)


# -- train


@pytest.mark.usefixtures("small_training")
def test_train_writes_heads_and_gives_one_object(
    model_path: str, model: Model, tmp_path: Path
) -> None:
    output, work = tmp_path / "heads.gguf", tmp_path / "work"
    arguments = (model_path, "-o", str(output), "-n", "300", *SIZES, "--type", "f16")
    more = ("--sees", "root", "--work", str(work), "--seed", "5", "--json")
    got = json.loads(invoke("train", *arguments, *more).stdout)
    assert got["path"] == str(output) and got["n_tokens"] >= 300
    assert len(got["top1"]) == len(got["top5"]) == 2
    assert 1 <= got["tokens_per_step"] <= 3 and got["n_positions"] > 0
    assert got["writing_s"] > 0 and got["training_s"] > 0
    assert (work / "facts.json").exists()
    with Heads(output, model) as heads:
        assert (heads.n_heads, heads.n_layers, heads.n_rows, heads.sees) == (2, 1, 64, "root")
        assert heads.meta("medusa.training.seed") == "5"


@pytest.mark.usefixtures("small_training")
def test_train_answers_the_prompts_of_a_file_and_prints_a_table(
    model_path: str, prompts: str, tmp_path: Path
) -> None:
    arguments = (model_path, "-o", str(tmp_path / "heads.gguf"), "-n", "100", "-p", prompts)
    told = invoke("train", *arguments, *SIZES, "--work", str(tmp_path / "work")).stdout
    for part in ("trained", "writing", "right, by head", "among the first five", "tokens a step"):
        assert part in told
    again = invoke("train", *arguments, *SIZES, "--work", str(tmp_path / "work"), "--json")
    assert again.stderr == "" and json.loads(again.stdout)["n_tokens"] >= 100


@pytest.mark.usefixtures("small_training")
def test_other_prompts_in_the_same_work_folder_are_one_line(
    model_path: str, prompts: str, tmp_path: Path
) -> None:
    arguments = (model_path, "-o", str(tmp_path / "heads.gguf"), "-n", "100", *SIZES)
    work = ("--work", str(tmp_path / "work"))
    invoke("train", *arguments, *work, "-p", prompts)
    told = one_line_of("train", *arguments, *work)
    assert "another model, or written with other options; give another --work folder" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "missing/heads.gguf"], "there is no folder missing to write heads.gguf into"),
        (["-o", "."], "is a folder; give the name of a file"),
        (["-o", "heads.gguf", "--learning-rate", "0"], "learning_rate = 0.0 was asked for"),
        (["-o", "heads.gguf", "--shortlist", "-1"], "n_shortlist = -1 was asked for"),
        (["-o", "heads.gguf", "-p", "missing.txt"], "--prompts missing.txt cannot be read"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    model_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in one_line_of("train", model_path, *arguments, "--work", "work")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    assert "missing.gguf" in one_line_of("train", "missing.gguf", "-o", str(tmp_path / "a.gguf"))


@pytest.mark.usefixtures("small_training")
def test_too_little_text_for_a_batch_is_one_line(
    model_path: str, prompts: str, tmp_path: Path
) -> None:
    arguments = (model_path, "-o", str(tmp_path / "heads.gguf"), "-n", "50", "-p", prompts)
    told = one_line_of(
        "train", *arguments, "--work", str(tmp_path / "work"), *SIZES, "--batch", "4096"
    )
    assert "a batch alone takes 4096: let the model write more" in told
    assert not (tmp_path / "heads.gguf").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-o", "a.gguf", "--heads", "17"],
        ["-o", "a.gguf", "--layers", "0"],
        ["-o", "a.gguf", "--sees", "all"],
        ["-o", "a.gguf", "--type", "q4_0"],
        ["-o", "a.gguf", "--tokens", "0"],
    ],
)
def test_arguments_out_of_range_are_usage_errors(model_path: str, arguments: list[str]) -> None:
    assert "Usage" in invoke("train", model_path, *arguments, code=2).stderr


# -- eval


def test_eval_gives_one_object(model_path: str, heads: str, prompts: str) -> None:
    arguments = (heads, "-m", model_path, "-p", prompts, "--limit", "3", "-n", "12")
    got = json.loads(invoke("eval", *arguments, "--nodes", "4", "--nodes", "9", "--json").stdout)
    assert (got["heads"], got["sees"], got["n_rows"]) == (heads, "path", 100)
    assert got["n"] == [33, 30, 27]
    assert all(0 <= one <= five <= 1 for one, five in zip(got["top1"], got["top5"], strict=True))
    assert got["tokens_per_step"].keys() == {"4", "9"}
    assert all(1 <= tokens <= 4 for tokens in got["tokens_per_step"].values())


def test_eval_finds_the_heads_beside_the_model(
    model_path: str, heads: str, prompts: str, tmp_path: Path
) -> None:
    beside = tmp_path / "my model.gguf"
    shutil.copy(model_path, beside)
    shutil.copy(heads, tmp_path / "my model.medusa.gguf")
    arguments = ("-m", str(beside), "-p", prompts, "--limit", "2", "-n", "6", "--nodes", "4")
    told = invoke("eval", *arguments).stdout
    for part in ("my model.medusa.gguf", "right, by head", "tokens a step, 4 guesses"):
        assert part in told


def test_eval_asks_our_own_prompts_by_default(model_path: str, heads: str) -> None:
    arguments = (heads, "-m", model_path, "--limit", "1", "-n", "2", "--nodes", "2", "--json")
    assert json.loads(invoke("eval", *arguments).stdout)["n"] == [8, 0, 0]


def test_a_model_without_heads_is_one_line_that_says_how_to_train_some(model_path: str) -> None:
    told = one_line_of("eval", "-m", model_path)
    assert "there are no heads for" in told
    assert f"pytreellama medusa train {model_path} -o " in told


def test_heads_of_another_model_are_one_line(
    tiny_model_path: PathOf, heads: str, prompts: str
) -> None:
    other = str(tiny_model_path("rope", n_embd=N_EMBD, n_vocab=N_VOCAB, seed=3))
    told = one_line_of("eval", heads, "-m", other, "-p", prompts)
    assert "was made for tiny random rope" in told and "has other weights" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.gguf"], "these are no heads: "),
        (["-p", "missing.txt"], "--prompts missing.txt cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    model_path: str, arguments: list[str], message: str
) -> None:
    assert message in one_line_of("eval", *arguments, "-m", model_path)


# -- convert


def test_convert_gives_one_object_and_a_file(
    model_path: str, model: Model, checkpoint: str, tmp_path: Path
) -> None:
    output = tmp_path / "converted.gguf"
    arguments = (checkpoint, "-o", str(output), "-m", model_path, "--type", "q8_0", "--json")
    got = json.loads(invoke("convert", *arguments).stdout)
    assert got == {"path": str(output), "n_heads": 1, "n_layers": 1, "model": "tiny random rope"}
    with Heads(output, model) as heads:
        assert (heads.n_heads, heads.sees, heads.has_output) == (1, "none", True)


def test_convert_takes_a_folder_and_prints_a_table(
    model_path: str, checkpoint: str, tmp_path: Path
) -> None:
    output = tmp_path / "converted.gguf"
    folder = str(Path(checkpoint).parent)
    told = invoke("convert", folder, "-o", str(output), "-m", model_path).stdout
    assert "converted" in told and "tiny random rope" in told
    assert output.exists()


def test_a_missing_checkpoint_is_one_line(model_path: str, tmp_path: Path) -> None:
    arguments = ("-o", str(tmp_path / "heads.gguf"), "-m", model_path)
    assert "there is no file missing.pt" in one_line_of("convert", "missing.pt", *arguments)
    assert "holds neither medusa_lm_head" in one_line_of("convert", str(tmp_path), *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_size_is_one_line(
    tiny_model_path: PathOf, checkpoint: str, tmp_path: Path
) -> None:
    other = str(tiny_model_path("rope", n_embd=128, n_vocab=N_VOCAB))
    arguments = (checkpoint, "-o", str(tmp_path / "heads.gguf"), "-m", other)
    assert "the model has 128 channels and 320 tokens" in one_line_of("convert", *arguments)


def test_converting_into_a_missing_folder_is_one_line(
    model_path: str, checkpoint: str, tmp_path: Path
) -> None:
    arguments = (checkpoint, "-o", str(tmp_path / "missing" / "heads.gguf"), "-m", model_path)
    assert "there is no directory" in one_line_of("convert", *arguments)


# -- help


@pytest.mark.parametrize("command", ["train", "eval", "convert"])
def test_help_is_given_without_loading_numpy_or_the_native_part(command: str) -> None:
    code = (
        "import sys\n"
        "from pytreellama.cli import app\n"
        f"app(['medusa', {command!r}, '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'torch', 'pytreellama.native'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
