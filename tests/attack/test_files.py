"""GGUF files that say wrong things are refused or work; none ends the process or hangs it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alone import run_alone
from hostile_files import FAMILIES
from tiny_models import KINDS

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
    from gguf_bytes import Gguf
    from tiny_models import tiny_model

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


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_file_ends_the_process(family: str, kind: str, tmp_path: Path) -> None:
    # every key and tensor of every kind of model; the rest of a vocabulary is the same in all
    stride = 1 if family in ("architectures", "keys", "tensors") else 3
    _, bad = outcomes(family, kind, tmp_path, stride=stride)
    assert not bad, "\n".join(bad)
