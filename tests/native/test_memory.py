"""Memory: states as bytes, and which operations on the cache are refused and why.

That the operations do to every cell what they say is shown in tests/properties.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from exactness import assert_same_logits
from gguf_bytes import U32, Gguf, number
from pytreellama import Context, Model, TokenTree
from pytreellama.context.params import CACHE_TYPES
from pytreellama.errors import MemoryStateError, PyTreeLlamaError
from pytreellama.testing.cells import read_cells
from tiny_models import KINDS

TinyModel = Callable[..., Model]
TinyModelPath = Callable[..., Path]

TEXT = [1, *(261 + i * 7 % 59 for i in range(20))]
N_DAMAGES = 100


def make(model: Model, **options: Any) -> Context:
    return Context(model, **{"n_ctx": 64, "n_batch": 32, "n_threads": 1, "n_seq_max": 2, **options})


def next_logits(context: Context, seq: int) -> np.ndarray:
    context.prefill([300], seq, logits=True)
    return context.outputs.logits[0]


# -- states as bytes


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_sequence_goes_on_in_another_context(tiny_model: TinyModel, kind: str) -> None:
    with make(tiny_model(kind)) as first, make(tiny_model(kind)) as second:
        first.prefill(TEXT, 0)
        state = first.memory.save(0)
        second.prefill(TEXT[:5], 0)
        second.memory.load(state, 1)
        assert second.sequences.n_past(1) == len(TEXT)
        assert second.sequences.n_past(0) == 5
        assert_same_logits(next_logits(second, 1), next_logits(first, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_context_comes_back_whole(tiny_model: TinyModel, kind: str) -> None:
    with make(tiny_model(kind)) as first, make(tiny_model(kind)) as second:
        first.prefill(TEXT, 0)
        first.prefill(TEXT[:7], 1)
        second.prefill([300] * 10, 0)
        second.memory.load(first.memory.save())
        assert (second.sequences.n_past(0), second.sequences.n_past(1)) == (len(TEXT), 7)
        for seq in (0, 1):
            assert_same_logits(next_logits(second, seq), next_logits(first, seq))


def test_files_hold_what_bytes_hold(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"what was here before")
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        context.memory.save_file(path, 0)
        assert path.read_bytes() == context.memory.save(0)
        expected = next_logits(context, 0)
        context.memory.load_file(path, 0)
        assert_same_logits(next_logits(context, 0), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_save_that_fails_leaves_the_old_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        with pytest.raises(OSError, match="No such file"):
            context.memory.save_file(tmp_path / "no folder" / "state", 0)
        (tmp_path / "taken").mkdir()
        with pytest.raises(OSError, match="directory"):
            context.memory.save_file(tmp_path / "taken", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("seq", [0, None])
def test_a_state_of_something_else_is_refused_and_leaves_nothing(
    tiny_model: TinyModel, seq: int | None
) -> None:
    def state(kind: str, *, n_layer: int = 2, **options: Any) -> bytes:
        with make(tiny_model(kind, n_layer=n_layer), **options) as context:
            context.prefill(TEXT, 0)
            return context.memory.save(seq)

    good = state("rope")
    others = {
        "nothing": b"",
        "one byte": b"x",
        "zeros": bytes(len(good)),
        "noise": random.Random(1).randbytes(len(good)),
        "too long": good + b"x",
        "too short": good[:-1],
        "of more layers": state("rope", n_layer=3),
        "of more heads": state("rope_mha"),
        "of two caches": state("swa"),
        "of no cache": state("recurrent"),
        "of other types": state("rope", type_k="f32"),
    }
    if seq is None:  # that of one sequence does not name its architecture
        others["of another architecture"] = state("learned")
    with make(tiny_model("rope")) as context:
        for name, data in others.items():
            context.prefill(TEXT[:6], 0)
            with pytest.raises(MemoryStateError, match="use a state saved with the same model"):
                context.memory.load(data, seq)
                pytest.fail(f"a state {name} was taken")
            assert context.sequences.n_past(0) == 0, name
        context.memory.load(good, seq)
        assert context.sequences.n_past(0) == len(TEXT)


def test_a_state_too_long_for_the_cache_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with make(model, n_ctx=1024) as large, make(model, n_ctx=256) as small:
        large.prefill([300] * 500, 0)
        for seq in (0, None):
            with pytest.raises(MemoryStateError, match="not a state that this context can take"):
                small.memory.load(large.memory.save(seq), seq)
        small.prefill(TEXT, 0)
        assert small.sequences.n_past(0) == len(TEXT)


DAMAGED_STATES = """
import random, sys
import numpy as np
from pytreellama import Context, Model
from pytreellama.errors import PyTreeLlamaError

