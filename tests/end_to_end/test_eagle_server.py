"""llama.cpp's own server loads a head that was trained here, and drafts with it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytreellama import Model
from pytreellama.eagle import run
from pytreellama.eagle.training import EagleOptions
from pytreellama.training.own_texts import TextOptions

_HOW = "pip install 'pytreellama[train]'"
pytest.importorskip("gguf", reason=f"needs gguf: {_HOW}")
pytest.importorskip("torch", reason=f"needs PyTorch: {_HOW}")

_STOCK = ".cache/pytreellama/build/work/*-stock/build/bin/llama-server"
_WAIT_S = 60.0
N_TOKENS = 40


@pytest.fixture(scope="module")
def binary() -> Path:
    """A server of llama.cpp without our patches, as ``build.py build --target`` makes it."""
    for path in Path.home().glob(_STOCK):
        return path
    pytest.skip("there is no stock llama-server here: build.py build --target llama-server")


@pytest.fixture(scope="module")
def head(tiny_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    done = run.train(
        tiny_model("rope", n_embd=64),
        folder / "head.gguf",
        n_tokens=300,
        texts=TextOptions(n_parallel=4, n_round=8, n_turn=12, n_answer=32),
        options=EagleOptions(n_shortlist=100, n_ff=64, n_epochs=3, n_batch=4),
        file_type="q8_0",
        folder=folder / "work",
    )
    return done.path


@pytest.fixture(scope="module")
def url(binary: Path, head: Path, tiny_model_path: Callable[..., Path]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = tiny_model_path("rope", n_embd=64)
    command = [binary, "-m", model, "-md", head, "--spec-type", "draft-eagle3", "--port", port]
    command += ["-c", 512, "-np", 1, "-t", 1, "--no-warmup"]
    server = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield ready(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.wait(timeout=30)


def ready(url: str, server: subprocess.Popen[bytes]) -> str:
    """The address, once the server answers there."""
    until_s = time.monotonic() + _WAIT_S
    while time.monotonic() < until_s:
        assert server.poll() is None, "llama-server ended by itself"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return url
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("llama-server did not answer")


def completed(url: str, n_drafted: int) -> dict[str, Any]:
    asked = {
        "prompt": [1, *range(261, 281)],
        "n_predict": N_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "speculative.n_max": n_drafted,
        "return_tokens": True,
    }
    request = urllib.request.Request(
        f"{url}/completion",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_llama_server_drafts_with_a_head_that_was_trained_here(url: str) -> None:
    answer = completed(url, n_drafted=3)
    assert answer["tokens_predicted"] == N_TOKENS
    assert answer["timings"]["draft_n"] > 0
    assert 0 <= answer["timings"]["draft_n_accepted"] <= answer["timings"]["draft_n"]
