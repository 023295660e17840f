"""The patch series: strictly applied, or refused with patch, file and hunk."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildlib.errors import BuildError
from buildlib.patches import Changes, apply_series, list_patches

SOURCE = b"one\ntwo\nthree\nfour\nfive\n"
CHANGE_THREE = b"""\
why this patch is here

--- a/src/a.cpp
+++ b/src/a.cpp
@@ -2,3 +2,4 @@
 two
-three
+THREE
+and a half
 four
"""


def apply_texts(folder: Path, files: dict[str, bytes], *patches: bytes) -> Changes:
    paths = []
    for number, text in enumerate(patches, 1):
        path = folder / f"{number:04d}-change.patch"
        path.write_bytes(text)
        paths.append(path)
    return apply_series(paths, files.get)


def test_a_hunk_replaces_its_lines(tmp_path: Path) -> None:
    changes = apply_texts(tmp_path, {"src/a.cpp": SOURCE}, CHANGE_THREE)
    assert changes == {"src/a.cpp": b"one\ntwo\nTHREE\nand a half\nfour\nfive\n"}


def test_a_later_patch_sees_what_an_earlier_one_made(tmp_path: Path) -> None:
    second = b"--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -3 +3 @@\n-THREE\n+3\n"
    changes = apply_texts(tmp_path, {"src/a.cpp": SOURCE}, CHANGE_THREE, second)
    assert changes["src/a.cpp"] == b"one\ntwo\n3\nand a half\nfour\nfive\n"


def test_the_series_is_ordered_by_name(tmp_path: Path) -> None:
    for name in ("0002-b.patch", "0010-c.patch", "0001-a.patch", "notes.txt"):
        (tmp_path / name).touch()
    names = [path.name for path in list_patches(tmp_path)]
    assert names == ["0001-a.patch", "0002-b.patch", "0010-c.patch"]


def test_files_are_added_and_removed(tmp_path: Path) -> None:
    added = b"--- /dev/null\n+++ b/new.h\n@@ -0,0 +1,2 @@\n+a\n+b\n"
    removed = b"--- a/old.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"
    changes = apply_texts(tmp_path, {"old.h": b"gone\n"}, added, removed)
    assert changes == {"new.h": b"a\nb\n", "old.h": None}


def test_a_missing_last_newline_is_kept_or_mended_as_the_patch_says(tmp_path: Path) -> None:
    mark = b"\\ No newline at end of file\n"
    mend = b"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n" + mark + b"+b\n"
    keep = b"--- a/g\n+++ b/g\n@@ -1,2 +1,2 @@\n-a\n+A\n b\n" + mark
    changes = apply_texts(tmp_path, {"f": b"a\nb", "g": b"a\nb"}, mend, keep)
    assert changes == {"f": b"a\nb\n", "g": b"A\nb"}


def test_bytes_that_are_not_utf8_and_carriage_returns_survive(tmp_path: Path) -> None:
    patch = b"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n \xff\x85\r\n-a\n+b\n"
    changes = apply_texts(tmp_path, {"f": b"\xff\x85\r\na\n\x0c\n"}, patch)
    assert changes == {"f": b"\xff\x85\r\nb\n\x0c\n"}


def test_a_wrong_context_names_patch_file_hunk_and_line(tmp_path: Path) -> None:
    source = SOURCE.replace(b"four", b"quatre")
    with pytest.raises(BuildError) as caught:
        apply_texts(tmp_path, {"src/a.cpp": source}, CHANGE_THREE)
    text = str(caught.value)
    assert "0001-change.patch, file src/a.cpp, hunk 1 of 1 (@@ -2,3 +2,4 @@)" in text
    assert "line 4" in text
    assert "the patch wants  four" in text
    assert "the source has   quatre" in text


def test_a_hunk_is_not_searched_for_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the same lines stand at line 3"):
        apply_texts(tmp_path, {"src/a.cpp": b"zero\n" + SOURCE}, CHANGE_THREE)


def test_a_patch_that_is_applied_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"0002-change\.patch.*does not apply"):
        apply_texts(tmp_path, {"src/a.cpp": SOURCE}, CHANGE_THREE, CHANGE_THREE)


def test_a_hunk_beyond_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"end of file"):
        apply_texts(tmp_path, {"src/a.cpp": b"one\ntwo\nthree\n"}, CHANGE_THREE)
    with pytest.raises(BuildError, match=r"after the file"):
        apply_texts(tmp_path, {"src/a.cpp": b"one\n"}, CHANGE_THREE.replace(b"-2,3", b"-9,3"))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"src/a\.cpp: there is no such file"):
        apply_texts(tmp_path, {}, CHANGE_THREE)


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (CHANGE_THREE.replace(b"-2,3 +2,4", b"-2,3 +2,5"), "ends inside the hunk"),
        (CHANGE_THREE.replace(b"-2,3 +2,4", b"-2,2 +2,3"), "belongs to no hunk"),
        (CHANGE_THREE.replace(b"-2,3 +2,4", b"-2,1 +2,4"), "longer than its header says"),
        (CHANGE_THREE.replace(b" four", b"four"), "not a line of the hunk"),
        (CHANGE_THREE.replace(b"@@ -2,3", b"@@ -x,3"), "not a hunk header"),
        (b"only words\n", "changes no file"),
        (b"--- a/f\n+++ b/f\nnothing\n", "without a hunk"),
        (b"diff --git a/f b/g\nrename from f\nrename to g\n", "renames"),
        (b"--- a/f\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n", "renames"),
        (b"--- a/../f\n+++ b/../f\n@@ -1 +1 @@\n-a\n+b\n", "outside the source"),
        (b"--- /etc/f\n+++ /etc/f\n@@ -1 +1 @@\n-a\n+b\n", "outside the source"),
        (b"--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+b\n", "is there already"),
        (b"--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "lines would be left"),
    ],
)
def test_a_malformed_patch_is_refused(tmp_path: Path, patch: bytes, reason: str) -> None:
    files = {"src/a.cpp": SOURCE, "f": b"a\nz\n"}
    with pytest.raises(BuildError, match=reason):
        apply_texts(tmp_path, files, patch)


lines_of_text = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "--- x\n", "@@\n", "\n", " \n"]))


@given(lines_of_text, lines_of_text, st.integers(0, 3))
def test_what_difflib_writes_turns_old_into_new(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str], n_context: int
) -> None:
    if old == new or not old or not new:
        return
    diff = difflib.unified_diff(old, new, "a/f", "b/f", n=n_context)
    folder = tmp_path_factory.getbasetemp()
    changes = apply_texts(folder, {"f": "".join(old).encode()}, "".join(diff).encode())
    assert changes == {"f": "".join(new).encode()}
