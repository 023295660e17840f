"""The rules of the series: complete headers, names from subjects, a budget of lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildlib import patch_commands
from buildlib.progress import Progress
from buildlib.series import (
    FIELDS,
    NO_TEST,
    Header,
    file_name,
    find_test,
    header_faults,
    read_header,
    read_series,
    size_faults,
)
from fake_series import HEADER, Project, patch

SUBJECT = HEADER.format(subject="do it")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_complete_header_has_no_fault(project: Project) -> None:
    header = read_header(patch("do it", 5).encode())
    assert header.subject == "kv-cache : do it"
    assert list(header.fields) == list(FIELDS)
    assert header.tests == ["tests/test_it.py::test_that_it_is"]
    assert header_faults(header, project.root) == []


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_named(project: Project, name: str) -> None:
    lines = [line for line in SUBJECT.splitlines() if not line.startswith(name + ":")]
    assert header_faults(Header("\n".join(lines)), project.root) == [f"no {name}:"]


@pytest.mark.parametrize(
    ("shown_by", "fault"),
    [
        ("tests/test_other.py", "no test tests/test_other.py"),
        ("tests/test_it.py::test_other", "no test tests/test_it.py::test_other"),
        ("a long look at it", "Shown by: names no test"),
    ],
)
def test_a_test_that_is_not_there_is_a_fault(project: Project, shown_by: str, fault: str) -> None:
    text = SUBJECT.replace("tests/test_it.py::test_that_it_is", shown_by)
    (found,) = header_faults(Header(text), project.root)
    assert found.startswith(fault)


def test_a_patch_that_no_test_can_show_says_so(project: Project) -> None:
    text = SUBJECT.replace("tests/test_it.py::test_that_it_is", f"{NO_TEST}: it needs a GPU")
    assert header_faults(Header(text), project.root) == []


def test_a_test_is_found_by_its_name_alone(project: Project) -> None:
    assert find_test(project.root, "test_it.py") == "tests/test_it.py"
    assert find_test(project.root, "test_that.py") is None


def test_a_name_is_made_of_the_number_and_the_subject() -> None:
    assert file_name(7, "kv-cache : Keep it (GCC 12)") == "0007-keep-it-gcc-12.patch"


@given(st.text(), st.integers(1, 9999))
def test_a_name_is_fit_for_every_file_system(subject: str, number: int) -> None:
    name = file_name(number, subject)
    assert name.isascii() and not set(name) & set('/\\:*?"<>| ')
    assert name.startswith(f"{number:04d}-") and name.endswith(".patch")


def test_what_is_too_large_is_a_fault(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    series = read_series(project.patches)
    assert size_faults(series) == []
    n_lines = series[0].n_lines
    monkeypatch.setattr("buildlib.series.N_LINES_MAX", n_lines)
    monkeypatch.setattr("buildlib.series.N_SERIES_LINES_MAX", 2 * n_lines - 1)
    assert [fault.split(":")[0] for fault in size_faults(series)] == ["the series"]
    monkeypatch.setattr("buildlib.series.N_LINES_MAX", n_lines - 1)
    assert len(size_faults(series)) == 3


def check(root: Path, *words: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    patch_commands.add_arguments(parser)
    with Progress() as progress:
        return patch_commands.run(parser.parse_args(["check", *words]), root, progress)


def test_check_counts_and_has_a_status(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(project.root, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_hunks"], found["faults"]) == (2, [])
    assert found["n_lines"] == sum(len(c.splitlines()) for c in project.series().values())
    project.put("vendor/patches/0003-bare.patch", patch("no fields", 10, "subject\n"))
    assert check(project.root) == 1
    assert "no Why:" in capsys.readouterr().out
