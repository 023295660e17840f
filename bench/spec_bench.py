"""Make the questions of the project's measurements from Spec-Bench's public file.

    python bench/spec_bench.py question.jsonl -o questions.jsonl

They are the rows whose ``question_id`` is a multiple of 10: 48 of 480, of all 13 categories. The
file is ``data/spec_bench/question.jsonl`` of github.com/hemingkx/Spec-Bench (Apache-2.0; Xia et al.
2024, arXiv:2401.07851).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

EVERY = 10
N_QUESTIONS = 48


def tenth(lines: Iterable[str]) -> list[str]:
    """The lines that measurements use, as they stand in the file."""
    rows = [line.rstrip("\n") for line in lines if line.strip()]
    return [row for row in rows if json.loads(row)["question_id"] % EVERY == 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="Spec-Bench's question.jsonl")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    try:
        rows = tenth(options.source.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"cannot read {options.source} as Spec-Bench's questions: {error!r}")
    if len(rows) != N_QUESTIONS:
        sys.exit(
            f"{options.source} has {len(rows)} rows whose question_id is a multiple of {EVERY}, "
            f"Spec-Bench's file has {N_QUESTIONS}; give data/spec_bench/question.jsonl"
        )
    options.output.write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(rows)} questions")


if __name__ == "__main__":
    main()
