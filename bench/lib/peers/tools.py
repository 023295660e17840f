"""llama.cpp's command line tools as peers; an answer is a process, and seconds are what it prints.

Their options are llama.cpp's defaults. With ``:no-fa`` behind its name, a tool runs without flash
attention, which is the faster way on some CPUs.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from lib.peers.builds import PLAIN, tool_path
from lib.peers.types import MOST_SECONDS, Answer, OpenPeer, Peer, PeerError, Prompt, Task, short

NO_FLASH_ATTENTION = ":no-fa"
N_BRANCHES = 4
DRAFT = ("-md", "{draft}")
EAGLE = ("-md", "{eagle}")

DECODED = re.compile(r"decoded +(\d+) tokens in +([\d.]+) seconds")
ENCODED = re.compile(r"encoded +(\d+) tokens")
PROMPT_READ = re.compile(r"prompt eval time = +[\d.]+ ms / +(\d+) tokens")
EVALUATED = re.compile(r": +eval time = +([\d.]+) ms / +(\d+) runs")
SAMPLED = re.compile(r"sampling time = +([\d.]+) ms")
COLOURS = re.compile(rb"\x1b\[[\d;]*m")
END_OF_TEXT = b" [end of text]"

OpenTool: TypeAlias = Callable[[str, Task], Peer]
"""Takes the value of ``--flash-attn`` first."""


def with_and_without_flash_attention(tools: dict[str, OpenTool]) -> dict[str, OpenPeer]:
    return {
        name + suffix: partial(open_tool, value)
        for name, open_tool in tools.items()
        for suffix, value in (("", "auto"), (NO_FLASH_ATTENTION, "off"))
    }


def tools() -> dict[str, OpenTool]:
    chain = ToolOptions(DRAFT)
    tree = ToolOptions((*DRAFT, "-np", str(N_BRANCHES)), N_BRANCHES)
    simple = ToolOptions(("--spec-type", "draft-simple", *DRAFT))
    examples = {
        "llama-lookup": Example("llama-lookup", n_untimed=1),
        "llama-lookahead": Example("llama-lookahead", n_uncounted=1),
        "llama-speculative": Example("llama-speculative", chain, n_untimed=1),
        f"llama-speculative:{N_BRANCHES}": Example("llama-speculative", tree, n_untimed=1),
        "llama-speculative-simple": Example("llama-speculative-simple", simple),
    }
    return {
        PLAIN: Completion,
        **{name: partial(ExamplePeer, example) for name, example in examples.items()},
    }


@dataclass(frozen=True)
class ToolOptions:
    """What a tool is called with besides what all are.

    Attributes:
        own: ``{draft}`` stands for the draft model, ``{eagle}`` for the EAGLE-3 file.
        n_sequences: how many share the cache, each with a part of its own.
    """

    own: tuple[str, ...] = ()
    n_sequences: int = 1

    def words(self, task: Task, flash_attention: str) -> list[str]:
        common: dict[str, Any] = {
            "-m": task.model.path,
            "-c": task.n_ctx * self.n_sequences,
            "-b": task.n_ctx,
            "-t": task.n_threads,
            "-tb": task.n_threads,
            "-fa": flash_attention,
            "--temp": 0,
        }
        if task.eagle is None and self.own[-2:] == EAGLE:
            raise PeerError("there is no EAGLE-3 file; give one with --eagle")
        words = [str(word) for pair in common.items() for word in pair]
        files = {"draft": task.draft, "eagle": task.eagle}
        return words + [word.format_map(files) for word in self.own]


class Completion:
    """Plain decoding."""

    def __init__(self, flash_attention: str, task: Task) -> None:
        words = ["-n", str(task.n_tokens), "-no-cnv", "--no-display-prompt"]
        self._command = [str(tool_path(PLAIN)), *ToolOptions().words(task, flash_attention), *words]
        self._task = task

    def answer(self, prompt: Prompt) -> Answer:
        done = run_tool(self._command, prompt)
        told = done.stderr.decode("utf-8", "replace")
        require_read(prompt, int(_find(PROMPT_READ, told)[1]))
        evaluated, sampled = _find(EVALUATED, told), _find(SAMPLED, told)
        n_timed = int(evaluated[2])
        seconds = (float(evaluated[1]) + float(sampled[1])) / 1000
        text = self._task.text_in(done.stdout.rstrip().removesuffix(END_OF_TEXT))
        return Answer(text, n_timed + 1, n_timed, seconds)

    def close(self) -> None:
        """Nothing runs between answers."""


@dataclass(frozen=True)
class Example:
    """One of llama.cpp's examples that print the prompt, the text, and what was decoded.

    Attributes:
        n_uncounted: tokens that are written but not in the number it prints.
        n_untimed: tokens in that number that come from the prompt's own pass.
    """

    tool: str
    options: ToolOptions = ToolOptions()
    n_uncounted: int = 0
    n_untimed: int = 0


class ExamplePeer:
    def __init__(self, example: Example, flash_attention: str, task: Task) -> None:
        words = example.options.words(task, flash_attention)
        # they stop after the step in which they have written more than was asked for
        words += ["-n", str(task.n_tokens - 1)]
        self._command = [str(tool_path(example.tool)), *words]
        self._example = example
        self._task = task

    def answer(self, prompt: Prompt) -> Answer:
        done = run_tool(self._command, prompt)
        told = done.stderr.decode("utf-8", "replace")
        require_read(prompt, int(_find(ENCODED, told)[1]))
        decoded = _find(DECODED, told)
        n_told = int(decoded[1])
        return Answer(
            self._task.text_in(_behind(prompt.echo, COLOURS.sub(b"", done.stdout))),
            n_told + self._example.n_uncounted,
            n_told - self._example.n_untimed,
            float(decoded[2]),
        )

    def close(self) -> None:
        """Nothing runs between answers."""


def run_tool(command: list[str], prompt: Prompt) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "prompt")
        file.write_bytes(prompt.text.encode())
        try:
            done = subprocess.run(
                [*command, "--no-escape", "-bf", str(file)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=MOST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PeerError(f"no answer in {MOST_SECONDS:g} s") from None
    if done.returncode != 0:
        raise PeerError(_ended(done.returncode, done.stderr))
    return done


def _ended(status: int, told: bytes) -> str:
    how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
    return f"{how}: {short(told.decode('utf-8', 'replace'))}"


def _find(pattern: re.Pattern[str], told: str) -> re.Match[str]:
    found = pattern.search(told)
    if found is None:
        raise PeerError(f"prints nothing like {pattern.pattern!r}: {short(told)}")
    return found


def _behind(echo: bytes, written: bytes) -> bytes:
    before, found, after = written.partition(echo)
    if not found or before.strip():
        raise PeerError("prints another prompt than it was given")
    return after


def require_read(prompt: Prompt, n_read: int) -> None:
    if n_read != len(prompt.tokens):
        raise PeerError(f"reads {n_read} prompt tokens instead of {len(prompt.tokens)}")
