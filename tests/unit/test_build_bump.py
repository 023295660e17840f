"""Moving the pin: three-way merges, conflicts told by patch and file, all or nothing."""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

import pytest

from buildlib import patch_commands
from buildlib.bump import read_new_pin
from buildlib.cache import sha256_file
from buildlib.errors import BuildError
from buildlib.git import Repository
from buildlib.progress import Progress
from buildlib.sources import source_at
from fake_series import LINES, Project, needs_git

pytestmark = needs_git
COMMIT = "1234567890abcdef1234567890abcdef12345678"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "project")
    monkeypatch.setenv("PYTREELLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTREELLAMA_LLAMA_CPP", str(project.llama_cpp))
    project.checkout()
    return project


def patches(project: Project, *words: str) -> int:
    parser = argparse.ArgumentParser()
    patch_commands.add_arguments(parser)
    with Progress() as progress:
        return patch_commands.run(parser.parse_args(words), project.root, progress)


def distribution(project: Project, text: str, version: str = "0.3.37") -> Path:
    """A source distribution of llama-cpp-python whose ``kv.cpp`` is ``text``."""
    files = {
        "PKG-INFO": f"Name: llama_cpp_python\nVersion: {version}\n\nVersion: 9\n",
        ".git/modules/vendor/llama.cpp/HEAD": COMMIT + "\n",
        "vendor/llama.cpp/include/llama.h": "// the landmark\n",
        "vendor/llama.cpp/src/kv.cpp": text,
    }
    archive = project.root / f"llama_cpp_python-{version}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"llama_cpp_python-{version}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return archive


def test_a_series_that_has_moved_is_merged_and_the_pin_rewritten(project: Project) -> None:
    archive = distribution(project, "one more\n" + LINES)
    assert patches(project, "bump", str(archive)) == 0
    pin = project.pin
    assert (pin.version, pin.sha256, pin.commit) == ("0.3.37", sha256_file(archive), COMMIT[:9])
    assert (project.root / "vendor/llama_cpp.toml").read_text().startswith("# what is vendored\n")
    series = project.series()
    assert list(series) == ["0001-change-five.patch", "0002-change-twenty.patch"]
    assert b"@@ -3,7 +3,7 @@" in series["0001-change-five.patch"]


def test_export_goes_on_after_a_bump(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = distribution(project, "one more\n" + LINES)
    patches(project, "bump", str(archive))
    series = project.series()
    monkeypatch.setenv("PYTREELLAMA_LLAMA_CPP", str(archive))
    assert patches(project, "export") == 0
    assert project.series() == series


def test_a_patch_that_the_new_source_has_is_dropped(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = distribution(project, LINES.replace("line 5\n", "LINE 5\n"))
    assert patches(project, "bump", str(archive)) == 0
    assert list(project.series()) == ["0001-change-twenty.patch"]
    assert "dropped, the new source has it: kv-cache : change five" in capsys.readouterr().err


def test_conflicts_are_told_by_patch_and_file_and_solved(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.series()
    archive = distribution(project, LINES.replace("line 20\n", "line twenty\n"))
    assert patches(project, "bump", str(archive)) == 1
    out = capsys.readouterr().out
    assert "conflicts in: kv-cache : change twenty" in out and "src/kv.cpp" in out
    with pytest.raises(BuildError, match=r"markers are left in src/kv\.cpp"):
        patches(project, "bump", "--continue")
    with pytest.raises(BuildError, match="rebase is under way"):
        patches(project, "export")
    assert project.series() == before and project.pin.version == "0.3.36"
    path = project.root / "llama.cpp/src/kv.cpp"
    path.write_text(LINES.replace("line 5\n", "LINE 5\n").replace("line 20\n", "LINE TWENTY\n"))
    assert patches(project, "bump", "--continue") == 0
    assert b"+LINE TWENTY" in project.series()["0002-change-twenty.patch"]
    assert project.pin.version == "0.3.37"
    assert "conflicts in all: 1" in capsys.readouterr().err


def test_an_aborted_bump_leaves_everything_as_it_was(project: Project) -> None:
    before = project.series()
    archive = distribution(project, LINES.replace("line 20\n", "line twenty\n"))
    assert patches(project, "bump", str(archive)) == 1
    assert patches(project, "bump", "--abort") == 0
    assert project.series() == before and project.pin.version == "0.3.36"
    assert patches(project, "export") == 0
    with pytest.raises(BuildError, match="no bump is under way"):
        patches(project, "bump", "--continue")


def test_a_rebase_that_was_given_up_by_hand_moves_no_pin(project: Project) -> None:
    archive = distribution(project, LINES.replace("line 20\n", "line twenty\n"))
    patches(project, "bump", str(archive))
    Repository(project.root / "llama.cpp").run("rebase", "--abort")
    with pytest.raises(BuildError, match="was given up"):
        patches(project, "bump", "--continue")
    assert project.pin.version == "0.3.36"
    assert patches(project, "bump", "--abort") == 0


def test_a_header_that_is_not_complete_stops_a_bump_before_it_begins(project: Project) -> None:
    path = project.root / "llama.cpp/src/kv.cpp"
    path.write_text(path.read_text() + "more\n")
    Repository(project.root / "llama.cpp").commit_all(b"kv : add more\n")
    with pytest.raises(BuildError, match=r"0003-add-more\.patch: no What:"):
        patches(project, "bump", str(distribution(project, "one more\n" + LINES)))
    assert project.pin.version == "0.3.36"
    with pytest.raises(BuildError, match="no bump is under way"):
        patches(project, "bump", "--abort")


def test_a_dry_run_counts_conflicts_and_changes_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.series()
    text = LINES.replace("line 20\n", "line twenty\n").replace("line 5\n", "line five\n")
    assert patches(project, "bump", "--dry-run", str(distribution(project, text))) == 1
    assert "2  conflicts in 1 files" in capsys.readouterr().out
    assert patches(project, "bump", "--dry-run", str(project.llama_cpp)) == 0
    assert project.series() == before and patches(project, "export") == 0


def test_a_folder_moves_the_series_but_cannot_be_pinned(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    (new / "include").mkdir(parents=True)
    (new / "src").mkdir()
    (new / "include/llama.h").touch()
    (new / "src/kv.cpp").write_text("one more\n" + LINES)
    assert patches(project, "bump", str(new), "--commit", "abc") == 0
    assert (project.pin.version, project.pin.commit) == ("0.3.36", "abc")
    assert "still names llama-cpp-python 0.3.36" in capsys.readouterr().err


def test_a_bump_is_refused_while_another_is_under_way(project: Project) -> None:
    archive = distribution(project, LINES.replace("line 20\n", "line twenty\n"))
    patches(project, "bump", str(archive))
    with pytest.raises(BuildError, match="under way already"):
        patches(project, "bump", str(archive))


def test_other_archives_tell_no_version(project: Project, tmp_path: Path) -> None:
    archive = tmp_path / "llama.cpp.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(project.llama_cpp, "llama.cpp")
    pin, is_distribution = read_new_pin(
        project.pin, source_at(archive, project.pin, "SOURCE"), None
    )
    assert not is_distribution
    assert (pin.version, pin.commit) == (project.pin.version, "unknown")
