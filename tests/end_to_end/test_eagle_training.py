"""EAGLE-3 heads trained on a tiny random model: they learn and draft, interruptions cost little."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from pytreellama import Engine, Model
from pytreellama.cli import app
from pytreellama.draft import Eagle3
from pytreellama.eagle import run
from pytreellama.eagle import training as training_module
from pytreellama.eagle.evaluation import evaluate
from pytreellama.eagle.lesson_batch import LessonBatch
from pytreellama.eagle.lessons import load_lessons, split_lessons
from pytreellama.eagle.training import EagleOptions, EagleTraining
from pytreellama.errors import DraftError, MedusaError
from pytreellama.training.own_texts import TextOptions
from pytreellama.training.parts import Parts
from pytreellama.training.progress import Progress
from pytreellama.training.target import Target
from pytreellama.training.trained import Trained

_HOW = "pip install 'pytreellama[train]'"
gguf = pytest.importorskip("gguf", reason=f"needs gguf: {_HOW}")
torch: Any = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")

TinyModel = Callable[..., Model]

N_TOKENS = 500
TEXTS = TextOptions(n_parallel=4, n_round=8, n_turn=12, n_answer=32)
OPTIONS = EagleOptions(
    n_shortlist=100, n_ff=64, n_unroll=3, n_epochs=6, n_batch=4, learning_rate=0.01
)
PROMPTS = [[1, *(261 + i * k % 59 for i in range(12))] for k in (3, 7, 11)]

# what a process does that is killed: $1 model, $2 folder, $3 output, $4 phase, $5 steps of it
KILLED = f"""
import os, signal, sys
import torch
from pytreellama import Model
from pytreellama.eagle import run, training
from pytreellama.eagle.training import EagleOptions
from pytreellama.training.own_texts import TextOptions
from pathlib import Path

model, folder, output, phase, n_steps = sys.argv[1:]
torch.set_num_threads(1)
training._CHECKPOINT_S = -1.0
n_left = int(n_steps)

def report(progress):
    global n_left
    n_left -= progress.phase == phase
    if n_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

