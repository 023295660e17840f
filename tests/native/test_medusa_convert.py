"""Checkpoints of the Medusa project, made here with random weights, become files of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytreellama import Engine, Model
from pytreellama.draft import Medusa
from pytreellama.errors import MedusaError
from pytreellama.medusa.convert import convert
from pytreellama.model.heads import Heads

_HOW = "pip install 'pytreellama[train]'"
pytest.importorskip("gguf", reason=f"needs gguf: {_HOW}")

TinyModel = Callable[..., Model]
Tensors = dict[str, NDArray[Any]]
Write = Callable[[Tensors, Path], None]

N_EMBD, N_VOCAB, N_HEADS = 64, 320, 3
STATES = np.random.default_rng(11).normal(0, 1, (4, N_EMBD)).astype(np.float32)
PROMPT = [1, *(261 + i * 7 % 59 for i in range(12))]


@pytest.fixture
def model(tiny_model: TinyModel) -> Model:
    return tiny_model("rope", n_embd=N_EMBD, n_vocab=N_VOCAB)


def random_tensors(
    *, prefix: str = "", n_heads: int = N_HEADS, n_layers: int = 1, seed: int = 0
) -> Tensors:
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for head in range(n_heads):
        for layer in range(n_layers):
            block = f"{prefix}{head}.{layer}.linear"
            tensors[f"{block}.weight"] = random.normal(0, 0.3 / N_EMBD**0.5, (N_EMBD, N_EMBD))
            tensors[f"{block}.bias"] = random.normal(0, 0.1, N_EMBD)
        tensors[f"{prefix}{head}.{n_layers}.weight"] = random.normal(0, 1, (N_VOCAB, N_EMBD))
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_pt(tensors: Tensors, path: Path) -> None:
    torch = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def write_safetensors(tensors: Tensors, path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason=f"needs safetensors: {_HOW}")
    safetensors.save_file(tensors, path)


FORMATS = [
    pytest.param(write_pt, "medusa_lm_head.pt", id="pt"),
    pytest.param(write_safetensors, "medusa_lm_head.safetensors", id="safetensors"),
]
both_formats = pytest.mark.parametrize(("write", "name"), FORMATS)


def of_numpy(tensors: Tensors, head: int, n_layers: int, prefix: str = "") -> NDArray[np.float64]:
    """What the Medusa project's heads make of STATES, in float64, shape (n, n_vocab)."""
    x = STATES.astype(np.float64)
    for layer in range(n_layers):
        weight = tensors[f"{prefix}{head}.{layer}.linear.weight"].astype(np.float64)
        z = x @ weight.T + tensors[f"{prefix}{head}.{layer}.linear.bias"]
        x = x + z / (1.0 + np.exp(-z))
    return np.asarray(x @ tensors[f"{prefix}{head}.{n_layers}.weight"].astype(np.float64).T)


def best(logits: NDArray[Any], n: int = 10) -> list[int]:
    return np.argsort(-logits, kind="stable")[:n].tolist()


# -- what they compute


@both_formats
@pytest.mark.parametrize("prefix", ["", "medusa_head."])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_heads_guess_what_the_projects_own_code_would(
    model: Model, tmp_path: Path, write: Write, name: str, prefix: str, n_layers: int
) -> None:
    tensors = random_tensors(prefix=prefix, n_layers=n_layers)
    write(tensors, tmp_path / name)
    convert(tmp_path / name, model).write(tmp_path / "heads.gguf", "f32")
    with Heads(tmp_path / "heads.gguf", model) as heads:
        assert (heads.n_heads, heads.n_layers, heads.sees) == (N_HEADS, n_layers, "none")
        assert heads.has_output and not heads.has_shortlist
        for head in range(N_HEADS):
            expected = of_numpy(tensors, head, n_layers, prefix)
            for state, wanted in zip(STATES, expected, strict=True):
                found = heads.logits(1, head, state, [[]])[0]
                assert best(found) == best(wanted)
                np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=1e-4)


def test_half_precision_is_read(model: Model, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in random_tensors().items()}
    write_safetensors(halves, tmp_path / "heads.safetensors")
    heads = convert(tmp_path / "heads.safetensors", model).heads
    assert np.array_equal(heads[1].weights[0], halves["1.0.linear.weight"].astype(np.float32))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_bfloat16_is_read(model: Model, tmp_path: Path, suffix: str) -> None:
    torch = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")
    path = tmp_path / f"medusa_lm_head.{suffix}"
    tensors = {name: torch.from_numpy(a).bfloat16() for name, a in random_tensors().items()}
    if suffix == "pt":
        torch.save(tensors, path)
    else:
        of_torch = pytest.importorskip("safetensors.torch", reason=f"needs safetensors: {_HOW}")
        of_torch.save_file(tensors, path)
    head = convert(path, model).heads[2]
    assert head.output is not None
    assert np.array_equal(head.weights[0], tensors["2.0.linear.weight"].float().numpy())
    assert np.array_equal(head.biases[0], tensors["2.0.linear.bias"].float().numpy())
    assert np.array_equal(head.output, tensors["2.1.weight"].float().numpy())


@both_formats
def test_a_folder_stands_for_its_checkpoint(
    model: Model, tmp_path: Path, write: Write, name: str
) -> None:
    write(random_tensors(), tmp_path / name)
    file = convert(tmp_path, model)
    assert len(file.heads) == N_HEADS
    assert file.facts == {"converted.from": name}


