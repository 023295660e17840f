"""Greedy answers beside those of other ways to write them: llama.cpp's tools, two Python packages.

    python bench/peers.py [--json] [--questions FILE] [--limit N] [--types T ...] [--tokens N]
                          [--repeats N] [--threads N] [--peers P ...] [--drafters D ...]
                          [--model FILE] [--eagle FILE]

Same file, same prompt tokens, same number of threads; each question is answered by all peers in
turn. Speed is tokens by the seconds of decoding, by a peer's own timings where it has some: starts
of processes, loading of models and reading of prompts do not count. Ratios are to llama.cpp's plain
decoding (``llama-completion`` as it comes). Every answer begins with nothing learned from others.

Peers are llama.cpp without our patches, as it comes and without flash attention (``:no-fa``),
llama-cpp-python of the same release, and transformers. They are built and installed on request,
which takes minutes, and 1.5 GB in the cache. A peer that cannot be had is a row that says why.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from lib.models import add_types_option, requantised
from lib.peers.builds import PLAIN
from lib.peers.python import python_peers
from lib.peers.scores import OURS, Answers, Row, fastest_of, figures_of, rows_of
from lib.peers.server import servers
from lib.peers.tools import tools, with_and_without_flash_attention
from lib.peers.types import Answer, OpenPeer, Peer, Prompt, Task, short
from lib.questions import Question, add_answering_options, first_of_each, load_questions
from lib.report import note, publish
from pytreellama import Engine, Model, draft
from pytreellama.model.default_model import default_model_path

TYPES = ("Q4_1", "Q8_0", "F16")
OUR_DRAFTERS = ("none", "auto")
N_SPARE = 512  # room in the cache for what peers guess


def main() -> None:
    options = parse_options()
    questions = first_of_each(load_questions(options.questions), options.limit)
    source = options.model or default_model_path()
    rows: list[Row] = []
    fastest: list[tuple[str, str]] = []
    for file_type in options.types:
        rows += (new := compare(source, file_type, questions, options))
        fastest += fastest_of(new)
    publish(
        "greedy answers beside llama.cpp's plain decoding",
        [*((row.name, row) for row in rows), *fastest],
        [
            figure
            for file_type in options.types
            for figure in figures_of([row for row in rows if row.file_type == file_type])
        ],
        options.json,
        model=source.name,
        questions=len(questions),
        tokens=options.tokens,
        repeats=options.repeats,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    add_types_option(parser, TYPES)
    parser.add_argument(
        "--peers",
        nargs="+",
        default=["*"],
        metavar="P",
        help=f"besides {PLAIN}, such as 'llama-server*'; of {', '.join(theirs())}",
    )
    parser.add_argument("--drafters", nargs="+", default=[], metavar="D", help="of ours, besides")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    parser.add_argument("--eagle", type=Path, metavar="FILE", help="an EAGLE-3 file of the model")
    options = parser.parse_args()
    for pattern in options.peers:
        if not any(fnmatch(name, pattern) for name in theirs()):
            parser.error(f"no peer is called {pattern}; there are {', '.join(theirs())}")
    return options


def theirs() -> dict[str, OpenPeer]:
    return with_and_without_flash_attention(tools() | servers()) | python_peers()


def wanted(options: argparse.Namespace) -> dict[str, OpenPeer]:
    peers = {
        name: open_peer
        for name, open_peer in theirs().items()
        if name == PLAIN or any(fnmatch(name, pattern) for pattern in options.peers)
    }
    drafters = dict.fromkeys([*OUR_DRAFTERS, *options.drafters])
    return peers | {f"{OURS}:{drafter}": partial(Ours, drafter) for drafter in drafters}


#
# the contest
#


def compare(
    source: Path, file_type: str, questions: Sequence[Question], options: argparse.Namespace
) -> list[Row]:
    with Model(requantised(source, file_type)) as model:
        prompts = [Prompt.of(model, question) for question in questions]
        n_longest = max(len(prompt.tokens) for prompt in prompts) + options.tokens + N_SPARE
        n_ctx = 256 * -(-n_longest // 256)
        draft_path = requantised(source, "Q4_0")
        sizes = options.tokens, options.threads, n_ctx
        task = Task(model, draft_path, *sizes, eagle=options.eagle)
        contest = Contest(file_type, task, wanted(options))
        try:
            for repeat in range(options.repeats):
                contest.ask(prompts, f"repeat {repeat + 1} of {options.repeats}")
        finally:
            contest.close()
        return rows_of(file_type, prompts, contest.measured)


class Contest:
    """All peers with one model. One that fails drops out with its reason.

    Attributes:
        measured: answers, or the reason.
    """

    def __init__(self, file_type: str, task: Task, openers: dict[str, OpenPeer]) -> None:
        self._file_type = file_type
        self._peers: dict[str, Peer] = {}
        self.measured: dict[str, Answers | str] = {}
        for name, open_peer in openers.items():
            note(f"{file_type}: opening {name}")
            self.measured[name] = []
            try:
                self._peers[name] = open_peer(task)
            except Exception as error:
                self._drop(name, error)

    def ask(self, prompts: Sequence[Prompt], when: str) -> None:
        for i, prompt in enumerate(prompts):
            note(f"{self._file_type}, {when}: {i + 1} of {len(prompts)}, {prompt.category}")
            for name, peer in list(self._peers.items()):
                try:
                    self._keep(name, i, peer.answer(prompt))
                except Exception as error:
                    self._drop(name, error)

    def close(self) -> None:
        while self._peers:
            self._peers.popitem()[1].close()

    def _keep(self, name: str, index: int, answer: Answer) -> None:
        answers = self.measured[name]
        assert isinstance(answers, list)
        if index == len(answers):
            answers.append([])
        answers[index].append(answer)

    def _drop(self, name: str, error: Exception) -> None:
        self.measured[name] = reason = short(error)
        note(f"{self._file_type}: {name} drops out: {reason}")
        if peer := self._peers.pop(name, None):
            peer.close()


class Ours:
    """An engine of its own for each answer, so that drafters begin with nothing learned."""

    def __init__(self, drafter: str, task: Task) -> None:
        self._task = task
        self._drafter: draft.DrafterSpec = (
            draft.Model(task.draft) if drafter == "model" else drafter
        )

    def answer(self, prompt: Prompt) -> Answer:
        task = self._task
        sizes: dict[str, Any] = {"n_ctx": task.n_ctx, "n_threads": task.n_threads}
        with Engine(task.model, self._drafter, **sizes) as engine:
            asked = list(prompt.tokens)
            completion: Any = engine.generate(asked, max_tokens=task.n_tokens)
        n_tokens = len(completion.tokens) + (completion.finish_reason == "stop")
        text = task.text_of(completion.tokens)
        return Answer(text, n_tokens, n_tokens, completion.stats.decode_s)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    main()