run.train(
    Model(model), output, n_tokens={N_TOKENS}, texts={TEXTS!r}, options={OPTIONS!r},
    file_type="f32", folder=Path(folder), report=report,
)
"""


@pytest.fixture(scope="module", autouse=True)
def on_one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Model:
    return tiny_model("rope", n_embd=64)


@dataclass(frozen=True)
class Run:
    """A training, and what it reported."""

    trained: Trained
    told: tuple[Progress, ...]
    folder: Path

    @property
    def path(self) -> Path:
        return self.trained.path

    @property
    def losses(self) -> list[float]:
        return [one.loss for one in self.told if one.loss is not None]

    def n_told(self, phase: str) -> list[int]:
        return [one.n_done for one in self.told if one.phase == phase]


def trained(model: Model, folder: Path, **changes: Any) -> Run:
    """Train with the small options, of which some may be others."""
    told: list[Progress] = []
    done = run.train(
        model,
        changes.pop("output", folder.with_suffix(".gguf")),
        n_tokens=N_TOKENS,
        texts=TEXTS,
        options=replace(OPTIONS, **changes),
        file_type="f32",
        folder=folder,
        report=told.append,
    )
    return Run(done, tuple(told), folder)


@pytest.fixture(scope="module")
def whole(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    return trained(model, tmp_path_factory.mktemp("whole") / "work")


def weights(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def assert_same_weights(path: Path, other: Path) -> None:
    found, expected = weights(path), weights(other)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def of_folder(folder: Path) -> Parts:
    return Parts(folder, json.loads((folder / "facts.json").read_text(encoding="utf-8")))


# -- what comes out


def test_the_loss_falls(whole: Run) -> None:
    assert np.isfinite(whole.losses).all()
    assert np.mean(whole.losses[-5:]) < 0.8 * np.mean(whole.losses[:5])
    accuracy = whole.trained.accuracy
    assert len(accuracy.top1) == OPTIONS.n_unroll
    assert all(a <= b for a, b in zip(accuracy.top1, accuracy.top5, strict=True))
    assert 1.0 <= accuracy.tokens_per_step <= 1 + OPTIONS.n_unroll


def test_the_file_says_whose_it_is_and_how_it_came_about(whole: Run, model: Model) -> None:
    with Model(whole.path) as head:
        assert head.architecture == "eagle3"
        assert head.target_layers == [1, 1, 1]
        assert head.vocab.n_tokens == model.vocab.n_tokens
        assert head.metadata["eagle3.target_hidden_size"] == "64"
        assert head.metadata["eagle3.training.n_steps"] == str(whole.told[-1].n_all)
        assert head.metadata["eagle3.training.n_tokens"] == str(whole.trained.n_tokens)
    assert len(weights(whole.path)["d2t"]) == OPTIONS.n_shortlist


def test_the_head_drafts_and_text_with_it_is_plain_decodings(whole: Run, model: Model) -> None:
    found = []
    for drafter in ("none", Eagle3(whole.path, min_p=0.0)):
        with Engine(model, drafter, n_draft=8, n_ctx=512, n_threads=1) as engine:
            found.append(engine.generate(PROMPTS, max_tokens=40, ignore_eos=True))
    plain, drafted = found
    assert [answer.tokens for answer in drafted] == [answer.tokens for answer in plain]
    assert all(answer.stats.n_drafted > 0 for answer in drafted)
    assert sum(answer.stats.n_steps for answer in drafted) < 3 * 40  # some drafts were right


@pytest.mark.parametrize("file_type", ["f16", "q8_0", "q4_1"])
def test_smaller_types_of_weights_draft_too(
    whole: Run, model: Model, tmp_path: Path, file_type: Any
) -> None:
    target = Target(model)
    lessons = load_lessons(of_folder(whole.folder))
    training = EagleTraining(target, (1, 1, 1), lessons, OPTIONS, whole.folder)
    path = tmp_path / "head.gguf"
    training.head_file().write(path, target, file_type)
    steps = evaluate(model, path, PROMPTS, sizes=(4,), n_tokens=24)
    assert steps[4].n_tokens == 72
    assert path.stat().st_size < whole.path.stat().st_size


def test_all_of_the_vocabulary_can_be_drafted(whole: Run, model: Model, tmp_path: Path) -> None:
    output = tmp_path / "head.gguf"
    done = trained(model, whole.folder, output=output, n_shortlist=0, n_epochs=1)
    found = weights(done.path)
    assert "d2t" not in found
    assert found["output.weight"].shape == (model.vocab.n_tokens, 64)
    steps = evaluate(model, done.path, PROMPTS, sizes=(4, 8), n_tokens=12)
    assert {n: one.n_tokens for n, one in steps.items()} == {4: 36, 8: 36}


@pytest.mark.parametrize("kind", ["neox", "moe"])
def test_heads_are_trained_for_other_kinds_of_models(
    tiny_model: TinyModel, tmp_path: Path, kind: str
) -> None:
    other = tiny_model(kind, n_embd=64)
    done = trained(other, tmp_path / "work", n_epochs=1)
    assert evaluate(other, done.path, PROMPTS, sizes=(4,), n_tokens=12)[4].n_tokens == 36


# -- interruptions


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_is_killed_twice_loses_nothing_that_was_kept(
    whole: Run, model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    for phase, n_times in (("writing", 1), ("training", 5)):
        arguments = (model.path, folder, folder.with_suffix(".gguf"), phase, n_times)
        command = [sys.executable, "-c", KILLED, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not folder.with_suffix(".gguf").exists()
    again = trained(model, folder)
    assert again.n_told("writing") == []
    assert again.n_told("training") == whole.n_told("training")[4:]
    assert again.losses == whole.losses[4:]
    assert_same_weights(again.path, whole.path)


def test_a_run_that_is_done_is_not_done_again(whole: Run, model: Model, tmp_path: Path) -> None:
    again = trained(model, whole.folder, output=tmp_path / "again.gguf")
    assert again.told == ()
    assert_same_weights(again.path, whole.path)


def test_a_training_ends_when_its_time_is_over(whole: Run, model: Model, tmp_path: Path) -> None:
    output = tmp_path / "head.gguf"
    done = trained(model, whole.folder, output=output, n_epochs=10_000, minutes=0.02)
    assert 1.2 <= done.trained.training_s < 60
    assert done.trained.n_steps < 10_000
    assert done.told[-1].left_s == 0.0


def test_a_damaged_checkpoint_is_told_of(whole: Run, model: Model, tmp_path: Path) -> None:
    lessons = load_lessons(of_folder(whole.folder))
    training = EagleTraining(Target(model), (1, 1, 1), lessons, OPTIONS, tmp_path)
    training.save()
    (path,) = tmp_path.glob("training-*.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MedusaError, match=r"training-.*\.pt is damaged .*; remove it"):
        EagleTraining(Target(model), (1, 1, 1), lessons, OPTIONS, tmp_path)


# -- lessons


def test_every_text_is_learned_from_once_an_epoch(
    whole: Run, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = load_lessons(of_folder(whole.folder))
    learned, held_out = split_lessons(lessons)
    assert len(held_out) == (len(lessons) + 19) // 20
    assert {id(one) for one in learned}.isdisjoint(id(one) for one in held_out)
    training = EagleTraining(Target(model), (1, 1, 1), lessons, OPTIONS, tmp_path)
    n_epoch = training.n_steps // OPTIONS.n_epochs
    assert n_epoch == len(learned) // OPTIONS.n_batch
    orders = []
    monkeypatch.setattr(training_module, "LessonBatch", lambda torch, lessons, device: lessons)
    for epoch in range(2):
        steps = range(epoch * n_epoch, (epoch + 1) * n_epoch)
        batches: list[Any] = [training._batch(step) for step in steps]
        texts = [one for batch in batches for one in batch]
        orders.append([id(one) for one in texts])
        assert len(set(orders[-1])) == len(texts) == n_epoch * OPTIONS.n_batch
        assert {id(one) for one in held_out}.isdisjoint(orders[-1])
    assert orders[0] != orders[1]


def test_a_batch_holds_what_was_stored(whole: Run) -> None:
    lessons = load_lessons(of_folder(whole.folder))[:5]
    batch = LessonBatch(torch, lessons)
    row = state = 0
    for lesson in lessons:
        tokens = [*lesson.prompt.tolist(), *lesson.answer.tolist()]
        n_cells = len(tokens) - 2
        assert batch.tokens[row : row + n_cells].tolist() == tokens[1:-1]
        assert np.array_equal(batch.features[row : row + n_cells], lesson.features[:-1])
        n_wanted = len(lesson.answer) - 1
        assert batch.wanted[state : state + n_wanted].tolist() == lesson.answer[1:].tolist()
        assert np.array_equal(batch.states[state : state + n_wanted], lesson.states[1:])
        row, state = row + n_cells, state + n_wanted
    assert (row, state) == (len(batch.tokens), len(batch.wanted))


def test_a_part_with_other_sizes_is_told_of(whole: Run, model: Model, tmp_path: Path) -> None:
    parts = Parts(tmp_path / "work", {})
    with pytest.raises(MedusaError, match="holds no texts yet"):
        load_lessons(parts)
    names = ("tokens", "features", "states", "prompt_lengths", "answer_lengths")
    arrays = {name: of_folder(whole.folder).array(0, name) for name in names}
    parts.add(arrays | {"features": arrays["features"][1:]}, 1, 1.0)
    with pytest.raises(MedusaError, match=r"part 00000 of .* is damaged"):
        load_lessons(parts)


# -- what is refused


@pytest.mark.parametrize(
    "options",
    [
        {"n_shortlist": -1},
        {"n_ff": -1},
        {"n_unroll": 0},
        {"n_epochs": 0},
        {"minutes": -1.0},
        {"minutes": float("nan")},
        {"n_batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"distil": 1.5},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(MedusaError, match=f"invalid {name}="):
        EagleOptions(**options)


def test_too_little_text_is_told_of(whole: Run, model: Model, tmp_path: Path) -> None:
    with pytest.raises(MedusaError, match="a batch alone takes 4096: let the model write more"):
        trained(model, whole.folder, output=tmp_path / "head.gguf", n_batch=4096)


def test_a_model_whose_layers_are_not_offered_is_told_of(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    with pytest.raises(MedusaError, match="no EAGLE-3 head can be trained for"):
        trained(tiny_model("gpt2" if False else "rwkv7"), tmp_path / "work")


def test_a_head_of_another_model_is_refused(whole: Run, tiny_model: TinyModel) -> None:
    with pytest.raises(DraftError, match="reads hidden states of 64 numbers"):
        evaluate(tiny_model("rope", n_embd=128), whole.path, PROMPTS, sizes=(4,), n_tokens=4)


@pytest.mark.parametrize(
    ("name", "complaint"), [("missing/head.gguf", "there is no folder"), (".", "is a folder")]
)
def test_an_output_that_cannot_be_is_told_of_before_anything_is_written(
    model: Model, tmp_path: Path, name: str, complaint: str
) -> None:
    with pytest.raises(MedusaError, match=complaint):
        trained(model, tmp_path / "work", output=tmp_path / name)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("package", ["torch", "gguf"])
def test_a_missing_package_is_told_of_before_anything_is_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MedusaError, match=r"pip install 'pytreellama\[train\]'"):
        trained(model, tmp_path / "work")
    assert not (tmp_path / "work").exists()


# -- the commands


def test_the_commands_train_where_the_drafter_looks_and_measure(
    tiny_model_path: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model_path("rope", n_embd=64, n_vocab=320).read_bytes())
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n\n".join(f"the cat and {i} dogs" for i in range(30)), encoding="utf-8")
    sizes = [
        "--answer-tokens",
        "12",
        "--tokens",
        "300",
        "--epochs",
        "1",
        "--batch",
        "2",
        "--shortlist",
        "64",
        "--ff",
        "64",
    ]
    work = ["--work", str(tmp_path / "work"), "--prompts", str(prompts)]
    done = CliRunner().invoke(app, ["eagle", "train", str(path), *sizes, *work, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["path"] == str(tmp_path / "model.eagle3.gguf")
    assert told["n_tokens"] >= 300
    asked = ["--limit", "1", "--tokens", "8", "--nodes", "4", "--json"]
    done = CliRunner().invoke(app, ["eagle", "eval", "-m", str(path), *asked])
    assert done.exit_code == 0, done.output
    assert 1.0 <= json.loads(done.stdout)["tokens_per_step"]["4"] <= 7.0
