"""Heads trained on a tiny random model: they learn and serve, interruptions cost little."""

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

from pytreellama import Engine, Model
from pytreellama.draft import Medusa
from pytreellama.errors import MedusaError
from pytreellama.medusa import run
from pytreellama.medusa import training as training_module
from pytreellama.medusa.evaluation import Hits, count_hits, evaluate
from pytreellama.medusa.store import Store
from pytreellama.medusa.training import Training, TrainingOptions
from pytreellama.model.heads import Heads, model_hash
from pytreellama.system import cpu_features
from pytreellama.training import pytorch
from pytreellama.training.loss import OutputLoss
from pytreellama.training.own_texts import OwnTexts, TextOptions
from pytreellama.training.progress import Progress
from pytreellama.training.recorder import answers
from pytreellama.training.target import Target
from pytreellama.training.text import Text
from pytreellama.training.trained import Trained

_HOW = "pip install 'pytreellama[train]'"
gguf = pytest.importorskip("gguf", reason=f"needs gguf: {_HOW}")
torch = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")

TinyModel = Callable[..., Model]

N_TURN, N_ANSWER, N_TOKENS = 12, 48, 700
TEXTS = TextOptions(n_parallel=4, n_round=8, n_turn=N_TURN, n_answer=N_ANSWER)
OPTIONS = TrainingOptions(
    n_heads=2, n_layers=1, n_shortlist=100, n_epochs=3, n_batch=32, learning_rate=0.01
)
SEES = ("none", "root", "path")
PROMPTS = [[1, *(261 + i * k % 59 for i in range(12))] for k in (3, 7, 11)]

# what a process does that is killed: $1 model, $2 folder, $3 output, $4 phase, $5 steps of it
KILLED = f"""
import os, signal, sys
import torch
from pytreellama import Model
from pytreellama.medusa import run, training
from pytreellama.training.own_texts import TextOptions
from pytreellama.medusa.training import TrainingOptions
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
def small_and_on_one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Model:
    return tiny_model("rope", n_embd=64)


@dataclass(frozen=True)
class Run:
    """A training, and what it told of itself."""

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
        n_tokens=changes.pop("n_tokens", N_TOKENS),
        texts=TEXTS,
        options=replace(OPTIONS, **changes),
        file_type="f32",
        folder=folder,
        report=told.append,
    )
    return Run(done, tuple(told), folder)


@pytest.fixture(scope="module")
def runs(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """An uninterrupted run for whatever heads may see; all learn from the same texts."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    return {
        sees: trained(model, folder, sees=sees, output=folder.parent / f"{sees}.gguf")
        for sees in reversed(SEES)
    }


@pytest.fixture(scope="module")
def whole(runs: dict[str, Run]) -> Run:
    """The uninterrupted run with the small options as they are."""
    return runs[OPTIONS.sees]


def weights(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def assert_same_weights(path: Path, other: Path) -> None:
    found, expected = weights(path), weights(other)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("0*"))}


# -- what comes out


@pytest.mark.parametrize("sees", SEES)
def test_the_loss_falls(runs: dict[str, Run], sees: str) -> None:
    losses = runs[sees].losses
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("sees", SEES)
def test_a_file_of_heads_comes_out(runs: dict[str, Run], sees: str, model: Model) -> None:
    done = runs[sees]
    with Heads(done.path, model) as heads:
        assert (heads.n_heads, heads.n_layers, heads.sees) == (2, 1, sees)
        assert (heads.n_rows, heads.has_output) == (OPTIONS.n_shortlist, False)
        assert heads.meta("medusa.model.hash") == model_hash(model)
        assert heads.meta("medusa.training.n_steps") == str(done.told[-1].n_all)
        assert heads.meta("medusa.training.n_tokens") == str(done.trained.n_tokens)
    assert {name: array.dtype for name, array in weights(done.path).items()}["shortlist"] == "int32"


@pytest.mark.parametrize("sees", SEES)
def test_text_with_them_is_plain_decodings(runs: dict[str, Run], sees: str, model: Model) -> None:
    found = []
    for drafter in ("none", Medusa(runs[sees].path, min_p=0.0)):
        with Engine(model, drafter, n_draft=8, n_ctx=512, n_threads=1) as engine:
            found.append(engine.generate(PROMPTS, max_tokens=40, ignore_eos=True))
    plain, drafted = found
    assert [answer.text for answer in drafted] == [answer.text for answer in plain]
    assert [answer.tokens for answer in drafted] == [answer.tokens for answer in plain]
    assert all(answer.stats.n_drafted > 0 for answer in drafted)


