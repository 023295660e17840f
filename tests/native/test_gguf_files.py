"""Files that are no model: each ends in a ModelLoadError, and none in the end of the process.

llama.cpp aborts on much of what a damaged file may hold. So the damage is done in a process of its
own, which loads and uses one damaged file after the other and reports what came of each: a crash
is a failed test then, and names the damage. Run as a script, this module is that process.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType

from pytreellama import Context, Model
from pytreellama.errors import ModelLoadError, PyTreeLlamaError

TinyModelPath = Callable[..., Path]
Edit = tuple[int, bytes]
"""New bytes, and where they go in the file."""

N_CUTS, N_FLIPS = 200, 300
N_PADDING_MAX = 32
"""Bytes that may follow the last tensor and are not needed."""

UINT32S = (0, 1, 2, 3, 5, 7, 31, 33, 63, 100, 255, 4096, 65537, 2**31 - 1, 2**31, 2**32 - 1)
FLOAT32S = (0.0, -1.0, 1e-30, 1e38, -1e38, float("nan"), float("inf"), -float("inf"))


# --- the process that takes the damage ----------------------------------------------------------


def use(path: Path) -> None:
    """Everything that reads what a model file holds."""
    with Model(path) as model:
        assert model.metadata
        assert model.description
        assert model.chat_template is None or model.chat_template
        vocab = model.vocab
        assert len(vocab.pieces) == vocab.n_tokens >= len(vocab.eog_tokens)
        tokens = vocab.encode("Hello the cat <|im_end|> é😀", parse_special=True)
        vocab.decode(tokens, special=True)
        for flash_attention in (None, False):
            sizes: dict[str, Any] = {"n_ctx": 64, "n_batch": 16, "n_threads": 1}
            with Context(model, flash_attention=flash_attention, **sizes) as context:
                context.prefill(np.arange(8, dtype=np.int32) % context.n_vocab, logits=True)
                context.outputs.top_k(1)


def outcome(path: Path) -> str:
    try:
        use(path)
    except PyTreeLlamaError as error:
        return f"{type(error).__name__}: {error}"
    return "works"


def main(path: Path, scratch: Path) -> None:
    """Read damages from stdin, a JSON line each, and write what came of them, a line each."""
    good = path.read_bytes()
    for line in sys.stdin:
        label, n_bytes, edits = json.loads(line)
        print(f"{label}: ", end="", flush=True)
        data = bytearray(good[:n_bytes])
        for offset, new in edits:
            data[offset : offset + len(new) // 2] = bytes.fromhex(new)
        scratch.write_bytes(data)
        print(outcome(scratch).replace("\n", " "), flush=True)


# --- what is done to a file ---------------------------------------------------------------------


class Damages:
    """A list of damages to one file, and what comes of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_bytes = path.stat().st_size
        self.lines: list[str] = []

    def cut(self, n_bytes: int) -> None:
        self.lines.append(json.dumps((f"cut to {n_bytes} bytes", n_bytes, [])))

    def edit(self, label: str, *edits: Edit) -> None:
        as_hex = [(offset, new.hex()) for offset, new in edits]
        self.lines.append(json.dumps((label, self.n_bytes, as_hex)))

    def outcomes(self, scratch: Path) -> list[str]:
        """``label: outcome`` of each damage.

        Raises:
            AssertionError: the process that took the damages died; with the label of the last.
        """
        run = subprocess.run(
            [sys.executable, __file__, self.path, scratch],
            input="\n".join(self.lines),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=300,
        )
        done = run.stdout.splitlines()
        why = run.stderr[-2000:]
        assert run.returncode == 0, f"exit status {run.returncode} after {done[-1:]}: {why}"
        assert len(done) == len(self.lines)
        return done


def kind_of(line: str) -> str:
    """``works`` or the name of the exception."""
    return line.split(": ")[1]


class Header:
    """Where the parts of a GGUF file's header stand."""

    def __init__(self, path: Path) -> None:
        self.reader = GGUFReader(path)
        self.n_bytes = self.reader.data_offset
        self._start = _address(self.reader.data)

    def offset(self, part: np.ndarray) -> int:
        return _address(part) - self._start

    def value_offset(self, key: str) -> int:
        field = self.reader.get_field(key)
        assert field is not None
        return self.offset(field.parts[-1])

    def type_offset(self, tensor: str) -> int:
        info = next(t for t in self.reader.tensors if t.name == tensor).field
        return self.offset(info.parts[4])

    def scalars(self) -> Iterator[tuple[str, GGUFValueType, int]]:
        """Key, type and offset of the values that are single numbers, and of firsts of arrays."""
        for name, field in self.reader.fields.items():
            if field.types and field.types[-1] in _VALUES:
                yield name, field.types[-1], self.offset(field.parts[field.data[0]])

    def tensor_types(self) -> Iterator[tuple[str, int]]:
        for tensor in self.reader.tensors:
            yield tensor.name, self.offset(tensor.field.parts[4])


