"""Where llama.cpp comes from: fetched and unpacked safely, patched step by step."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildlib import sources
from buildlib.cache import Cache
from buildlib.errors import BuildError
from buildlib.pin import Pin, read_pin
from buildlib.progress import Progress

ROOT = Path(__file__).parents[2]
PIN = Pin(
    distribution="llama-cpp-python",
    version="0.3.36",
    sha256="0" * 64,
    size_mb=1,
    commit="abc",
    licence="MIT",
    path="vendor/llama.cpp",
    unpack=("CMakeLists.txt", "src", "include"),
)
PREFIX = "llama_cpp_python-0.3.36/vendor/llama.cpp/"
FILES = {"CMakeLists.txt": b"project(x)", "include/llama.h": b"int x;", "src/llama.cpp": b"x"}


def make_archive(path: Path, files: dict[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(PREFIX + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in odd:
            tar.addfile(member)
    return path


def tree_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    cache.make()
    return cache


@pytest.fixture
def progress() -> Progress:
    return Progress(io.StringIO())


#
# unpacking
#


def test_only_listed_parts_are_unpacked(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", {**FILES, "models/big.gguf": b"?"})
    sources.unpack(archive, tmp_path / "tree", PIN)
    assert tree_of(tmp_path / "tree") == FILES


def test_what_stands_beside_llama_cpp_is_not_unpacked(tmp_path: Path) -> None:
    beside = tarfile.TarInfo("llama_cpp_python-0.3.36/src/setup.py")
    archive = make_archive(tmp_path / "a.tar.gz", FILES, beside)
    sources.unpack(archive, tmp_path / "tree", PIN)
    assert tree_of(tmp_path / "tree") == FILES


@pytest.mark.parametrize("name", ["src/../../../evil", "src/..", "src/C:evil", "src\\..\\evil"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", {**FILES, name: b"evil"})
    if name.startswith("src\\"):  # not under a listed name: left out, as any other file
        sources.unpack(archive, tmp_path / "deep/tree", PIN)
    else:
        with pytest.raises(BuildError, match="not a plain file inside"):
            sources.unpack(archive, tmp_path / "deep/tree", PIN)
    assert not list(tmp_path.rglob("*evil"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo(PREFIX + "src/link")
    link.type = kind
    link.linkname = "/etc/passwd"
    archive = make_archive(tmp_path / "a.tar.gz", FILES, link)
    with pytest.raises(BuildError, match="not a plain file inside"):
        sources.unpack(archive, tmp_path / "tree", PIN)
    assert not (tmp_path / "tree/src/link").exists()


@pytest.mark.parametrize("n_bytes", [0, 10, 120])
def test_a_truncated_archive_is_told_as_such(tmp_path: Path, n_bytes: int) -> None:
    whole = make_archive(tmp_path / "whole.tar.gz", FILES).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[:n_bytes])
    with pytest.raises(BuildError, match="not a readable tar archive"):
        sources.unpack(tmp_path / "cut.tar.gz", tmp_path / "tree", PIN)


def test_an_archive_without_llama_cpp_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", {"src/other.cpp": b""})
    with pytest.raises(BuildError, match=r"holds no llama\.cpp"):
        sources.unpack(archive, tmp_path / "tree", PIN)


#
# the replacement of the download
#


def test_a_folder_is_used_where_it_stands(
    tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "given/vendor/llama.cpp"
    (inner / "include").mkdir(parents=True)
    (inner / "include/llama.h").write_bytes(b"int x;")
    monkeypatch.setenv(sources.REPLACEMENT, str(tmp_path / "given"))
    source = sources.find_source(PIN)
    assert sources.obtain(source, PIN, cache, progress) == inner
    (inner / "include/llama.h").write_bytes(b"int y;")
    assert sources.find_source(PIN).identity != source.identity


def test_the_pinned_archive_given_by_hand_counts_as_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", FILES)
    pin = replace(PIN, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    downloaded = sources.find_source(pin)
    monkeypatch.setenv(sources.REPLACEMENT, str(archive))
    assert sources.find_source(pin).identity == downloaded.identity


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "does not exist"), (".", "no llama")])
def test_a_replacement_that_cannot_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv(sources.REPLACEMENT, str(tmp_path / name))
    with pytest.raises(BuildError, match=reason):
        sources.find_source(PIN)


#
# the cached, pristine tree
#


@pytest.mark.parametrize("damage", ["change", "remove", "no manifest"])
def test_a_damaged_tree_is_unpacked_anew(
    tmp_path: Path, cache: Cache, progress: Progress, damage: str
) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", FILES)
    source = sources.Source("id", "given", archive=archive)
    tree = sources.obtain(source, PIN, cache, progress)
    if damage == "change":
        (tree / "src/llama.cpp").write_bytes(b"half")
    else:
        (tree / ("src/llama.cpp" if damage == "remove" else sources.MANIFEST)).unlink()
    assert sources.obtain(source, PIN, cache, progress) == tree
    assert sources.is_intact(tree)
    assert (tree / "src/llama.cpp").read_bytes() == FILES["src/llama.cpp"]


def test_a_whole_tree_is_not_unpacked_again(
    tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", FILES)
    source = sources.Source("id", "given", archive=archive)
    tree = sources.obtain(source, PIN, cache, progress)
    archive.unlink()
    assert sources.obtain(source, PIN, cache, progress) == tree


def test_an_interrupted_unpacking_leaves_nothing(
    tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    archive = make_archive(tmp_path / "a.tar.gz", FILES)
    monkeypatch.setattr(sources, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sources.obtain(sources.Source("id", "given", archive=archive), PIN, cache, progress)
    assert not tree_of(cache.root)


#
# the download
#


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip that sees this folder and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.delenv(sources.REPLACEMENT, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_without_a_network_the_way_around_is_told(
    offline_index: Path, cache: Cache, progress: Progress
) -> None:
    with pytest.raises(BuildError) as caught:
        sources.obtain(sources.find_source(PIN), PIN, cache, progress)
    assert "offline" in caught.value.what
    assert sources.REPLACEMENT in caught.value.advice
    assert not tree_of(cache.root)


def test_pip_refuses_an_archive_with_another_hash(
    offline_index: Path, cache: Cache, progress: Progress
) -> None:
    make_archive(offline_index / "llama_cpp_python-0.3.36.tar.gz", FILES)
    with pytest.raises(BuildError, match="not the pinned one"):
        sources.obtain(sources.find_source(PIN), PIN, cache, progress)
    assert not tree_of(cache.root)


def fake_pip(monkeypatch: pytest.MonkeyPatch, output: str, archive: bytes | None = None) -> None:
    """Replace the interpreter that runs pip by one that prints `output` and leaves `archive`."""

    def run(command: list[str], log: io.TextIOBase, *, on_line: object, env: object) -> int:
        assert callable(on_line)
        for line in output.splitlines(keepends=True):
            on_line(line)
        if archive is None:
            return 1
        target = Path(next(word for word in command if word.startswith("--dest="))[7:])
        target.mkdir()
        (target / "llama_cpp_python-0.3.36.tar.gz").write_bytes(archive)
        return 0

    monkeypatch.setattr(sources, "run_logged", run)


def test_our_own_hash_check_does_not_trust_pip(
    cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, "Saved\n", b"another archive")
    with pytest.raises(BuildError, match="not the pinned one") as caught:
        sources.obtain(sources.Source("id", "pin"), PIN, cache, progress)
    assert hashlib.sha256(b"another archive").hexdigest() in caught.value.what
    assert not tree_of(cache.root)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("OSError: [Errno 28] No space left on device\n", "no space left"),
        (f"{sys.executable}: No module named pip\n", "has no pip"),
        ("ERROR: Temporary failure in name resolution\n", "cannot download"),
    ],
)
def test_pip_failures_are_told_apart(
    cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    fake_pip(monkeypatch, output)
    with pytest.raises(BuildError, match=reason):
        sources.obtain(sources.Source("id", "pin"), PIN, cache, progress)
    assert not tree_of(cache.root)


def test_the_pin_of_this_checkout_is_complete() -> None:
    pin = read_pin(ROOT / "vendor/llama_cpp.toml")
    assert len(pin.sha256) == 64
    assert {"CMakeLists.txt", "ggml", "include", "src"} <= set(pin.unpack)


@pytest.mark.parametrize(
    ("text", "reason"), [("[archive]\n", "no entry"), ("= broken", "not valid TOML")]
)
def test_a_broken_pin_is_told(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "pin.toml").write_text(text)
    with pytest.raises(BuildError, match=reason):
        read_pin(tmp_path / "pin.toml")
    with pytest.raises(BuildError, match="missing"):
        read_pin(tmp_path / "other.toml")


#
# the patched tree
#


def test_synchronising_writes_only_what_differs(tmp_path: Path) -> None:
    pristine, work = tmp_path / "pristine", tmp_path / "work"
    for name, content in FILES.items():
        sources.write_if_changed(pristine / name, content)
    sources.synchronise(pristine, [], work, PIN.unpack)
    for path in work.rglob("*"):
        os.utime(path, (1, 1))
    patch = tmp_path / "1.patch"
    patch.write_bytes(
        b"--- a/include/llama.h\n+++ b/include/llama.h\n@@ -1 +1 @@\n-int x;\n"
        b"\\ No newline at end of file\n+int patched;\n"
    )
    (work / "src/stale.cpp").write_bytes(b"left over")

    sources.synchronise(pristine, [patch], work, PIN.unpack)

    assert tree_of(work) == {**FILES, "include/llama.h": b"int patched;\n"}
    assert (work / "src/llama.cpp").stat().st_mtime == 1
    assert (work / "include/llama.h").stat().st_mtime > 1


def test_a_patch_taken_away_restores_the_file(tmp_path: Path) -> None:
    pristine, work = tmp_path / "pristine", tmp_path / "work"
    sources.write_if_changed(pristine / "src/a", b"a\n")
    patch = tmp_path / "1.patch"
    patch.write_bytes(
        b"--- a/src/a\n+++ b/src/a\n@@ -1 +1 @@\n-a\n+b\n"
        b"--- /dev/null\n+++ b/src/new\n@@ -0,0 +1 @@\n+n\n"
    )
    sources.synchronise(pristine, [patch], work, PIN.unpack)
    assert tree_of(work) == {"src/a": b"b\n", "src/new": b"n\n"}
    sources.synchronise(pristine, [], work, PIN.unpack)
    assert tree_of(work) == {"src/a": b"a\n"}


def test_a_file_that_holds_its_content_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder/CMakeLists.txt"
    assert sources.write_if_changed(path, b"one")
    written_ns = path.stat().st_mtime_ns
    assert not sources.write_if_changed(path, b"one")
    assert path.stat().st_mtime_ns == written_ns
    assert sources.write_if_changed(path, b"two")
    assert path.read_bytes() == b"two"