@pytest.mark.parametrize("sees", SEES)
def test_accuracy_is_what_the_heads_in_the_file_reach(
    runs: dict[str, Run], sees: str, model: Model
) -> None:
    done = runs[sees]
    with Heads(done.path, model) as heads:
        hits = count_hits(heads, held_out_text(done.folder))
    accuracy = done.trained.accuracy
    # places count in training if all heads can look ahead: the last head's are the same
    assert hits.n[-1] == accuracy.n_positions
    assert hits.top1[-1] / hits.n[-1] == pytest.approx(accuracy.top1[-1], abs=0.05)
    assert hits.top5[-1] / hits.n[-1] == pytest.approx(accuracy.top5[-1], abs=0.05)
    assert 0 <= accuracy.top1[0] <= accuracy.top5[0] <= 1
    assert 1 <= accuracy.tokens_per_step <= 1 + OPTIONS.n_heads


def held_out_text(folder: Path) -> Text:
    """The first text: with fewer than 21 it is the only one that is not learned from."""
    n = int(np.load(folder / "00000-lengths.npy")[0])
    tokens, states = (np.load(folder / f"00000-{name}.npy")[:n] for name in ("tokens", "states"))
    return Text(tokens, states)


def test_texts_are_written_once_for_all_trainings(runs: dict[str, Run]) -> None:
    first, *others = (runs[sees] for sees in reversed(SEES))
    assert first.n_told("writing") != []
    assert all(other.n_told("writing") == [] for other in others)
    assert len({one.trained.n_tokens for one in runs.values()}) == 1
    assert first.trained.n_tokens >= N_TOKENS


def test_progress_goes_forward_to_its_end(whole: Run) -> None:
    for phase in ("writing", "training"):
        told = [one for one in whole.told if one.phase == phase]
        done = [one.n_done for one in told]
        assert done == sorted(done) and done[-1] == told[-1].n_all
        assert all(one.left_s >= 0 for one in told)
    assert whole.n_told("training") == list(range(1, whole.told[-1].n_all + 1))
    assert [one.phase for one in whole.told] == sorted(one.phase for one in whole.told)[::-1]


def test_states_are_those_that_tokens_are_drawn_from(model: Model) -> None:
    texts = answers(model, PROMPTS, 20)
    with Engine(model, "none", n_ctx=256, n_threads=1) as engine:
        expected = engine.generate(PROMPTS, max_tokens=20)
    for text, answer in zip(texts, expected, strict=True):
        assert tuple(text.tokens.tolist())[: len(answer.tokens)] == answer.tokens
        logits = text.states.astype(np.float32) @ output_matrix(model).T
        assert (logits.argmax(1) == text.tokens).mean() > 0.9


def output_matrix(model: Model) -> NDArray[np.float32]:
    return Target(model).output_rows(np.arange(model.vocab.n_tokens, dtype=np.int32))


def test_evaluation_counts_guesses_and_steps(whole: Run, model: Model) -> None:
    shares: list[float] = []
    with Heads(whole.path, model) as heads:
        found = evaluate(model, heads, PROMPTS, sizes=(4, 8), n_tokens=24, report=shares.append)
    assert found.hits.n.tolist() == [3 * 23, 3 * 22]
    assert (found.hits.top1 <= found.hits.top5).all() and (found.hits.top5 <= found.hits.n).all()
    assert {n: steps.n_tokens for n, steps in found.steps.items()} == {4: 72, 8: 72}
    assert all(1 <= steps.tokens_per_step <= 3 for steps in found.steps.values())
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert found.to_dict()["tokens_per_step"].keys() == {"4", "8"}


def test_hits_of_texts_add_up() -> None:
    one = Hits(np.array([4, 2]), np.array([2, 0]), np.array([3, 1]))
    both = one + one + Hits.none(2)
    assert both.to_dict() == {"n": [8, 4], "top1": [0.5, 0.0], "top5": [0.75, 0.5]}


def test_heads_of_very_few_tokens_are_trained_and_measured(whole: Run, model: Model) -> None:
    done = trained(model, whole.folder, n_shortlist=3, n_epochs=1)
    with Heads(done.path, model) as heads:
        assert heads.n_rows == 3
        hits = count_hits(heads, held_out_text(whole.folder))
    assert hits.top5[-1] / hits.n[-1] == pytest.approx(done.trained.accuracy.top5[-1])


