"""llama.cpp's server as a peer, with each of its ways to speculate.

It is started for each answer: what it learned from earlier ones, the same question's among them, it
does not know. Seconds are its own ``timings``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lib.peers.builds import SERVER, tool_path
from lib.peers.tools import DRAFT, EAGLE, OpenTool, ToolOptions, require_read
from lib.peers.types import MOST_SECONDS, Answer, PeerError, Prompt, Task, short

HERE = "127.0.0.1"
NGRAMS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")


def servers() -> dict[str, OpenTool]:
    return {
        SERVER: partial(Server, ToolOptions()),
        **{
            f"{SERVER}:{name}": partial(Server, ToolOptions(("--spec-type", name)))
            for name in NGRAMS
        },
        f"{SERVER}:draft-simple": partial(
            Server, ToolOptions(("--spec-type", "draft-simple", *DRAFT))
        ),
        f"{SERVER}:draft-eagle3": partial(
            Server, ToolOptions(("--spec-type", "draft-eagle3", *EAGLE))
        ),
    }


class Server:
    def __init__(self, options: ToolOptions, flash_attention: str, task: Task) -> None:
        command = [tool_path(SERVER), *options.words(task, flash_attention), "-np", "1"]
        self._command = list(map(str, command))
        self._task = task

    def answer(self, prompt: Prompt) -> Answer:
        asked = {
            "prompt": prompt.tokens,
            "n_predict": self._task.n_tokens,
            "temperature": 0,
            "cache_prompt": False,
            "return_tokens": True,
        }
        with served(self._command) as url:
            told = post(f"{url}/completion", asked)
        timings = told["timings"]
        require_read(prompt, timings["prompt_n"])
        n_written = timings["predicted_n"]
        text = self._task.text_of(told["tokens"])
        return Answer(text, n_written, n_written - 1, timings["predicted_ms"] / 1000)

    def close(self) -> None:
        """Nothing runs between answers."""


@contextmanager
def served(command: Sequence[str], ready_path: str = "/health") -> Iterator[str]:
    """A server's address, while it runs on a free port of this machine.

    Args:
        command: without host and port.
        ready_path: answered once it takes requests.
    """
    port = free_port()
    url = f"http://{HERE}:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--host", HERE, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_ready(url + ready_path, process)
            yield url
        except (PeerError, OSError) as error:
            log.seek(0)
            told = log.read().decode("utf-8", "replace")
            raise PeerError(f"{short(error)}: {short(told)}") from error
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + MOST_SECONDS
    while time.monotonic() < give_up_s:
        if process.poll() is not None:
            raise PeerError(f"exit status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=1.0):
                return
        except OSError:
            time.sleep(0.05)
    raise PeerError(f"not ready in {MOST_SECONDS:g} s")


def post(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(asked).encode(), head)
    with urllib.request.urlopen(request, timeout=MOST_SECONDS) as reply:
        told: dict[str, Any] = json.loads(reply.read())
    return told
