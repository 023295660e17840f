"""GGUF files that say wrong things are refused or work; none ends the process or hangs it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alone import run_alone, survives
from gguf_bytes import U32, Gguf, Tensor, number
from hostile_files import FAMILIES
from tiny_models import KINDS, tiny_model

_RUN = "import sys, hostile_files; hostile_files.main(*sys.argv[1:])"


def outcomes(
    family: str, kind: str, folder: Path, *, start: int = 0, stride: int = 1
) -> tuple[Counter[str], list[str]]:
    """Use all files of a family, as many a process as live: how many ended how, and which badly."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    while True:
        run = run_alone(_RUN, family, kind, str(folder), str(start), str(stride), limit_s=900.0)
        lines = run.out.splitlines()
        labels, results = lines[::2], lines[1::2]
        counts.update(result.split()[0] for result in results)
        bad += [
            f"{label}: {result}"
            for label, result in zip(labels, results, strict=False)
            if result.startswith("odd")
        ]
        if len(labels) == len(results):
            assert run.code == 0, str(run)
            return counts, bad
        counts["died" if run.code is not None else "hung"] += 1
        bad.append(f"{labels[-1]}: ended with {run.code}: {run.err[-300:]}")
        start = int(labels[-1].split("\t")[0]) + stride


@pytest.mark.parametrize("family", FAMILIES)
def test_no_file_in_a_sample_ends_the_process(family: str, tmp_path: Path) -> None:
    stride = {"architectures": 11, "vocabulary": 31}.get(family, 149)
    counts, bad = outcomes(family, "rope", tmp_path, stride=stride)
    assert not bad, "\n".join(bad)
    assert counts["refused"] + counts["works"] >= 4, counts


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("recurrent", "phimoe"), ("recurrent", "olmo2"), ("rope", "paddleocr"), ("rope", "qwen35moe")],
)
def test_an_architecture_without_its_keys_is_refused(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    file = Gguf.read(tiny_model(kind, tmp_path)).renamed(architecture)
    path = file.write(tmp_path / "renamed.gguf")
    run = run_alone(
        "import sys, pytreellama as ptl\n"
        "try:\n"
        "    ptl.Context(ptl.Model(sys.argv[1]), n_ctx=64).prefill([1, 2, 3])\n"
        "except ptl.errors.PyTreeLlamaError as error:\n"
        "    print(error)\n",
        str(path),
    )
    assert run.code == 0, str(run)
    assert "0" in run.out or "tensor" in run.out or "key" in run.out


_REFUSED = """
import sys, pytreellama as ptl
try:
    ptl.Context(ptl.Model(sys.argv[1]), n_ctx=64).prefill([1, 2, 3])
except ptl.errors.ModelLoadError as error:
    print(error)
"""


@pytest.mark.parametrize("type_", [1, 30], ids=["f16", "bf16"])
@pytest.mark.parametrize("name", ["ssm_conv1d.weight", "ssm_a"])
@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_what_recurrent_layers_read_as_floats_must_be_floats(
    kind: str, name: str, type_: int, tmp_path: Path
) -> None:
    file = Gguf.read(tiny_model(kind, tmp_path))
    tensor = file.tensor(f"blk.0.{name}")
    tensor.type, tensor.data = type_, tensor.data[: len(tensor.data) // 2]
    assert "cannot compute" in survives(_REFUSED, str(file.write(tmp_path / "other.gguf")))


@pytest.mark.parametrize("what", ["tensors", "values"])
def test_a_file_of_60_000_names_is_refused_at_once(what: str, tmp_path: Path) -> None:
    file = Gguf.read(tiny_model("rope", tmp_path))
    if what == "tensors":
        file.tensors += [Tensor(f"x.{i}", (1,), 0, b"1234") for i in range(60_000)]
    else:
        file.values |= {f"x.{i}": number(U32, i) for i in range(60_000)}
    path = str(file.write(tmp_path / "many.gguf"))
    assert "at most" in survives(_REFUSED, path, limit_s=20)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_file_ends_the_process(family: str, kind: str, tmp_path: Path) -> None:
    # every key and tensor of every kind of model; the rest of a vocabulary is the same in all
    stride = 1 if family in ("architectures", "keys", "tensors") else 3
    _, bad = outcomes(family, kind, tmp_path, stride=stride)
    assert not bad, "\n".join(bad)