path, n_damages, whole = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "whole"
context = Context(Model(path), n_ctx=64, n_batch=32, n_threads=1, n_seq_max=2)
context.prefill(np.arange(3, 13), 0)
context.prefill(np.arange(5, 9), 1)
seq = None if whole else 0
good = context.memory.save(seq)
for seed in range(n_damages):
    draw, data = random.Random(seed), bytearray(good)
    if seed % 3 == 0:
        del data[draw.randrange(len(data)) :]
    for _ in range(draw.choice([1, 1, 2, 5]) if data else 0):
        end = min(len(data), draw.choice([40, 200, len(data)]))
        data[draw.randrange(end)] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
    print(seed, end=" ", flush=True)
    try:
        context.memory.load(bytes(data), seq)
        what = "taken"
    except PyTreeLlamaError as error:
        what = type(error).__name__
    for each in (0, 1):  # damage that cannot be told from a state must be borne
        try:
            context.prefill([7, 8], each, logits=True)
            context.outputs.argmax()
        except PyTreeLlamaError:
            pass
    context.memory.clear(data=False)
    context.prefill([7, 8], 0)
    context.memory.clear(data=False)
    print(what, flush=True)
"""


@pytest.mark.parametrize("kind", ["rope", "swa", "recurrent", "hybrid"])
@pytest.mark.parametrize("extent", ["sequence", "whole"])
def test_damaged_states_end_no_process(
    tiny_model_path: TinyModelPath, kind: str, extent: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DAMAGED_STATES, tiny_model_path(kind), str(N_DAMAGES), extent],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0, f"after {lines[-1:]}: {run.stderr[-2000:]}"
    outcomes = Counter(line.split()[1] for line in lines)
    assert outcomes["MemoryStateError"] + outcomes["taken"] == N_DAMAGES
    assert outcomes["MemoryStateError"] >= N_DAMAGES // 3  # all that were cut, at least


# -- refusals


@pytest.mark.parametrize("seq", [-1, 2, 256, 2**31, 2**40])
def test_sequences_that_are_none_are_refused_everywhere(tiny_model: TinyModel, seq: int) -> None:
    tree = TokenTree.from_paths([[5, 6], [5, 7]])
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        memory = context.memory
        for call in (
            lambda: memory.pos_min(seq),
            lambda: memory.pos_max(seq),
            lambda: memory.rm(seq),
            lambda: memory.cp(0, seq),
            lambda: memory.cp(seq, 0),
            lambda: memory.keep(seq),
            lambda: memory.add(seq, 0, -1, 1),
            lambda: memory.div(seq, 0, -1, 2),
            lambda: memory.save(seq),
            lambda: memory.load(b"x", seq),
            lambda: context.sequences.n_past(seq),
            lambda: memory.is_shared(seq),
            lambda: context.prefill([5], seq),
            lambda: context.decode(tree, seq=seq),
            lambda: context.grow(seq, [5], [-1]),
            lambda: context.commit(seq, [0]),
            lambda: context.sequences.free(seq),
        ):
            with pytest.raises(PyTreeLlamaError, match=rf"sequence (id )?{seq}"):
                call()
        assert context.sequences.n_past(0) == len(TEXT)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**40])
def test_positions_that_do_not_fit_are_refused(tiny_model: TinyModel, number: int) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        memory = context.memory
        calls: tuple[Callable[[], object], ...] = (
            lambda: memory.rm(0, number, -1),
            lambda: memory.rm(0, 0, number),
            lambda: memory.cp(0, 1, number, -1),
            lambda: memory.add(0, 0, -1, number),
            lambda: memory.div(0, 0, number, 2),
        )
        for call in calls:
            with pytest.raises(MemoryStateError, match=f"{number} does not fit into the 32 bits"):
                call()


def test_shifts_without_room_are_refused(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        with pytest.raises(MemoryStateError, match="the largest position"):
            context.memory.add(0, 0, -1, 2**31 - 1)
        for divisor in (0, -1):
            with pytest.raises(MemoryStateError, match="give 1 or more"):
                context.memory.div(0, 0, -1, divisor)
        assert context.sequences.n_past(0) == len(TEXT)


@pytest.mark.parametrize("type_k", CACHE_TYPES)
@pytest.mark.parametrize(
    ("kind", "width", "n_rot"),
    [("rope", 32, 32), ("rope", 64, 64), ("neox", 64, 64), ("swa", 32, 16), ("swa", 64, 32)],
)
def test_keys_of_every_type_are_turned_when_a_text_is_moved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    type_k: str,
    kind: str,
    width: int,
    n_rot: int,
) -> None:
    monkeypatch.setattr(tiny_models, "HEAD_DIM", width)
    file = Gguf.read(tiny_models.write_tiny_model(tmp_path / "whole.gguf", kind, n_layer=1))
    file.values[f"{file.architecture}.rope.dimension_count"] = number(U32, n_rot)
    with Model(file.write(tmp_path / "model.gguf")) as model:
        exact = moved_logits(model, 0, "f32")
        rounding = np.abs(moved_logits(model, 0, type_k) - exact).max()
        lost = np.abs(moved_logits(model, 9, type_k) - exact).max()
    assert lost < 0.01 + 3.0 * rounding


def moved_logits(model: Model, delta: int, type_k: str) -> np.ndarray:
    """What comes after a text whose positions were moved; RoPE knows distances alone."""
    with make(model, type_k=type_k) as context:
        context.prefill(TEXT, 0)
        assert context.memory.can_shift
        context.memory.add(0, 0, -1, delta)
        assert context.sequences.n_past(0) == len(TEXT) + delta
        return next_logits(context, 0).copy()


@pytest.mark.parametrize("kind", ["learned", "recurrent", "hybrid"])
def test_positions_that_are_not_rotary_cannot_be_moved(tiny_model: TinyModel, kind: str) -> None:
    with make(tiny_model(kind)) as context:
        context.prefill(TEXT, 0)
        if context.memory.can_shift:
            pytest.skip("this memory moves positions without turning keys")
        with pytest.raises(MemoryStateError, match=r"memory\.add is not possible"):
            context.memory.add(0, 0, -1, 1)
        with pytest.raises(MemoryStateError, match=r"memory\.div is not possible"):
            context.memory.div(0, 0, -1, 2)


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_recurrent_state_loses_all_or_nothing(tiny_model: TinyModel, kind: str) -> None:
    with make(tiny_model(kind)) as context:
        context.prefill(TEXT, 0)
        with pytest.raises(MemoryStateError, match="only the whole can be removed"):
            context.memory.rm(0, 5)
        assert context.sequences.n_past(0) == len(TEXT)
        context.memory.rm(0)
        assert context.sequences.n_past(0) == 0


def test_pending_nodes_are_settled_first(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.prefill(TEXT, 0)
        context.prefill(TEXT[:5], 1)
        context.decode(TokenTree.from_paths([[5, 6], [5, 7]]), seq=0)
        memory = context.memory
        for call in (
            lambda: memory.rm(0),
            lambda: memory.cp(0, 1),
            lambda: memory.cp(1, 0),
            lambda: memory.keep(1),
            lambda: memory.add(1, 0, -1, 1),
            lambda: memory.div(1, 0, -1, 2),
            lambda: memory.save(0),
            lambda: memory.save(),
            lambda: memory.load(b"x", 0),
            lambda: context.prefill([5], 0),
        ):
            with pytest.raises(MemoryStateError, match="pending tree nodes; commit or discard"):
                call()
        assert context.sequences.is_pending(0)
        context.commit(0, [0, 2])
        assert context.sequences.n_past(0) == len(TEXT) + 2


def test_a_text_that_has_lost_its_window_is_gone_whole(tiny_model: TinyModel) -> None:
    """A saved state holds the window alone; what is cut before it cannot go on."""
    with make(tiny_model("swa", n_swa=8), swa_full=True) as context:
        context.prefill(TEXT, 0)
        context.memory.load(context.memory.save(0), 0)
        assert context.memory.pos_min(0) > 5
        context.memory.rm(0, 5)
        assert context.sequences.n_past(0) == 0
        cells = read_cells(context)
        assert cells is not None and not np.any(cells.positions >= 0)
        context.prefill(TEXT[:5], 0)
        assert context.sequences.n_past(0) == 5
