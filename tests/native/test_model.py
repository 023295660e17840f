"""Model: facts of a file, what ends a load, and who keeps the weights in memory."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytreellama import Context, Model
from pytreellama.errors import ContextError, ModelLoadError
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi
from tiny_models import ARCHITECTURES, CHAT_TEMPLATE, KINDS

TinyModel = Callable[..., Model]
TinyModelPath = Callable[..., Path]
SMALL: dict[str, Any] = {"n_ctx": 64, "n_batch": 16, "n_threads": 1}


def test_facts_are_those_of_the_file(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    facts = {
        "architecture": "llama",
        "name": "tiny random rope",
        "file_type": "all F32",
        "n_embd": 64,
        "n_embd_out": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_head_kv": 2,
        "n_ctx_train": 512,
        "n_swa": 0,
        "chat_template": CHAT_TEMPLATE,
        "can_branch": True,
        "can_generate": True,
        "closed": False,
    }
    assert {name: getattr(model, name) for name in facts} == facts
    assert model.metadata["llama.rope.dimension_count"] == "32"
    assert model.vocab.n_tokens == len(model.vocab) == 320
    assert model.n_params * 4 == model.size
    assert "rope.gguf" in repr(model)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_memory_is_recognised(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    assert model.architecture == ARCHITECTURES[kind]
    assert model.is_recurrent == (kind == "recurrent")
    assert model.is_hybrid == (kind == "hybrid")
    assert model.can_branch == (kind not in ("recurrent", "hybrid"))
    assert model.n_swa == (8 if kind == "swa" else 0)


@pytest.mark.parametrize(
    "options",
    [
        {"mmap": False},
        {"mlock": True},
        {"mmap": False, "mlock": True},
        {"check_tensors": True},
        {"repack": False},
        {"n_gpu_layers": 0},
    ],
)
def test_ways_to_load_change_no_logits(
    tiny_model: TinyModel, tiny_model_path: TinyModelPath, options: dict[str, Any]
) -> None:
    def logits(model: Model) -> np.ndarray:
        with Context(model, **SMALL) as context:
            context.prefill([1, 270, 280], logits=True)
            return context.outputs.logits

    with Model(tiny_model_path("rope"), **options) as model:
        assert np.array_equal(logits(model), logits(tiny_model("rope")))


def test_weights_that_are_no_numbers_are_found_if_asked(
    tiny_model_path: TinyModelPath, tmp_path: Path
) -> None:
    data = bytearray(tiny_model_path("rope").read_bytes())
    data[-64:-60] = np.float32("nan").tobytes()
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    Model(path).close()
    with pytest.raises(ModelLoadError, match="invalid data"):
        Model(path, check_tensors=True)


def test_progress_rises_to_one(tiny_model_path: TinyModelPath) -> None:
    shares: list[float] = []
    Model(tiny_model_path("rope"), progress=shares.append).close()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_what_progress_raises_ends_the_load(tiny_model_path: TinyModelPath) -> None:
    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model(tiny_model_path("rope"), progress=stop)


def test_a_closed_model_refuses_every_use(tiny_model_path: TinyModelPath) -> None:
    model = Model(tiny_model_path("rope"))
    vocab = model.vocab
    model.close()
    model.close()
    assert model.closed
    assert "closed" in repr(model)
    for name in (
        *("handle", "metadata", "architecture", "name", "description", "file_type", "size"),
        *("n_params", "n_ctx_train", "n_embd", "n_embd_out", "n_layer", "n_head", "n_head_kv"),
        *("n_swa", "is_recurrent", "is_hybrid", "can_branch", "can_generate", "chat_template"),
    ):
        with pytest.raises(ModelLoadError, match="closed"):
            getattr(model, name)
    for name in ("bos", "eos", "eot", "newline", "adds_bos", "eog_tokens", "pieces"):
        with pytest.raises(ModelLoadError, match="closed"):
            getattr(vocab, name)
    for call in (
        lambda: vocab.encode("a"),
        lambda: vocab.decode([1]),
        lambda: vocab.decode_bytes([1]),
        lambda: vocab.piece(1),
        lambda: vocab.is_control(1),
        lambda: Context(model, **SMALL),
    ):
        with pytest.raises(ModelLoadError, match="closed"):
            call()


def test_contexts_go_on_when_their_model_is_closed(
    tiny_model: TinyModel, tiny_model_path: TinyModelPath
) -> None:
    model = Model(tiny_model_path("rope"))
    with Context(tiny_model("rope"), **SMALL) as other, Context(model, **SMALL) as context:
        model.close()
        for each in (other, context):
            each.prefill([1, 270, 280], logits=True)
        assert np.array_equal(context.outputs.logits, other.outputs.logits)


@pytest.mark.parametrize("order", [("model", "context"), ("context", "model")])
def test_nothing_is_freed_that_something_else_still_needs(order: tuple[str, str]) -> None:
    """Whatever the order in which the garbage collector ends the objects of a cycle."""
    freed: list[str] = []
    memory = {name: ffi.new("int *") for name in order}
    handles: dict[str, Handle] = {}

    def make(name: str, needs: Sequence[Handle] = ()) -> None:
        free = lambda pointer: freed.append(name)  # noqa: E731
        handles[name] = Handle(memory[name], free, name, ContextError, needs=needs)

    make("model")
    make("context", needs=[handles["model"]])
    cycle: list[object] = [handles.pop(name) for name in order]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert freed == ["context", "model"]


def test_forgotten_contexts_and_models_are_freed_in_order(tiny_model_path: TinyModelPath) -> None:
    """In a process of its own: use after free may show as a crash, or only later."""
    code = (
        "import sys, gc, pytreellama as ptl\n"
        "for i in range(50):\n"
        "    context = ptl.Context(ptl.Model(sys.argv[1]), n_ctx=64, n_threads=1)\n"
        "    context.prefill([1, 2]); context.itself = context\n"
        "    del context; gc.collect()\n"
        "left = ptl.Context(ptl.Model(sys.argv[1]), n_ctx=64, n_threads=1)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tiny_model_path("rope")], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_a_vocabulary_alone_tokenizes_and_makes_no_context(tiny_model_path: TinyModelPath) -> None:
    with Model(tiny_model_path("rope"), vocab_only=True) as model:
        assert model.vocab.decode(model.vocab.encode("the cat")) == "the cat"
        with pytest.raises(ContextError, match="vocab_only; load its weights too"):
            Context(model)
