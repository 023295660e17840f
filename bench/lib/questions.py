"""Questions to generate from: a file in the manner of Spec-Bench, or the suite's own prompts."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.report import ROOT
from pytreellama.context.params import default_n_threads

OWN = ROOT / "tests/data/prompts.jsonl"
REWRITING = ROOT / "tests/data/rewriting.jsonl"


@dataclass(frozen=True)
class Question:
    """One chat to answer.

    Attributes:
        category: what kind of task it is, such as ``translation``.
        messages: for the model's chat template.
    """

    category: str
    messages: list[dict[str, Any]]


def load_questions(path: Path) -> list[Question]:
    """One question a line: its ``category`` and either ``messages`` or ``turns``, of which the
    first is asked."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_question(json.loads(line)) for line in lines if line.strip()]


def _question(line: dict[str, Any]) -> Question:
    asked = line.get("messages") or [{"role": "user", "content": line["turns"][0]}]
    return Question(line["category"], asked)


def first_of_each(questions: Iterable[Question], limit: int | None) -> list[Question]:
    """At most so many questions of each category."""
    by_category: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_category[question.category].append(question)
    return [question for some in by_category.values() for question in some[:limit]]


def add_answering_options(parser: argparse.ArgumentParser) -> None:
    """What benches of answers to questions have in common."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_questions_option(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="questions of each category")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_n_threads())


def add_questions_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        default=OWN,
        help="questions as Spec-Bench keeps them, one JSON object a line; by default the suite's",
    )
