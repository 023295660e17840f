"""Python packages as peers, each in an environment of its own in the cache of benches.

llama-cpp-python is the release whose llama.cpp is vendored. It is installed without a library and
uses the one that llama.cpp's tools were linked to, built from the same source without our patches:
that saves the same compilation twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import venv
import zlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import platformdirs

from lib import stock
from lib.peers.builds import PLAIN, tool_path
from lib.peers.types import MOST_SECONDS, Answer, OpenPeer, PeerError, Prompt, Task, short
from lib.report import note

WORKER = Path(__file__).resolve().parent / "worker.py"
TRANSFORMERS = ("torch==2.13.0", "transformers==5.24.0", "accelerate==1.15.0", "gguf==0.19.0")
N_LOOKUP = 10  # both packages' default
N_LOOKUP_CPU = 2  # what llama-cpp-python's readme advises without a GPU


def python_peers() -> dict[str, OpenPeer]:
    return {
        "llama-cpp-python": partial(Worker, "llama-cpp-python", 0),
        f"llama-cpp-python:{N_LOOKUP}": partial(Worker, "llama-cpp-python", N_LOOKUP),
        f"llama-cpp-python:{N_LOOKUP_CPU}": partial(Worker, "llama-cpp-python", N_LOOKUP_CPU),
        "transformers": partial(Worker, "transformers", 0),
        f"transformers:{N_LOOKUP}": partial(Worker, "transformers", N_LOOKUP),
    }


#
# environments
#


@dataclass(frozen=True)
class Environment:
    """A virtual environment with some packages, and variables that they need."""

    name: str
    requirements: tuple[str, ...]
    to_install: tuple[tuple[str, str], ...] = ()
    to_run: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        words = (*self.requirements, *map(str, sys.version_info[:2]))
        folder = platformdirs.user_cache_path("pytreellama", appauthor=False) / "bench"
        return folder / f"{self.name}-{zlib.crc32(' '.join(words).encode()):08x}"

    @property
    def python(self) -> Path:
        if sys.platform == "win32":
            return self.folder / "Scripts/python.exe"
        return self.folder / "bin/python"

    @property
    def variables(self) -> dict[str, str]:
        return os.environ | dict(self.to_run)

    def make(self) -> None:
        finished = self.folder / "finished"
        if finished.exists():
            return
        note(f"installing {', '.join(self.requirements)}")
        venv.create(self.folder, clear=True, with_pip=True)
        self._install()
        finished.touch()

    def _install(self) -> None:
        command = [self.python, "-m", "pip", "install", "--disable-pip-version-check"]
        lines: list[str] = []
        with subprocess.Popen(
            [*map(str, command), *self.requirements],
            env=os.environ | dict(self.to_install),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as pip:
            for line in pip.stdout or ():
                print(line, end="", file=sys.stderr)
                lines.append(line)
        if pip.returncode != 0:
            errors = [line for line in lines if line.startswith("ERROR")]
            raise PeerError(f"cannot be installed: {short((errors or lines)[-1])}")


@cache
def environment(peer: str) -> Environment | PeerError:
    try:
        made = _llama_cpp_python() if peer == "llama-cpp-python" else _transformers()
        made.make()
    except Exception as error:
        return error if isinstance(error, PeerError) else PeerError(short(error))
    return made


def _llama_cpp_python() -> Environment:
    pin = stock.own_recipe().pin
    return Environment(
        "llama-cpp-python",
        (f"{pin.distribution}=={pin.version}",),
        to_install=(("CMAKE_ARGS", "-DLLAMA_BUILD=OFF"),),
        to_run=(("LLAMA_CPP_LIB_PATH", str(tool_path(PLAIN).parent)),),
    )


def _transformers() -> Environment:
    return Environment("transformers", TRANSFORMERS, to_run=(("HF_HUB_OFFLINE", "1"),))


#
# a process that answers
#


class Worker:
    """A process that holds the model; it keeps nothing from one answer to the next."""

    def __init__(self, peer: str, n_lookup: int, task: Task) -> None:
        made = environment(peer)
        if isinstance(made, PeerError):
            raise made
        self._task = task
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(made.python), str(WORKER), json.dumps(_settings(peer, n_lookup, task))],
                env=made.variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self._reply()
        except PeerError:
            self.close()
            raise

    def answer(self, prompt: Prompt) -> Answer:
        assert self._process.stdin is not None
        try:
            print(json.dumps(prompt.tokens), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None
        told = self._reply()
        text = self._task.text_of(told["tokens"])
        return Answer(text, len(told["tokens"]), told["n_timed"], told["seconds"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        limit = threading.Timer(MOST_SECONDS, self._process.kill)
        limit.start()
        line = self._process.stdout.readline()
        limit.cancel()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> PeerError:
        self._process.wait()
        return PeerError(short(self._log.read_text(encoding="utf-8", errors="replace")))


def _settings(peer: str, n_lookup: int, task: Task) -> dict[str, Any]:
    return {
        "peer": peer,
        "n_lookup": n_lookup,
        "model": str(task.model.path),
        "n_ctx": task.n_ctx,
        "n_threads": task.n_threads,
        "n_tokens": task.n_tokens,
        "ends": sorted(task.model.vocab.eog_tokens),
    }
