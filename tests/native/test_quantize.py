"""quantize: a whole file of the asked type, or an error and no file at all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytreellama.errors import QuantizeError
from pytreellama.model.model import Model
from pytreellama.model.quantize import FILE_TYPES, quantize


@pytest.fixture
def source(tiny_model_path: Callable[..., Path]) -> Path:
    return tiny_model_path("rope", dtype="f16")


@pytest.mark.parametrize("ftype", ["F32", "F16", "BF16", "Q8_0", "q4_0", "Q4_1", "Q5_1"])
def test_the_target_is_of_the_type_asked_for(source: Path, tmp_path: Path, ftype: str) -> None:
    target = quantize(source, tmp_path / "out.gguf", ftype, n_threads=1)
    with Model(target) as model:
        assert model.file_type.upper().removeprefix("ALL ").startswith(ftype.upper())
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_every_name_offered_is_known_to_llama_cpp(source: Path, tmp_path: Path) -> None:
    for ftype in FILE_TYPES:
        quantize(source, tmp_path / "out.gguf", ftype)


def test_fewer_bits_make_a_smaller_file(source: Path, tmp_path: Path) -> None:
    sizes = [
        quantize(source, tmp_path / f"{ftype}.gguf", ftype).stat().st_size
        for ftype in ("F32", "F16", "Q8_0", "Q4_0")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_a_quantised_file_may_be_quantised_again(source: Path, tmp_path: Path) -> None:
    eight = quantize(source, tmp_path / "8.gguf", "Q8_0")
    four = quantize(eight, tmp_path / "4.gguf", "Q4_0", pure=True)
    with Model(four) as model:
        assert model.file_type == "Q4_0"


def test_progress_rises_from_nothing_to_all_in_the_callers_thread(
    source: Path, tmp_path: Path
) -> None:
    calls: list[tuple[float, int]] = []
    quantize(
        source,
        tmp_path / "out.gguf",
        progress=lambda share: calls.append((share, threading.get_ident())),
    )
    shares = [share for share, _ in calls]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert {thread for _, thread in calls} == {threading.get_ident()}


def test_an_existing_target_is_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    quantize(source, target)
    assert target.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("ftype", ["Q9_0", "", "IQ1_S"])
def test_an_unknown_type_is_refused_with_the_known_ones(
    source: Path, tmp_path: Path, ftype: str
) -> None:
    with pytest.raises(QuantizeError, match=r"known are .*Q8_0"):
        quantize(source, tmp_path / "out.gguf", ftype)


def test_the_source_is_never_the_target(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    for target in (source, link):
        with pytest.raises(QuantizeError, match="same file"):
            quantize(source, target)
    assert source.read_bytes() == before


def test_a_missing_source_or_folder_or_no_threads_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="not a file"):
        quantize(tmp_path / "missing.gguf", tmp_path / "out.gguf")
    with pytest.raises(QuantizeError, match="cannot be written"):
        quantize(source, tmp_path / "missing" / "out.gguf")
    with pytest.raises(QuantizeError, match="cannot be written"):
        quantize(source, tmp_path)
    with pytest.raises(QuantizeError, match="n_threads"):
        quantize(source, tmp_path / "out.gguf", n_threads=0)


def test_a_damaged_source_is_refused_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    for name, content in {"cut": data[:-1000], "none": b"", "text": b"hello" * 100}.items():
        damaged = tmp_path / f"{name}.gguf"
        damaged.write_bytes(content)
        with pytest.raises(QuantizeError, match="not a sound GGUF file"):
            quantize(damaged, tmp_path / "out.gguf")
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


def test_a_failing_progress_callback_ends_the_call_and_leaves_nothing(
    source: Path, tmp_path: Path
) -> None:
    def fail(share: float) -> None:
        if share > 0.0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(source, tmp_path / "out.gguf", progress=fail)
    for thread in threading.enumerate():
        if thread.name == "pytreellama-quantize":
            thread.join(30)
    deadline = time.monotonic() + 30
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(tmp_path) == []