def test_converted_heads_draft_and_change_no_text(model: Model, tmp_path: Path) -> None:
    write_safetensors(random_tensors(), tmp_path / "medusa_lm_head.safetensors")
    convert(tmp_path, model).write(tmp_path / "heads.gguf", "f16")
    texts = []
    for drafter in ("none", Medusa(tmp_path / "heads.gguf", min_p=0.0)):
        with Engine(model, drafter, n_ctx=256, n_threads=1) as engine:
            texts.append(engine.submit(PROMPT, max_tokens=30, ignore_eos=True).result())
    assert texts[0].tokens == texts[1].tokens
    assert texts[1].stats.n_drafted > 0


# -- what is refused


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_key(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.zeros((2, 2), np.float32)})


def with_value(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].put(3, value)


def with_shape(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


MALFORMED = [
    (without("1.0.linear.bias"), "head 1 of .* is not whole; a checkpoint of the Medusa project"),
    (without("0.0.linear.weight"), "head 0 of .* is not whole"),
    (without("2.1.weight"), "head 2 of .* is not whole"),
    (with_key("1.1.bias"), "head 1 of .* has no output matrix"),
    (with_key("4.1.weight"), "head 3 of .* is not whole"),
    (with_key("0.3.weight"), "head 0 of .* is not whole"),
    (with_key("model.embed_tokens.weight"), "holds 'model.embed_tokens.weight'; a checkpoint"),
    (with_value("1.0.linear.weight", np.nan), "head 1 of .* weights that are NaN or infinite"),
    (with_value("0.0.linear.bias", np.inf), "head 0 of .* weights that are NaN or infinite"),
    (with_value("2.1.weight", -np.inf), "head 2 of .* weights that are NaN or infinite"),
    (with_shape("0.0.linear.weight", 32, 32), "the model has 64 channels and 320 tokens"),
    (with_shape("1.0.linear.bias", 32), "the model has 64 channels and 320 tokens"),
    (with_shape("1.1.weight", N_VOCAB, 32), "the model has 64 channels and 320 tokens"),
    (with_shape("2.1.weight", 300, N_EMBD), "the model has 64 channels and 320 tokens"),
    (with_shape("2.1.weight", N_EMBD), "the model has 64 channels and 320 tokens"),
    (lambda tensors: tensors.clear(), "holds no heads; a checkpoint"),
]


@pytest.mark.parametrize(("change", "complaint"), MALFORMED)
def test_a_checkpoint_that_is_none_says_what_is_wrong(
    model: Model, tmp_path: Path, change: Callable[[Tensors], object], complaint: str
) -> None:
    tensors = random_tensors()
    change(tensors)
    write_safetensors(tensors, tmp_path / "heads.safetensors")
    with pytest.raises(MedusaError, match=complaint):
        convert(tmp_path / "heads.safetensors", model)


def test_heads_of_different_depth_are_refused(model: Model, tmp_path: Path) -> None:
    deep = random_tensors(n_heads=2, n_layers=2)
    shallow = {name: a for name, a in random_tensors().items() if name.startswith("0.")}
    tensors = {name: a for name, a in deep.items() if name.startswith("1.")} | shallow
    write_safetensors(tensors, tmp_path / "heads.safetensors")
    with pytest.raises(MedusaError, match="different numbers of blocks"):
        convert(tmp_path / "heads.safetensors", model)


def test_weights_of_whole_numbers_are_refused(model: Model, tmp_path: Path) -> None:
    tensors = {name: a.astype(np.int8) for name, a in random_tensors().items()}
    write_safetensors(tensors, tmp_path / "heads.safetensors")
    with pytest.raises(MedusaError, match="tensor of type I8"):
        convert(tmp_path / "heads.safetensors", model)


@both_formats
@pytest.mark.parametrize("n_bytes", [0, 7, 1000, -9])
def test_a_file_that_is_cut_is_told_of(
    model: Model, tmp_path: Path, write: Write, name: str, n_bytes: int
) -> None:
    path = tmp_path / name
    write(random_tensors(), path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(MedusaError, match=r"is no checkpoint, or is damaged: "):
        convert(path, model)


@both_formats
def test_a_file_of_other_bytes_is_told_of(
    model: Model, tmp_path: Path, write: Write, name: str
) -> None:
    path = tmp_path / name
    write(random_tensors(), path)
    path.write_bytes(b"once upon a time " * 100)
    with pytest.raises(MedusaError, match=r"is no checkpoint, or is damaged: "):
        convert(path, model)


def test_a_list_of_tensors_is_no_checkpoint(model: Model, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")
    torch.save([torch.zeros(3)], tmp_path / "heads.pt")
    with pytest.raises(MedusaError, match=r"is no checkpoint, or is damaged: "):
        convert(tmp_path / "heads.pt", model)


def test_code_in_a_checkpoint_does_not_run(model: Model, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")
    torch.save({"0.0.linear.weight": _Mischief(tmp_path / "done")}, tmp_path / "heads.pt")
    with pytest.raises(MedusaError, match=r"is no checkpoint, or is damaged: "):
        convert(tmp_path / "heads.pt", model)
    assert not (tmp_path / "done").exists()


class _Mischief:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("name", ["medusa_lm_head.pt", "medusa_lm_head.safetensors", "missing"])
def test_a_missing_file_is_named(model: Model, tmp_path: Path, name: str) -> None:
    with pytest.raises(MedusaError, match=f"there is no file .*{name}; give a checkpoint"):
        convert(tmp_path / name, model)


def test_a_folder_without_a_checkpoint_names_what_it_lacks(model: Model, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MedusaError, match=r"holds neither medusa_lm_head\.safetensors nor "):
        convert(tmp_path, model)


@pytest.mark.parametrize(("package", "name"), [("torch", "a.pt"), ("safetensors", "a.safetensors")])
def test_a_missing_package_is_named(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MedusaError, match=r"pip install"):
        convert(tmp_path / name, model)
