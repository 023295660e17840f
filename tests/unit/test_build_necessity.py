"""Necessity: what the end of a test run says about a patch, and how a patch is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildlib import native, necessity, staging
from buildlib.errors import BuildError
from buildlib.necessity import Necessity, Verdict, end_of_tests
from buildlib.progress import Progress
from buildlib.recipe import Recipe
from fake_series import HEADER, Project, needs_git, patch

pytestmark = needs_git


@pytest.mark.parametrize(
    ("status", "output", "end"),
    [
        (0, "3 passed, 1 skipped in 0.1s", "pass"),
        (0, "4 skipped in 0.1s", "are skipped"),
        (1, "1 failed, 2 passed", "fail"),
        (-11, "", "crash"),
        (134, "", "crash"),
        (2, "ERROR tests/test_it.py - ImportError: no", "cannot be imported"),
        (4, "ERROR: file or directory not found", "cannot be found"),
        (5, "no tests ran", "are not there"),
    ],
)
def test_what_the_end_of_a_run_means(status: int, output: str, end: str) -> None:
    assert end_of_tests(status, output) == end


class Machine:
    """Builds that only note which lines the source would have, and tests that read them."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        self.is_compiling = True
        self.wanted = ["LINE 5", "LINE 20"]  # what the test of each patch looks for
        self.source = ""
        monkeypatch.setattr(native, "ensure", self.ensure)
        monkeypatch.setattr(staging, "stage", lambda entry, package: True)
        monkeypatch.setattr(staging, "stage_testing", lambda entry, package: None)
        monkeypatch.setattr(Necessity, "_test", lambda _, *words: self.test(*words))

    def ensure(self, recipe: Recipe, *_: object, testing: bool) -> Path:
        assert testing, "the tests of a patch may need the instruments"
        from buildlib.patches import apply_series

        source = self.project.llama_cpp
        changes = apply_series(recipe.patches, lambda path: (source / path).read_bytes())
        self.source = (changes["src/kv.cpp"] or b"").decode()
        if recipe.root != self.project.root and not self.is_compiling:
            raise BuildError("llama.cpp does not compile:\n  x.cpp:1: error: no tree")
        entry = self.project.root / "entry"
        entry.mkdir(exist_ok=True)
        return entry

    def test(self, test: str, *options: str) -> str:
        number = int(test[-1])
        return "pass" if self.wanted[number] in self.source else "fail"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "project")
    monkeypatch.setenv("PYTREELLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTREELLAMA_LLAMA_CPP", str(project.llama_cpp))
    project.put("vendor/CMakeLists.txt", "# nothing")
    project.put("tests/test_it.py", "def test_0(): ...\ndef test_1(): ...\n")
    for number, (subject, line) in enumerate([("change five", 5), ("change twenty", 20)]):
        header = HEADER.replace("test_that_it_is", f"test_{number}")
        project.put(
            f"vendor/patches/{number + 1:04d}-first-name.patch", patch(subject, line, header)
        )
    return project


@pytest.fixture
def machine(project: Project, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(project, monkeypatch)


def verdicts(project: Project, tmp_path: Path, *names: str) -> list[Verdict]:
    with Progress() as progress:
        return list(Necessity(project.root, tmp_path / "run", progress, 1).verdicts(names))


def test_a_patch_whose_test_fails_without_it_is_needed(machine: Machine, tmp_path: Path) -> None:
    found = verdicts(machine.project, tmp_path)
    assert [(v.patch, v.is_needed) for v in found] == [
        ("0001-first-name.patch", True),
        ("0002-first-name.patch", True),
    ]
    assert "LINE 5" in machine.source and "LINE 20" in machine.source  # built whole at the end


def test_a_patch_whose_test_passes_without_it_is_not_shown(
    machine: Machine, tmp_path: Path
) -> None:
    machine.wanted[0] = "line 6"
    first, second = verdicts(machine.project, tmp_path)
    assert (first.is_needed, second.is_needed) == (False, True)


def test_a_test_that_fails_anyway_shows_nothing(machine: Machine, tmp_path: Path) -> None:
    machine.wanted[1] = "nowhere"
    (found,) = verdicts(machine.project, tmp_path, "0002")
    assert found.is_needed is None and "fail with the series" in found.what


def test_what_does_not_compile_without_a_patch_needs_it(machine: Machine, tmp_path: Path) -> None:
    machine.is_compiling = False
    (found,) = verdicts(machine.project, tmp_path, "0001")
    assert found.is_needed and "does not build without it: x.cpp:1: error" in found.what


def test_a_patch_on_which_others_stand_says_so(machine: Machine, tmp_path: Path) -> None:
    text = patch("change it again", 5, HEADER.replace("test_that_it_is", "test_0"))
    text = text.replace("-line 5\n+LINE 5\n", "-LINE 5\n+LINE FIVE\n")
    machine.project.put("vendor/patches/0003-again.patch", text)
    machine.wanted[0] = "LINE FIVE"
    (found,) = verdicts(machine.project, tmp_path, "0001")
    assert found.is_needed is None
    assert found.what == "later patches need it: conflicts in src/kv.cpp"


def test_a_patch_for_another_cpu_is_no_fault(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = HEADER.replace("::test_that_it_is", "::test_0, only on CPUs with amx_of_tomorrow")
    machine.project.put("vendor/patches/0003-more.patch", patch("more", 10, header))
    with Progress() as progress:
        status = necessity.show_necessity(machine.project.root, ["more"], progress, False, 1)
    assert status == 0
    assert "not on this CPU: its tests need amx_of_tomorrow" in capsys.readouterr().out


def test_the_copy_has_all_but_what_was_made(machine: Machine, tmp_path: Path) -> None:
    for name in ("bench/lib/it.py", "src/pytreellama/native/lib/libllama.so", "build/x", ".venv/y"):
        machine.project.put(name, "")
    with Progress() as progress:
        copy = Necessity(machine.project.root, tmp_path / "run", progress, 1).copy
    assert (copy / "bench/lib/it.py").exists() and (copy / "vendor/patches").exists()
    assert not any(
        (copy / name).exists() for name in ("src/pytreellama/native/lib", "build", ".venv")
    )


def test_an_unknown_name_is_an_error(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no patch is called nothing"):
        verdicts(machine.project, tmp_path, "nothing")


def test_a_patch_that_no_test_can_show_is_no_fault(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    header = HEADER.replace("tests/test_it.py::test_that_it_is", "no test: it needs a GPU")
    machine.project.put("vendor/patches/0003-more.patch", patch("more", 10, header))
    with Progress() as progress:
        status = necessity.show_necessity(machine.project.root, ["more"], progress, False, 1)
    assert status == 0
    assert "no test: it needs a GPU" in capsys.readouterr().out