@pytest.mark.parametrize("kind", ["neox", "learned", "alibi", "swa", "moe"])
def test_heads_are_trained_for_any_kind_of_model(
    tiny_model: TinyModel, tmp_path: Path, kind: str
) -> None:
    other = tiny_model(kind, n_embd=64)
    done = trained(other, tmp_path / "work", n_tokens=N_TOKENS // 3, n_epochs=1)
    with Heads(done.path, other) as heads:
        assert (heads.n_heads, heads.sees) == (OPTIONS.n_heads, OPTIONS.sees)


def test_a_question_that_is_asked_again_is_answered_once_a_round(model: Model) -> None:
    own = OwnTexts(model, replace(TEXTS, prompts=("the cat", "the dog", "the cat")))
    try:
        rounds = own.rounds()
        lengths = [len(next(rounds)) for _ in range(3)]
    finally:
        own.close()
    assert lengths == [2, 2, 2]


def test_the_same_seed_writes_the_same_rounds_wherever_it_begins(model: Model) -> None:
    def tokens_of(first: int, n: int) -> list[list[list[int]]]:
        own = OwnTexts(model, TEXTS)
        try:
            rounds = own.rounds(first)
            return [[text.tokens.tolist() for text in next(rounds)] for _ in range(n)]
        finally:
            own.close()

    assert tokens_of(1, 2) == tokens_of(0, 3)[1:]


# -- the loss


@pytest.mark.parametrize(
    ("fast", "tolerance"), [(frozenset(), 1e-5), (frozenset(cpu_features()), 0.02)]
)
def test_the_loss_and_its_gradient_are_those_of_pytorch(
    whole: Run,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fast: frozenset[str],
    tolerance: float,
) -> None:
    monkeypatch.setattr(pytorch, "_FAST_BF16", fast)
    facts = json.loads((whole.folder / "facts.json").read_text(encoding="utf-8"))
    texts = Store(whole.folder, facts).load()
    training = Training(Target(model), texts, OPTIONS, tmp_path)
    output = torch.from_numpy(Target(model).output_rows(training.shortlist))
    states = torch.from_numpy(np.random.default_rng(2).normal(0, 1, (7, 64)).astype(np.float32))
    for wanted in ([3, 99, -100, 0, 50, -100, 3], [-100] * 6 + [12]):
        places = torch.tensor(wanted)
        loss, gradient = training._loss.of(states, places)
        learned = states.clone().requires_grad_()
        expected = torch.nn.functional.cross_entropy(learned @ output.T, places)
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
        assert learned.grad is not None
        size = float(learned.grad.abs().max())
        np.testing.assert_allclose(gradient, learned.grad, atol=tolerance * size)


def test_what_the_model_foresaw_is_learned_for_its_share() -> None:
    random = np.random.default_rng(3)
    output = torch.from_numpy(random.normal(0, 1, (100, 64)).astype(np.float32))
    states = torch.from_numpy(random.normal(0, 1, (5, 64)).astype(np.float32))
    foreseen = torch.from_numpy(random.dirichlet(np.ones(100), 5).astype(np.float32))
    wanted = torch.tensor([3, 99, 0, 50, 3])
    _, gradient = OutputLoss(torch, output, 0.75).of(states, wanted, foreseen)
    learned = states.clone().requires_grad_()
    logits = learned @ output.T
    cross_entropy = torch.nn.functional.cross_entropy
    loss = 0.75 * cross_entropy(logits, foreseen) + 0.25 * cross_entropy(logits, wanted)
    loss.backward()
    assert learned.grad is not None
    np.testing.assert_allclose(gradient, learned.grad, atol=1e-5)


def test_every_place_is_learned_from_once_an_epoch(
    whole: Run, model: Model, tmp_path: Path
) -> None:
    facts = json.loads((whole.folder / "facts.json").read_text(encoding="utf-8"))
    texts = Store(whole.folder, facts).load()
    training = Training(Target(model), texts, OPTIONS, tmp_path)
    n_epoch = training.n_steps // OPTIONS.n_epochs
    for epoch in range(OPTIONS.n_epochs):
        steps = range(epoch * n_epoch, (epoch + 1) * n_epoch)
        places = np.concatenate([training._batch(step).numpy() for step in steps])
        assert len(np.unique(places)) == len(places) == n_epoch * OPTIONS.n_batch


def test_places_that_no_head_can_guess_teach_nothing(
    whole: Run, model: Model, tmp_path: Path
) -> None:
    facts = json.loads((whole.folder / "facts.json").read_text(encoding="utf-8"))
    texts = Store(whole.folder, facts).load()
    training = Training(Target(model), texts, OPTIONS, tmp_path)
    loss, gradient = training._loss.of(torch.ones(5, 64), torch.full((5,), -100))
    assert loss == 0.0
    assert not gradient.any()


# -- interruptions


class _InterruptedError(Exception):
    pass


def interrupted(model: Model, folder: Path, phase: str, n_times: int) -> None:
    """Train until a phase has told so often how far it is."""
    n_left = n_times

    def report(progress: Progress) -> None:
        nonlocal n_left
        n_left -= progress.phase == phase
        if n_left == 0:
            raise _InterruptedError

    with pytest.raises(_InterruptedError):
        run.train(
            model,
            folder.with_suffix(".gguf"),
            n_tokens=N_TOKENS,
            texts=TEXTS,
            options=OPTIONS,
            file_type="f32",
            folder=folder,
            report=report,
        )


def test_writing_goes_on_with_the_parts_that_are_there(
    whole: Run, model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    interrupted(model, folder, "writing", 1)
    before = parts(folder)
    assert {name for name in before if name.endswith(".json")} == {"00000.json"}
    again = trained(model, folder)
    assert before.items() <= parts(folder).items()
    assert again.n_told("writing") == whole.n_told("writing")[1:]
    assert again.trained.n_tokens == whole.trained.n_tokens
    assert_same_weights(again.path, whole.path)


def test_training_goes_on_with_the_steps_that_are_saved(
    whole: Run, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "_CHECKPOINT_S", -1.0)
        interrupted(model, folder, "training", 8)
    again = trained(model, folder)
    assert again.n_told("writing") == []
    assert again.n_told("training") == whole.n_told("training")[7:]
    assert again.losses == whole.losses[7:]
    assert again.trained.accuracy == whole.trained.accuracy
    assert_same_weights(again.path, whole.path)


def test_steps_that_are_not_saved_are_done_again(whole: Run, model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    interrupted(model, folder, "training", 8)
    again = trained(model, folder)
    assert again.losses == whole.losses
    assert_same_weights(again.path, whole.path)


def test_a_run_that_is_done_is_not_done_again(whole: Run, model: Model, tmp_path: Path) -> None:
    again = trained(model, whole.folder, output=tmp_path / "again.gguf")
    assert again.told == ()
    assert again.trained.training_s == whole.trained.training_s
    assert_same_weights(again.path, whole.path)


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
    assert_same_weights(again.path, whole.path)


def test_more_tokens_are_written_behind_those_that_are_there(
    whole: Run, model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    trained(model, folder, n_tokens=N_TOKENS // 3, n_epochs=1)
    again = trained(model, folder)
    assert parts(folder).keys() == parts(whole.folder).keys()
    assert_same_weights(again.path, whole.path)


# -- what is refused


def test_another_model_in_the_same_folder_is_refused(
    whole: Run, tiny_model: TinyModel, tmp_path: Path
) -> None:
    other = tiny_model("rope", n_embd=64, seed=1)
    with pytest.raises(MedusaError, match="holds texts of another model"):
        trained(other, whole.folder, output=tmp_path / "heads.gguf")
    with pytest.raises(MedusaError, match="was made for tiny random rope"):
        Heads(whole.path, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["minimax-01", "deepseek4"])
def test_a_model_that_takes_no_guesses_back_is_told_of(
    tiny_model: TinyModel, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(MedusaError, match="heads would be of no use to it"):
        trained(tiny_model(kind), tmp_path / "work")
    with pytest.raises(MedusaError, match="heads would be of no use to it"):
        answers(tiny_model(kind), PROMPTS, 5)


def test_a_damaged_half_trained_file_is_told_of(
    whole: Run, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    monkeypatch.setattr(training_module, "_CHECKPOINT_S", -1.0)
    interrupted(model, folder, "training", 2)
    (path,) = folder.glob("training-*.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MedusaError, match=r"training-.*\.pt is damaged .*; remove it"):
        trained(model, folder)
    path.unlink()
    assert_same_weights(trained(model, folder).path, whole.path)


def test_too_little_text_is_told_of(whole: Run, model: Model, tmp_path: Path) -> None:
    with pytest.raises(MedusaError, match="a batch alone takes 4096: let the model write more"):
        trained(model, whole.folder, output=tmp_path / "heads.gguf", n_batch=4096)


@pytest.mark.parametrize(
    ("name", "complaint"), [("missing/heads.gguf", "there is no folder"), (".", "is a folder")]
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


@pytest.mark.parametrize(
    "options",
    [
        {"n_heads": 0},
        {"n_heads": 17},
        {"n_layers": 0},
        {"n_shortlist": -1},
        {"n_epochs": 0},
        {"n_batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"sees": "all"},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(MedusaError, match=f"invalid {next(iter(options))}=.*: expected "):
        TrainingOptions(**options)
