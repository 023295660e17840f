"""The cache of builds: writable, big enough, one build at a time, never growing for ever."""

from __future__ import annotations

import io
import os
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from buildlib import cache as cache_module
from buildlib.cache import N_KEPT, Cache, cache_root, mark_used
from buildlib.errors import BuildError
from buildlib.progress import Progress


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    cache.make()
    return cache


def test_the_cache_can_be_put_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTREELLAMA_CACHE", str(tmp_path))
    assert cache_root() == tmp_path / "build"


def test_the_root_is_the_same_before_and_after_platformdirs_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PYTREELLAMA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == cache_module._user_cache_path() / "build"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == cache_module._user_cache_path() / "build"


def test_an_unwritable_cache_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot write to the cache") as caught:
        Cache(tmp_path / "file/cache").make()
    assert "PYTREELLAMA_CACHE" in caught.value.advice


def test_too_little_space_is_told_before_anything_starts(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=500 << 20))
    cache.require_free(500)
    with pytest.raises(BuildError, match="500 MB free, it needs about 501 MB"):
        cache.require_free(501)


def test_a_temporary_folder_goes_whatever_happens(cache: Cache) -> None:
    with pytest.raises(KeyboardInterrupt), cache.temporary() as folder:
        (folder / "half").write_text("made")
        raise KeyboardInterrupt
    assert not folder.exists()


def test_what_a_killed_build_left_is_removed_by_the_next(cache: Cache) -> None:
    leftover = cache.root / "tmp-killed"
    leftover.mkdir()
    (leftover / "half").write_text("made")
    with cache.locked(Progress(io.StringIO())):
        assert not leftover.exists()


def test_entries_used_last_are_kept(cache: Cache) -> None:
    for age in range(N_KEPT + 2):
        entry = cache.builds / f"age-{age}"
        entry.mkdir()
        mark_used(entry)
        os.utime(entry / cache_module.LAST_USED, (1000 - age, 1000 - age))
    oldest = cache.builds / f"age-{N_KEPT + 1}"
    mark_used(oldest)
    cache.prune()
    kept = {f"age-{age}" for age in range(N_KEPT - 1)} | {oldest.name}
    assert {entry.name for entry in cache.builds.iterdir()} == kept


def test_a_second_build_waits_and_says_so(cache: Cache) -> None:
    told, order = io.StringIO(), []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with cache.locked(Progress(told)):
            order.append("second")

    with cache.locked(Progress(io.StringIO())):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        while "waiting for another build" not in told.getvalue():
            assert thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
