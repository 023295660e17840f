"""Own texts: what a model writes when it asks itself questions, with its hidden states."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count

from pytreellama.chat.template import ChatTemplate, encode_chat
from pytreellama.errors import ChatTemplateError
from pytreellama.model.model import Model
from pytreellama.training.recorder import RecordingEngine
from pytreellama.training.text import Text

_MARK = "<<what the user says>>"
_N_AHEAD = 2  # rounds of turns that are written before their answers
_TOP_K = 64  # of the likeliest tokens to draw from: more is noise, and slow


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a model writes the texts that heads learn from."""

    seed: int = 1
    n_parallel: int = 32
    """Texts that are written at once, in one pass."""
    n_round: int = 64
    """Texts after which what is written is put on disk."""
    n_turn: int = 192
    """Most tokens of a user's turn."""
    n_answer: int = 192
    """Most tokens of an answer."""
    share_free: float = 0.3
    """Of the user's turns that the model begins itself; the others have one of our openers."""
    share_sampled: float = 0.25
    """Of the answers that are drawn at temperature 1; the others are greedy."""
    prompts: tuple[str, ...] = field(default=(), repr=False)
    """User's turns to be answered in place of the model's own, in turn and again."""

    @property
    def n_text(self) -> int:
        """Maximum number of tokens of a text, its prompt included."""
        return 2 * self.n_turn + self.n_answer


class OwnTexts:
    """Writes conversations of one turn, round by round: the same again for the same seed.

    A user's turn is what the model writes where its chat template has the user speak; the answer
    follows. A model without a template writes texts from nothing, or goes on with ``prompts``.

    Source: a chat model asked for the user's turn is Magpie's idea (arXiv 2406.08464).

    Args:
        model: it stays the caller's to close.
        options: how.
    """

    def __init__(self, model: Model, options: TextOptions) -> None:
        self._options = options
        self._heard: dict[tuple[int, ...], Text] = {}  # by prompt; the engine's thread puts it in
        self._engine = RecordingEngine(
            model,
            self._hear,
            n_parallel=options.n_parallel,
            n_text=options.n_text,
            n_waiting=4 * options.n_round,
        )
        self._turns = _Turns.of(model)
        self._openers = _openers()

    def close(self) -> None:
        self._engine.close()

    def _hear(self, prompt: tuple[int, ...], text: Text) -> None:
        self._heard[prompt] = text

    def rounds(self, first: int = 0) -> Iterator[list[Text]]:
        """Rounds of answers, from number ``first`` on, without end."""
        ask = self._questions if self._options.prompts else self._asked
        coming = deque(ask(first + i) for i in range(_N_AHEAD))
        for number in count(first):
            answers = self._answers(coming.popleft()(), number)
            # written beside the answers, so that there is never too little to write at once
            coming.append(ask(number + _N_AHEAD))
            yield answers()

    # -- the user's turns

    def _questions(self, number: int) -> Callable[[], list[str]]:
        """A round of the caller's prompts."""
        prompts, n = self._options.prompts, self._options.n_round
        return lambda: [prompts[(number * n + i) % len(prompts)] for i in range(n)]

    def _asked(self, number: int) -> Callable[[], list[str]]:
        """Let a round of turns be written beside what runs; what is returned waits for them."""
        chance = random.Random(f"{self._options.seed} {number}")
        openers = [self._opener(chance) for _ in range(self._options.n_round)]
        generations = [
            self._engine.submit(
                self._turns.before_user(opener),
                temperature=1.0,
                top_k=_TOP_K,
                seed=chance.randrange(2**31),
                max_tokens=self._options.n_turn,
            )
            for opener in openers
        ]

        def wait() -> list[str]:
            ends = [generation.result().text for generation in generations]
            turns = [opener + end for opener, end in zip(openers, ends, strict=True)]
            return [turn.strip() for turn in turns if turn.strip()]

        return wait

    def _opener(self, chance: random.Random) -> str:
        if chance.random() < self._options.share_free:
            return ""
        return chance.choice(self._openers)

    # -- the answers

    def _answers(self, questions: Sequence[str], number: int) -> Callable[[], list[Text]]:
        """Let a round of answers be written; what is returned waits for them."""
        chance = random.Random(f"answers {self._options.seed} {number}")
        prompts = [tuple(self._turns.before_answer(question)) for question in questions]
        generations = []
        for prompt in prompts:
            is_sampled = chance.random() < self._options.share_sampled
            generations.append(
                self._engine.submit(
                    prompt,
                    temperature=1.0 if is_sampled else 0.0,
                    top_k=_TOP_K,
                    seed=chance.randrange(2**31),
                    max_tokens=self._options.n_answer,
                )
            )

        def wait() -> list[Text]:
            for generation in generations:
                generation.result()
            return [self._heard.pop(prompt) for prompt in dict.fromkeys(prompts)]

        return wait


class _Turns:
    """The text around what a user says, as a model's template has it."""

    def __init__(self, model: Model, before: str, after: str) -> None:
        self._vocab = model.vocab
        self._before, self._after = before, after

    @classmethod
    def of(cls, model: Model) -> _Turns:
        try:
            template = ChatTemplate.of_model(model)
        except ChatTemplateError:
            return cls(model, "", "")
        rendered = template.render([{"role": "user", "content": _MARK}])
        before, _, after = rendered.partition(_MARK)
        return cls(model, before, after)

    def before_user(self, opener: str) -> list[int]:
        """What stands before a user's turn that begins with an opener."""
        return self._encoded(self._before + opener)

    def before_answer(self, question: str) -> list[int]:
        """What stands before an answer."""
        return self._encoded(self._before + question + self._after)

    def _encoded(self, text: str) -> list[int]:
        return encode_chat(self._vocab, text)


def _openers() -> list[str]:
    text = (files("pytreellama.training") / "data" / "openers.txt").read_text(encoding="utf-8")
    return [line.replace("\\n", "\n") for line in text.splitlines()]
