"""How many greedy texts differ from plain decoding's: every drafter, alone and beside others.

    python bench/lossless.py [--json] [--questions FILE] [--types T ...] [--drafters D ...]
                             [--tokens N] [--together N ...] [--model FILE]

Each question is answered plainly, then with each drafter, then with each drafter while others are
answered beside it. The model is the default one, requantised to each type; the drafter "model" is
the same at 4 bits. A text counts as different if a single token is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.models import add_types_option, requantised
from lib.questions import Question, add_questions_option, load_questions
from lib.report import Figure, note, publish, shown
from pytreellama import Engine, Model, draft
from pytreellama.model.default_model import default_model_path

TYPES = ("Q4_1", "Q8_0", "Q4_K_M", "F16")
DRAFTERS = ("suffix", "recycling", "ngram", "model", "suffix+recycling")
N_DRAFT = 16
TOGETHER = (1, 8)
N_CTX = 4096  # a question and its answer fit, and so do all that run together

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Answers:
    """All questions answered in one way."""

    file_type: str
    drafter: str
    n_together: int
    n_different: int
    n_questions: int
    tokens_per_step: float
    plain_s: float
    seconds: float

    @property
    def name(self) -> str:
        beside = "" if self.n_together == 1 else f", {self.n_together} together"
        return f"{self.file_type} {self.drafter}{beside}"

    def __str__(self) -> str:
        return (
            f"{self.n_different} of {self.n_questions} different; {self.tokens_per_step:.2f} "
            f"tokens a step, {self.plain_s / self.seconds:.2f} of plain speed"
        )


def main() -> None:
    options = parse_options()
    questions = load_questions(options.questions)
    source = options.model or default_model_path()
    answers = [
        noted(answer)
        for file_type in options.types
        for answer in compare(source, file_type, questions, options)
    ]
    publish(
        "texts that differ from plain decoding's",
        [(answer.name, str(answer)) for answer in answers],
        [Figure.at_most(f"{a.name}: different texts", a.n_different, 0) for a in answers],
        options.json,
        questions=len(questions),
        tokens=options.tokens,
    )


def noted(answer: Answers) -> Answers:
    note(f"{answer.name}: {answer}")
    return answer


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_questions_option(parser)
    add_types_option(parser, TYPES)
    parser.add_argument("--drafters", nargs="+", default=DRAFTERS, metavar="D")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--together", nargs="+", type=int, default=TOGETHER, metavar="N")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    return parser.parse_args()


def compare(
    source: Path, file_type: str, questions: list[Question], options: argparse.Namespace
) -> Iterator[Answers]:
    with Model(requantised(source, file_type)) as model:
        plain, _, plain_s = answer(model, f"{file_type} none", "none", 1, questions, options.tokens)
        for drafter in options.drafters:
            for n_together in options.together:
                told = f"{file_type} {drafter}, {n_together} together"
                spec = draft.Model(requantised(source, "Q4_0")) if drafter == "model" else drafter
                texts, per_step, seconds = answer(
                    model, told, spec, n_together, questions, options.tokens
                )
                n_different = sum(a != b for a, b in zip(texts, plain, strict=True))
                yield Answers(
                    *(file_type, drafter, n_together, n_different, len(plain)),
                    *(per_step, plain_s, seconds),
                )


def answer(
    model: Model,
    told: str,
    drafter: draft.DrafterSpec,
    n_together: int,
    questions: list[Question],
    n_tokens: int,
) -> tuple[list[Tokens], float, float]:
    """All texts, the tokens a step, and the seconds of decoding."""
    completions: list[Any] = []
    sizes: dict[str, Any] = {"n_ctx": N_CTX * (2 if n_together > 1 else 1)}
    sizes |= {"n_seq_max": n_together, "n_draft": N_DRAFT}
    with shown(told) as progress, Engine(model, drafter, **sizes) as engine:
        for begin in range(0, len(questions), n_together):
            batch = [question.messages for question in questions[begin : begin + n_together]]
            completions += engine.generate(batch, max_tokens=n_tokens, temperature=0)
            progress(len(completions) / len(questions))
    n_steps = sum(completion.stats.n_steps for completion in completions)
    n_written = sum(completion.stats.n_tokens for completion in completions)
    seconds = sum(c.stats.draft_s + c.stats.target_s + c.stats.verify_s for c in completions)
    return [completion.tokens for completion in completions], n_written / n_steps, seconds


if __name__ == "__main__":
    main()