_VALUES: dict[GGUFValueType, list[bytes]] = {
    GGUFValueType.UINT32: [np.uint32(value).tobytes() for value in UINT32S],
    GGUFValueType.INT32: [np.uint32(value).tobytes() for value in UINT32S],
    GGUFValueType.FLOAT32: [np.float32(value).tobytes() for value in FLOAT32S],
    GGUFValueType.BOOL: [bytes([value]) for value in (0, 1, 2, 255)],
}


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


# --- claims -------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(tiny_model_path: TinyModelPath, tmp_path: Path) -> None:
    damages = Damages(tiny_model_path("rope"))
    n_header = Header(damages.path).n_bytes
    places = random.Random(1)
    for _ in range(N_CUTS // 2):
        damages.cut(places.randrange(n_header))
        damages.cut(places.randrange(n_header, damages.n_bytes - N_PADDING_MAX))
    results = damages.outcomes(tmp_path / "cut.gguf")
    assert Counter(map(kind_of, results)) == {"ModelLoadError": N_CUTS}
    assert all("fetch" in result for result in results)


@pytest.mark.parametrize("kind", ["rope", "learned", "moe", "hybrid"])
def test_bytes_changed_anywhere_in_the_header_end_no_process(
    tiny_model_path: TinyModelPath, tmp_path: Path, kind: str
) -> None:
    damages = Damages(tiny_model_path(kind))
    n_header = Header(damages.path).n_bytes
    for seed in range(N_FLIPS):
        draw = random.Random(seed)
        places = [draw.randrange(4, n_header) for _ in range(draw.choice([1, 1, 1, 2, 4, 16]))]
        damages.edit(
            f"seed {seed}",
            *(
                (at, bytes([draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])]))
                for at in places
            ),
        )
    kinds = Counter(map(kind_of, damages.outcomes(tmp_path / "changed.gguf")))
    assert kinds["ModelLoadError"] > N_FLIPS // 3  # the damage is real
    assert kinds["works"] > N_FLIPS // 20  # and does not always stop at the first check


@pytest.mark.parametrize("kind", ["rope", "swa", "moe", "hybrid", "learned"])
def test_no_number_in_the_metadata_ends_the_process(
    tiny_model_path: TinyModelPath, tmp_path: Path, kind: str
) -> None:
    damages = Damages(tiny_model_path(kind))
    for key, value_type, offset in Header(damages.path).scalars():
        for value in _VALUES[value_type]:
            damages.edit(f"{key} = {value.hex()}", (offset, value))
    kinds = Counter(map(kind_of, damages.outcomes(tmp_path / "changed.gguf")))
    assert kinds["ModelLoadError"] > 100
    assert kinds["works"] > 30


@pytest.mark.parametrize("kind", ["rope", "alibi", "moe", "hybrid"])
def test_no_type_of_a_tensor_ends_the_process(
    tiny_model_path: TinyModelPath, tmp_path: Path, kind: str
) -> None:
    damages = Damages(tiny_model_path(kind))
    same_size = [np.uint32(GGMLQuantizationType.I32).tobytes()]
    *others, (last, last_offset) = Header(damages.path).tensor_types()
    for name, offset in others:
        damages.edit(f"{name} is i32", *((offset, value) for value in same_size))
    for number in range(64):  # the offset of the next tensor tells on all but the last
        damages.edit(f"{last} is {number}", (last_offset, np.uint32(number).tobytes()))
    kinds = Counter(map(kind_of, damages.outcomes(tmp_path / "changed.gguf")))
    assert kinds["ModelLoadError"] > len(others)
    assert kinds["works"] >= 1  # its own type is among them


