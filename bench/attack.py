"""The attack corpus: hostile inputs tried and survived, by kind.

    python bench/attack.py [--json] [--package DIR] [--short] [--only EXPRESSION] [--limit SECONDS]

Runs the tests of tests/attack, whose inputs have a process each. A process survives if it ends by
itself, within its limit, and by no signal; a test passes if what came of it is right as well. With
``--package`` the same corpus meets another checkout's package, such as an older one's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from lib.report import ROOT, Figure, note, publish

_ALIVE = "by itself"


@dataclass
class Kind:
    """What became of the inputs of one file of the corpus.

    Attributes:
        ends: processes by how they ended: "by itself", "signal N" or "past its limit".
        tests: by "passed" and "failed".
        longest_s: seconds of the process that ran longest.
    """

    ends: dict[str, int] = field(default_factory=dict)
    tests: dict[str, int] = field(default_factory=dict)
    longest_s: float = 0.0

    @property
    def n_ends(self) -> int:
        return sum(self.ends.values())

    @property
    def n_survived(self) -> int:
        return self.ends.get(_ALIVE, 0)

    @property
    def n_tests(self) -> int:
        return sum(self.tests.values())

    @property
    def n_passed(self) -> int:
        return self.tests.get("passed", 0)

    def __str__(self) -> str:
        ends = ", ".join(f"{n} {end}" for end, n in sorted(self.ends.items()))
        return (
            f"{self.n_passed} of {self.n_tests} tests right; processes: {ends or 0}; "
            f"longest {self.longest_s:.1f} s"
        )


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, report = Path(folder, "outcomes.jsonl"), Path(folder, "report.xml")
        run_corpus(options, outcomes, report)
        kinds = read_kinds(outcomes, report)
    if not kinds:
        raise SystemExit("no attack ran; see what pytest says above")
    publish(
        "attacks", list(kinds.items()), figures_of(kinds), options.json, package=package(options)
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--package", type=Path, help="a checkout, built, whose package is attacked")
    parser.add_argument("--short", action="store_true", help="what a usual run of the tests has")
    parser.add_argument("--only", metavar="EXPRESSION", help="as pytest's -k")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds for all of it")
    return parser.parse_args()


def package(options: argparse.Namespace) -> str:
    """The commit of what is attacked, where git knows it."""
    where = options.package or ROOT
    command = ["git", "-C", str(where), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def run_corpus(options: argparse.Namespace, outcomes: Path, report: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
    command += ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", str(ROOT / "tests/attack")]
    command += [] if options.short else ["-m", "attack"]
    command += ["-k", options.only] if options.only else []
    environment = {**os.environ, "ATTACK_OUTCOMES": str(outcomes)}
    if options.package:
        environment["PYTHONPATH"] = str(options.package.resolve())
    note("running the corpus; each input has a process of its own")
    # not in a checkout, whose package Python would find before the one that is attacked
    folder = report.parent
    subprocess.run(
        command, cwd=folder, env=environment, stdout=sys.stderr, check=False, timeout=options.limit
    )


def read_kinds(outcomes: Path, report: Path) -> dict[str, Kind]:
    """By the file that a test stands in, such as ``forks`` for ``test_forks.py``."""
    kinds: dict[str, Kind] = {}
    if outcomes.exists():
        for line in outcomes.read_text(encoding="utf-8").splitlines():
            outcome = json.loads(line)
            name = Path(outcome["test"].partition("::")[0]).stem.removeprefix("test_")
            kind = kinds.setdefault(name, Kind())
            count(kind.ends, end_of(outcome["code"]))
            kind.longest_s = max(kind.longest_s, outcome["seconds"])
    for case in ET.parse(report).iter("testcase") if report.exists() else ():
        parts = case.get("classname", "").split(".")
        stem = next((part for part in parts if part.startswith("test_")), "")
        if case.find("skipped") is None:
            failed = case.find("failure") is not None or case.find("error") is not None
            kind = kinds.setdefault(stem.removeprefix("test_"), Kind())
            count(kind.tests, "failed" if failed else "passed")
    return dict(sorted(kinds.items()))


def count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def end_of(code: int | None) -> str:
    if code is None:
        return "past its limit"
    return _ALIVE if code >= 0 else f"signal {-code}"


def figures_of(kinds: dict[str, Kind]) -> list[Figure]:
    figures = []
    for name, kind in kinds.items():
        if kind.n_ends:
            share = kind.n_survived / kind.n_ends
            figures.append(
                Figure.at_least(f"{name}: survived of {kind.n_ends} processes", share, 1.0)
            )
        if kind.n_tests:
            share = kind.n_passed / kind.n_tests
            figures.append(Figure.at_least(f"{name}: right of {kind.n_tests} tests", share, 1.0))
    return figures


if __name__ == "__main__":
    main()
