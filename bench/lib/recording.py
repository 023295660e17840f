"""Recordings: greedy answers of a model, and what it held likely along them and beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lib.questions import Question
from pytreellama.files import replaced_file
from pytreellama.tree import TokenTree

if TYPE_CHECKING:
    from pytreellama import Model

N_TOP = 8
N_CTX = 4096
N_TREE_MAX = 256

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Row = tuple[Int32, Float32]
"""The likeliest tokens behind a place, falling, and their logits; both of shape (N_TOP,)."""

Place = tuple[int, int, tuple[int, ...]]
"""Which answer, how many of its tokens, and what was guessed beyond them that it does not say."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote, greedily, and after what.

    Attributes:
        text: its tokens; an end token that ended it is the last.
    """

    category: str
    prompt: list[int]
    text: list[int]

    def places(self, index: int, n_written: int, tree: TokenTree) -> list[Place]:
        """Where the nodes of a tree stand, whose node 0 is the last of the tokens written so far.

        A path that lies on the answer is a place in it, however it came to be guessed.
        """
        found: list[Place] = [(index, n_written, ())] if len(tree) else []
        nodes = zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True)
        for token, parent in list(nodes)[1:]:
            _, n_true, beside = found[parent]
            if not beside and n_true < len(self.text) and self.text[n_true] == token:
                found.append((index, n_true + 1, ()))
            else:
                found.append((index, n_true, (*beside, token)))
        return found


class Recording:
    """Answers, and rows of what was likely at places in them and beside them.

    Attributes:
        model: the name of the file that answered.
        n_tokens: most tokens of an answer.
    """

    def __init__(self, model: str, n_tokens: int) -> None:
        self.model = model
        self.n_tokens = n_tokens
        self.answers: list[Answer] = []
        self.rows: dict[Place, Row] = {}

    def save(self, path: Path) -> None:
        """Write all to one file, which is replaced only when it is complete."""
        about = {
            "model": self.model,
            "n_tokens": self.n_tokens,
            "answers": [asdict(answer) for answer in self.answers],
        }
        places = list(self.rows)
        arrays: dict[str, Any] = {
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "answer": np.array([index for index, _, _ in places], np.int32),
            "n_true": np.array([n_true for _, n_true, _ in places], np.int32),
            "n_beside": np.array([len(beside) for *_, beside in places], np.int32),
            "beside": np.array([t for *_, beside in places for t in beside], np.int32),
            "tokens": np.array([row[0] for row in self.rows.values()], np.int32),
            "logits": np.array([row[1] for row in self.rows.values()], np.float32),
        }
        with replaced_file(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as data:
            about = json.loads(data["about"].tobytes())
            recording = cls(about["model"], about["n_tokens"])
            recording.answers = [Answer(**answer) for answer in about["answers"]]
            rows = zip(data["tokens"], data["logits"], strict=True)
            recording.rows = dict(zip(_places(data), rows, strict=True))
        return recording


def _places(data: Any) -> Iterator[Place]:
    ends = np.cumsum(data["n_beside"])
    beside = data["beside"].tolist()
    columns = (data["answer"], data["n_true"], ends - data["n_beside"], ends)
    for index, n_true, begin, end in zip(*(column.tolist() for column in columns), strict=True):
        yield index, n_true, tuple(beside[begin:end])


class Target:
    """Answers a replay from a recording; what it lacks is asked of the model, if there is one.

    Attributes:
        n_asked, n_missing: rows so far; missing ones were asked of the model, or left out.
    """

    def __init__(self, recording: Recording, path: Path, live: LiveModel | None = None) -> None:
        self.recording = recording
        self.n_asked = 0
        self.n_missing = 0
        self._path = path
        self._live = live
        self._n_kept = len(recording.rows)

    def keep(self, n_least: int = 1) -> None:
        """Save what the model was asked for, if it was so many rows since the last time."""
        if len(self.recording.rows) >= self._n_kept + n_least:
            self.recording.save(self._path)
            self._n_kept = len(self.recording.rows)

    def rows(self, index: int, n_written: int, tree: TokenTree) -> tuple[TokenTree, Int32, Float32]:
        """A tree and its rows; without a model, only the part of the tree whose rows are known."""
        answer, known = self.recording.answers[index], self.recording.rows
        places = answer.places(index, n_written, tree)
        is_known = [place in known for place in places]
        self.n_asked += len(places)
        self.n_missing += is_known.count(False)
        if not all(is_known) and self._live is not None:
            for place, row in zip(places, self._live.rows(answer, n_written, tree), strict=True):
                known.setdefault(place, row)
        elif not all(is_known):
            tree = tree.prune(np.array(is_known))
            places = answer.places(index, n_written, tree)
        found = [known[place] for place in places]
        tokens = np.array([row[0] for row in found], np.int32).reshape(len(found), N_TOP)
        return tree, tokens, np.array([row[1] for row in found], np.float32).reshape(tokens.shape)


class LiveModel:
    """A model that writes answers, and tells what is likely behind any guess."""

    def __init__(self, model: Model) -> None:
        from pytreellama import Batch, Context

        self.model = model
        self._context = Context(model, n_ctx=N_CTX)
        self._batch = Batch(N_TREE_MAX)
        self._seq: int | None = None
        self._text: list[int] = []

    def close(self) -> None:
        self._context.close()

    def answer(self, question: Question, n_tokens: int) -> Answer:
        """Write one greedily."""
        from pytreellama.chat.plain_names import chat_array

        prompt = chat_array(self.model, question.messages).tolist()
        text: list[int] = []
        self._stand_behind(prompt[:-1])
        while len(text) < n_tokens and not (text and text[-1] in self.model.vocab.eog_tokens):
            last = text[-1] if text else prompt[-1]
            self._context.decode(last, seq=self._require_seq())
            self._text.append(last)
            text.append(int(self._context.outputs.argmax()[0]))
        return Answer(question.category, prompt, text)

    def rows(self, answer: Answer, n_written: int, tree: TokenTree) -> list[Row]:
        """What is likely behind each node of a tree, whose node 0 is the last token written."""
        self._stand_behind([*answer.prompt, *answer.text[:n_written]][:-1])
        seq, batch = self._require_seq(), self._batch
        batch.clear()
        self._context.place(batch, seq, tree)
        self._context.decode(batch)
        tokens, logits = self._context.outputs.top_k(N_TOP, normalise=False)
        found = [(row.copy(), values.copy()) for row, values in zip(tokens, logits, strict=True)]
        self._context.discard(seq)
        return found

    def _stand_behind(self, text: Sequence[int]) -> None:
        """Read a text, or what it has beyond what it shares with the one that was read last."""
        n_known = _n_common(text, self._text)
        if self._seq is None or (n_known < len(self._text) and not self._context.can_roll_back):
            if self._seq is not None:
                self._context.sequences.free(self._seq)
            self._seq, n_known = self._context.sequences.new(), 0
        elif n_known < len(self._text):
            self._context.memory.rm(self._seq, n_known)
        if len(text) > n_known:
            self._context.prefill(list(text[n_known:]), self._seq)
        self._text = list(text)

    def _require_seq(self) -> int:
        assert self._seq is not None
        return self._seq


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