def damaged(path: Path, target: Path, *edits: Edit) -> Path:
    data = bytearray(path.read_bytes())
    for offset, new in edits:
        data[offset : offset + len(new)] = new
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.attention.layer_norm_rms_epsilon", np.float32(-1), "epsilon of a norm is -1"),
        ("llama.attention.layer_norm_rms_epsilon", np.float32("nan"), "epsilon of a norm is nan"),
        ("llama.block_count", np.uint32(0), "check failed at llama-model.cpp"),
        ("llama.block_count", np.uint32(99), r"tensor .* not found"),
        ("llama.embedding_length", np.uint32(65), "wrong shape"),
        ("llama.rope.dimension_count", np.uint32(7), "invalid n_rot"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    tiny_model_path: TinyModelPath, tmp_path: Path, key: str, value: np.generic, message: str
) -> None:
    path = tiny_model_path("rope")
    edit = (Header(path).value_offset(key), value.tobytes())
    with pytest.raises(ModelLoadError, match=message):
        Model(damaged(path, tmp_path / "model.gguf", edit))


@pytest.mark.parametrize("n_rot", [0, 7, 34])
def test_channels_that_cannot_be_rotated_are_refused(
    tiny_model_path: TinyModelPath, tmp_path: Path, n_rot: int
) -> None:
    path = tiny_model_path("swa")
    edit = (Header(path).value_offset("gemma3.rope.dimension_count"), np.uint32(n_rot).tobytes())
    with pytest.raises(ModelLoadError, match=f"rotates {n_rot} of the 32 channels of a head"):
        Model(damaged(path, tmp_path / "model.gguf", edit))


def test_weights_with_which_nothing_can_be_computed_are_named(
    tiny_model_path: TinyModelPath, tmp_path: Path
) -> None:
    path, i32 = tiny_model_path("rope"), np.uint32(GGMLQuantizationType.I32).tobytes()
    edit = (Header(path).type_offset("blk.0.attn_q.weight"), i32)
    with pytest.raises(ModelLoadError, match=r"'blk\.0\.attn_q\.weight' is of type i32"):
        Model(damaged(path, tmp_path / "model.gguf", edit))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, so it is not a GGUF file"),
        (b"GG", "begins with b'GG', so it is not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "begins with b'PK.*convert the model to GGUF"),
        (b"<!DOCTYPE html>", "begins with b'<!DO'"),
        (b"FUGG" + bytes(100), "begins with b'FUGG'"),
        (b"GGUF", "damaged or incomplete"),
        (b"GGUF" + bytes(20), "damaged or incomplete.*version"),
        (b"GGUF" + np.uint32(1).tobytes() + bytes(16), "damaged or incomplete.*version"),
        (b"GGUF" + np.uint32(99).tobytes() + bytes(16), "damaged or incomplete.*version"),
        (b"GGUF\0\0\0\3" + bytes(16), "damaged or incomplete.*version"),
        (b"GGUF" + np.uint32(3).tobytes() + b"\xff" * 16, "damaged or incomplete"),
        (b"GGUF" + np.uint32(3).tobytes() + bytes(16), "cannot load"),
    ],
)
def test_what_is_not_a_model_is_refused_in_words(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        Model(path)


def test_a_path_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, message in (
        (tmp_path / "missing.gguf", "No such file"),
        (tmp_path, "is not a file"),
        (tmp_path / "file" / "model.gguf", "Not a directory"),
        (tmp_path / ("x" * 300), "too long"),
        ("nul\0.gguf", "null"),
    ):
        with pytest.raises(ModelLoadError, match=f"{message}.*give the path of a GGUF file"):
            Model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelLoadError, match="is not a file"):
        Model(tmp_path / "pipe")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may read every file"
)
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    with pytest.raises(ModelLoadError, match="Permission denied"):
        Model(path)


def test_a_tensor_beyond_the_end_of_the_file_is_named(
    tiny_model_path: TinyModelPath, tmp_path: Path
) -> None:
    path = tmp_path / "short.gguf"
    data = tiny_model_path("rope").read_bytes()
    path.write_bytes(data[: len(data) - 1000])
    with pytest.raises(
        ModelLoadError, match=r"tensor 'blk.1.ffn_down.weight' ends \d+ bytes after"
    ):
        Model(path)


def test_an_error_of_one_file_is_not_told_of_the_next(
    tiny_model_path: TinyModelPath, tmp_path: Path
) -> None:
    path = tiny_model_path("rope")
    broken = damaged(
        path,
        tmp_path / "first.gguf",
        (
            Header(path).value_offset("llama.attention.layer_norm_rms_epsilon"),
            np.float32(-1).tobytes(),
        ),
    )
    with pytest.raises(ModelLoadError, match="epsilon"):
        Model(broken)
    Model(path).close()
    other = tmp_path / "second.gguf"
    other.write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError) as refused:
        Model(other)
    assert "epsilon" not in str(refused.value)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
