"""Is each patch needed? Its tests must pass with the whole series and fail without it.

A patch is taken back by `git revert` on top of the series, so that later patches that touch the
same lines stay where a three-way merge can keep them. The result is built like any other series,
in the same work folder, so only what the patch touches is compiled again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import native, staging
from .cache import Cache, cache_root, mark_used
from .checkout import bare_diff, checkout, commits_of, message_of, obtain_pristine
from .errors import BuildError
from .modules import STAGED
from .progress import Progress
from .recipe import read_recipe
from .series import NO_TEST, Header, find_test

PATCHES = "vendor/patches"
NOT_HERE = "not on this CPU"
LIMIT_S = 1800  # for one name in a header
REVERT = "9999-without-one-patch.patch"
NOT_COPIED = (
    ".git",
    ".venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "_native*.so",
    "_native*.pyd",
)
NOT_COPIED_PATHS = ("build", "dist", "llama.cpp", f"{STAGED}/lib")

# what the tests of a patch did, first with the series, then without the patch
NEEDED = ("fail", "crash", "do not end", "cannot be imported")


@dataclass(frozen=True)
class Verdict:
    """What became of one patch.

    Attributes:
        is_needed: None if nothing was shown either way; ``what`` says why.
    """

    patch: str
    tests: list[str]
    is_needed: bool | None
    what: str


def show_necessity(
    root: Path, names: Sequence[str], progress: Progress, as_json: bool, n_jobs: int | None
) -> int:
    """Print a verdict for each patch whose name contains one of ``names`` (none: all).

    Returns:
        0 if each is needed, or its header says that no test can show it (here); 1 otherwise.
    """
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="necessity-") as folder:
        for verdict in Necessity(root, Path(folder), progress, n_jobs).verdicts(names):
            verdicts.append(verdict)
            if not as_json:
                print(f"{_word(verdict):10}  {verdict.patch}: {verdict.what}", flush=True)
    if as_json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    return 0 if all(v.is_needed or v.what.startswith((NO_TEST, NOT_HERE)) for v in verdicts) else 1


def _word(verdict: Verdict) -> str:
    return {True: "needed", False: "NOT SHOWN", None: "unknown"}[verdict.is_needed]


class Necessity:
    """One run: a copy of the project, whose series gets one more patch that takes one back."""

    def __init__(self, root: Path, folder: Path, progress: Progress, n_jobs: int | None) -> None:
        self.root = root
        self.copy = folder / "project"
        self.progress = progress
        self.n_jobs = n_jobs
        self.cache = Cache(cache_root())
        self.recipe = read_recipe(root, os.environ.get("CMAKE_ARGS", ""))
        shutil.copytree(root, self.copy, ignore=_leave_out(root))
        pristine = obtain_pristine(self.recipe.pin, self.recipe.source, self.cache, progress)
        self.repository = checkout(
            folder / "series", root / PATCHES, self.recipe.pin, self.recipe.source, pristine
        )
        self._with_series: dict[str, str] = {}

    def verdicts(self, names: Sequence[str]) -> Iterator[Verdict]:
        chosen = [
            (path.name, commit)
            for path, commit in zip(self.recipe.patches, commits_of(self.repository), strict=True)
            if not names or any(name in path.name for name in names)
        ]
        if not chosen:
            raise BuildError(
                f"no patch is called {', '.join(names)}", "see: build.py patches check"
            )
        headers = {commit: message_of(self.repository, commit) for _, commit in chosen}
        self._run_with_series(list(headers.values()))
        try:
            for patch, commit in chosen:
                yield self._judge(patch, commit, headers[commit])
        finally:
            self._build_whole_series()

    def _stage(self, entry: Path) -> None:
        package = self.copy / STAGED
        staging.stage(entry, package)
        staging.stage_testing(entry, package)

    #
    # with the series
    #

    def _run_with_series(self, headers: Sequence[Header]) -> None:
        """Run all named tests once: one that fails anyway shows nothing."""
        self._stage(self._build_whole_series())
        for test in sorted({test for header in headers for test in self._tests(header)}):
            self.progress.phase(f"testing with the series: {test}")
            self._with_series[test] = self._test(test)

    def _build_whole_series(self) -> Path:
        """The user's own build, which also leaves the shared work folder as it was."""
        return native.ensure(self.recipe, self.cache, self.progress, self.n_jobs, testing=True)

    def _tests(self, header: Header) -> list[str]:
        found = (find_test(self.root, name) for name in header.tests)
        return [test for test in found if test is not None]

    #
    # without a patch
    #

    def _judge(self, patch: str, commit: str, header: Header) -> Verdict:
        shown_by = header.fields.get("Shown by", "")
        if shown_by.startswith(NO_TEST):
            return Verdict(patch, [], None, shown_by)
        tests = self._tests(header)
        feature = header.cpu_feature
        if feature is not None and feature not in self.recipe.toolchain.cpu_features:
            return Verdict(patch, tests, None, f"{NOT_HERE}: its tests need {feature}")
        useful = [test for test in tests if self._with_series[test] == "pass"]
        if not useful:
            ends = {self._with_series[test] for test in tests} or {"are not there"}
            return Verdict(
                patch, tests, None, f"its tests {' and '.join(sorted(ends))} with the series"
            )
        conflicts = self._take_back(commit)
        if conflicts:
            return Verdict(
                patch, useful, None, f"later patches need it: conflicts in {', '.join(conflicts)}"
            )
        return self._build_and_test(patch, useful)

    def _take_back(self, commit: str) -> list[str]:
        """Write the patch that takes one back; files with conflicts if a merge cannot."""
        result = self.repository.try_run("revert", "--no-edit", commit)
        if result.returncode != 0:
            files = self.repository.names("diff", "--name-only", "--diff-filter=U", "-z")
            self.repository.run("revert", "--abort")
            return files or [result.stderr.decode("utf-8", "replace").strip()]
        diff = bare_diff(self.repository, "HEAD")
        self.repository.run("reset", "--quiet", "--hard", "HEAD^")
        (self.copy / PATCHES / REVERT).write_bytes(b"without one patch\n\n" + diff)
        return []

    def _build_and_test(self, patch: str, tests: list[str]) -> Verdict:
        whole = self.cache.builds / self.recipe.key
        mark_used(whole)  # so that pruning keeps it
        recipe = read_recipe(self.copy, os.environ.get("CMAKE_ARGS", ""))
        try:
            entry = native.ensure(recipe, self.cache, self.progress, self.n_jobs, testing=True)
        except BuildError as error:
            line = next((s for s in error.what.splitlines() if "error" in s), error.what)
            return Verdict(patch, tests, True, f"does not build without it: {line.strip()}")
        self._stage(entry)
        shutil.rmtree(entry)
        self.progress.phase(f"testing without {patch}")
        for test in tests:
            end = self._test(test, "--exitfirst")
            if end in NEEDED:
                return Verdict(patch, tests, True, f"tests {end} without it: {test}")
            if end != "pass":
                return Verdict(patch, tests, None, f"tests {end} without it: {test}")
        return Verdict(patch, tests, False, "tests pass without it")

    def _test(self, test: str, *options: str) -> str:
        """How pytest ends, run in the copy. A test asked for by its name runs though it is long."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no"]
        command += ["-m", "attack or not attack"] if "::" in test else []
        env = {**os.environ, "PYTHONPATH": str(self.copy), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [*command, *options, test], cwd=self.copy, env=env, check=False,
                capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "do not end"
        return end_of_tests(done.returncode, done.stdout)


def _leave_out(root: Path) -> Callable[[str, list[str]], set[str]]:
    """What ``copytree`` shall not copy of a checkout: what was made there."""
    by_name = shutil.ignore_patterns(*NOT_COPIED)
    paths = {root / path for path in NOT_COPIED_PATHS}

    def ignore(folder: str, names: list[str]) -> set[str]:
        return {*by_name(folder, names), *(n for n in names if Path(folder) / n in paths)}

    return ignore


def end_of_tests(status: int, output: str) -> str:
    """What pytest's exit status and its last line mean."""
    if status < 0 or status > 5:
        return "crash"
    if status == 0:
        return "pass" if re.search(r"\b[1-9]\d* passed", output) else "are skipped"
    if re.search(r"^ERROR .*(Import|ModuleNotFound)Error", output, re.MULTILINE) or status == 2:
        return "cannot be imported"
    return {1: "fail", 4: "cannot be found", 5: "are not there"}.get(status, "break pytest")
