"""`.venv`: made once, remembered, never left half made, never taken from its owner."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from buildlib.environment import HALF_MADE, Environment
from buildlib.errors import BuildError
from buildlib.progress import Progress

PROJECT = '[build-system]\nrequires = ["hatchling", "cffi"]\n'


class FakeEnvironment(Environment):
    """An environment whose venv and pip only note what they are asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.installed: list[Sequence[str]] = []
        self.failure: BaseException | None = None

    def _create(self) -> None:
        self.scripts.mkdir(parents=True)
        (self.folder / HALF_MADE).touch()
        self.python.touch()

    def _pip(self, args: Sequence[str], what: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.installed.append(args)
        (self.folder / "lib/python3.12/site-packages/pytreellama-1.dist-info").mkdir(
            parents=True, exist_ok=True
        )


@pytest.fixture
def environment(tmp_path: Path) -> FakeEnvironment:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return FakeEnvironment(tmp_path)


@pytest.fixture
def progress() -> Progress:
    return Progress(io.StringIO())


def test_requirements_are_installed_once(environment: FakeEnvironment, progress: Progress) -> None:
    environment.ensure(progress)
    environment.ensure(progress)
    assert environment.installed == [["install", "hatchling", "cffi"]]
    assert not (environment.folder / HALF_MADE).exists()


def test_changed_requirements_are_installed_again(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment.ensure(progress)
    (environment.root / "pyproject.toml").write_text(PROJECT.replace("cffi", "cffi>=2"))
    environment.ensure(progress)
    assert environment.installed[-1] == ["install", "hatchling", "cffi>=2"]


def test_the_package_is_installed_once_and_keeps_its_extras(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment.ensure(progress)
    environment.ensure_package(["test"], progress)
    environment.ensure_package([], progress)
    environment.ensure_package(["bench"], progress)
    targets = [args[-1] for args in environment.installed[1:]]
    assert targets == [f"{environment.root}[test]", f"{environment.root}[bench,test]"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), BuildError("offline"), OSError(28, "")])
def test_a_new_environment_is_not_left_half_made(
    environment: FakeEnvironment, progress: Progress, failure: BaseException
) -> None:
    environment.failure = failure
    with pytest.raises(type(failure)):
        environment.ensure(progress)
    assert not environment.folder.exists()


def test_an_environment_that_was_killed_half_way_is_made_anew(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment._create()
    (environment.folder / "half").touch()
    environment.ensure(progress)
    assert not (environment.folder / "half").exists()
    assert len(environment.installed) == 1


def test_a_failed_update_keeps_the_old_environment(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment.ensure(progress)
    (environment.root / "pyproject.toml").write_text(PROJECT.replace("cffi", "cffi>=2"))
    environment.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        environment.ensure(progress)
    assert environment.python.exists()
    environment.failure = None
    environment.ensure(progress)
    assert len(environment.installed) == 2


def test_somebody_elses_environment_is_used_but_never_removed(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment.scripts.mkdir(parents=True)
    environment.python.touch()
    environment.ensure(progress)
    assert len(environment.installed) == 1
    assert not environment.remove()
    assert environment.python.exists()


def test_somebody_elses_broken_environment_is_told(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment.folder.mkdir()
    with pytest.raises(BuildError, match="holds no Python that runs"):
        environment.ensure(progress)
    assert environment.folder.exists()


def test_our_environment_is_removed_on_request(
    environment: FakeEnvironment, progress: Progress
) -> None:
    environment.ensure(progress)
    assert environment.remove()
    assert not environment.folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the program is made with a #! line")
def test_a_python_without_venv_is_told(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho ensurepip is not available\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    environment = Environment(tmp_path)
    with pytest.raises(BuildError, match="ensurepip is not available") as caught:
        environment.ensure(progress)
    assert "-venv" in caught.value.advice
    assert not environment.folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the program is made with a #! line")
@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: No matching distribution found for cffi", "check the network"),
        ("OSError: [Errno 28] No space left on device", "no space is left"),
        ("ERROR: something else", "read what pip says"),
    ],
)
def test_what_pip_says_is_passed_on(
    tmp_path: Path, progress: Progress, output: str, advice: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    environment = Environment(tmp_path)
    environment.scripts.mkdir(parents=True)
    environment.python.write_text(f"#!/bin/sh\necho '{output}'\nexit 1\n")
    environment.python.chmod(0o755)
    with pytest.raises(BuildError) as caught:
        environment.ensure(progress)
    assert output in caught.value.what
    assert advice in caught.value.advice


def test_too_little_space_is_told_before_anything_is_made(
    tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setattr("buildlib.environment.SPACE_MB", 1 << 40)
    environment = Environment(tmp_path)
    with pytest.raises(BuildError, match="no space left"):
        environment.ensure(progress)
    assert not environment.folder.exists()
