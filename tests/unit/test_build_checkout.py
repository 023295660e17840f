"""The series as commits and back: nothing is lost, and nothing unfit is written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildlib.checkout import checkout, export, open_checkout
from buildlib.errors import BuildError
from buildlib.git import Repository
from buildlib.patches import apply_series, list_patches
from fake_series import HEADER, LINES, Project, needs_git, patch

pytestmark = needs_git


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def write_back(project: Project, repository: Repository) -> dict[str, bytes]:
    export(repository, project.patches, project.source, project.root)
    return project.series()


def test_each_patch_is_a_commit_with_its_header(project: Project) -> None:
    repository = project.checkout()
    subjects = repository.text("log", "--reverse", "--format=%s", "pin..HEAD").split("\n")
    assert subjects == ["kv-cache : change five", "kv-cache : change twenty"]
    text = (repository.folder / "src/kv.cpp").read_text()
    assert text == LINES.replace("line 5\n", "LINE 5\n").replace("line 20\n", "LINE 20\n")
    assert repository.is_clean()


def test_names_come_from_subjects_and_context_has_three_lines(project: Project) -> None:
    series = write_back(project, project.checkout())
    assert list(series) == ["0001-change-five.patch", "0002-change-twenty.patch"]
    text = series["0002-change-twenty.patch"].decode()
    assert text.startswith(HEADER.format(subject="change twenty") + "\n--- a/src/kv.cpp\n")
    assert "@@ -17,7 +17,7 @@" in text


def test_export_after_checkout_is_the_same_to_the_byte(project: Project) -> None:
    series = write_back(project, project.checkout("one"))
    assert write_back(project, project.checkout("two")) == series


EDITS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.lists(st.sampled_from(
        ["a\n", "--- b\n", "+++ c\n", "@@ -1 +1 @@\n", "\n", " \n", "\f\r\n", "diff --git x\n"]
    ), max_size=3)),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=15)  # each runs git 30 times
@given(EDITS)
def test_whatever_is_committed_comes_back(edits: list[tuple[int, int, list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        repository = project.checkout()
        path = repository.folder / "src/kv.cpp"
        for number, (at, n_removed, added) in enumerate(edits):
            lines = path.read_bytes().splitlines(True)
            lines[at : at + n_removed] = [line.encode() for line in added]
            path.write_bytes(b"".join(lines))
            if not repository.is_clean():
                repository.commit_all(HEADER.format(subject=f"edit {number}").encode())
        series = write_back(project, repository)
        source = project.llama_cpp
        changes = apply_series(list_patches(project.patches), lambda p: (source / p).read_bytes())
        assert changes.get("src/kv.cpp", LINES.encode()) == path.read_bytes()
        assert write_back(project, project.checkout("again")) == series


def test_new_and_removed_files_come_back(project: Project) -> None:
    repository = project.checkout()
    (repository.folder / "src/kv.cpp").unlink()
    (repository.folder / "src/new.cpp").write_bytes(b"no newline at the end")
    repository.commit_all(HEADER.format(subject="move it").encode())
    series = write_back(project, repository)
    assert b"+++ /dev/null" in series["0003-move-it.patch"]
    again = project.checkout("again").folder / "src"
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        "new.cpp": b"no newline at the end"
    }


def test_attributes_and_ignored_files_of_the_source_change_nothing(project: Project) -> None:
    project.put("upstream/src/.gitattributes", "* text eol=crlf\n*.cpp -diff\n")
    project.put("upstream/src/.gitignore", "*.cpp\n")
    repository = project.checkout()
    assert repository.read("pin", "src/kv.cpp") == LINES.encode()
    assert len(write_back(project, repository)) == 2


def test_a_missing_field_is_named_and_nothing_is_written(project: Project) -> None:
    project.put("vendor/patches/0003-bare.patch", patch("bare", 10, "subject\n\nWhat: {subject}\n"))
    before = project.series()
    with pytest.raises(BuildError, match=r"0003-subject\.patch: no Upstream status:"):
        write_back(project, project.checkout())
    assert project.series() == before


def test_changes_that_are_in_no_commit_are_refused(project: Project) -> None:
    repository = project.checkout()
    (repository.folder / "src/new.cpp").touch()
    with pytest.raises(BuildError, match="in no commit"):
        write_back(project, repository)


def test_a_checkout_of_another_source_is_refused(project: Project) -> None:
    repository = project.checkout()
    project.put("upstream/src/kv.cpp", LINES + "one more\n")
    with pytest.raises(BuildError, match="another source"):
        write_back(project, repository)


def test_a_folder_in_use_is_left_alone(project: Project) -> None:
    project.put("llama.cpp/mine.txt", "mine")
    with pytest.raises(BuildError, match="not empty"):
        project.checkout()
    assert [path.name for path in (project.root / "llama.cpp").iterdir()] == ["mine.txt"]


def test_a_patch_that_does_not_apply_leaves_no_checkout(project: Project) -> None:
    project.put("vendor/patches/0003-again.patch", patch("change five", 5))
    with pytest.raises(BuildError, match="does not apply"):
        project.checkout()
    assert not (project.root / "llama.cpp").exists()


def test_a_repository_around_the_folder_is_not_taken_for_the_checkout(project: Project) -> None:
    Repository.create(project.root)
    project.put("llama.cpp/src/kv.cpp", LINES)
    with pytest.raises(BuildError, match="no checkout of the patch series"):
        open_checkout(project.root / "llama.cpp")


def test_without_git_the_error_says_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildlib.git.shutil.which", lambda name: None)
    with pytest.raises(BuildError, match="git is not installed"):
        checkout(
            project.root / "x", project.patches, project.pin, project.source, project.llama_cpp
        )
