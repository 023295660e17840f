"""compile_commands.json: what is edited has the command that compiles its copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildlib.compile_commands import NAME, write_compile_commands


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build folder whose sources are a copy of ours, two of llama.cpp's in a bundle."""
    put(tmp_path / "root/vendor/bridge/tree.cpp", "int tree;")
    put(tmp_path / "work/bridge/tree.cpp", "int tree;")
    for name in ("a", "b"):
        put(tmp_path / f"work/src/{name}.cpp", f"int {name};")
    work = tmp_path / "work"
    bundle = "".join(f'#include "{work}/src/{name}.cpp"\n' for name in ("a", "b"))
    put(work / "build/unity_0_cxx.cxx", bundle)
    files = [work / "bridge/tree.cpp", work / "build/unity_0_cxx.cxx"]
    entries = [
        {"directory": str(work), "command": f"c++ -o x.o -c {file}", "file": str(file)}
        for file in files
    ]
    put(work / "build" / NAME, json.dumps(entries))
    return work / "build"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commands(root: Path) -> dict[str, str]:
    entries = json.loads((root / NAME).read_text())
    return {entry["file"]: entry["command"] for entry in entries}


def test_our_source_is_named_where_it_is_edited(build: Path, tmp_path: Path) -> None:
    assert write_compile_commands(tmp_path / "root", build)
    ours = str(tmp_path / "root/vendor/bridge/tree.cpp")
    command = commands(tmp_path / "root")[ours]
    assert command == f"c++ -o x.o -I{tmp_path}/work/bridge -c {ours}"


def test_sources_in_a_bundle_have_a_command_each(build: Path, tmp_path: Path) -> None:
    write_compile_commands(tmp_path / "root", build)
    found = commands(tmp_path / "root")
    for name in ("a", "b"):
        file = f"{tmp_path}/work/src/{name}.cpp"
        assert found[file] == f"c++ -o x.o -c {file}"
    assert not any("unity" in file for file in found)


def test_a_source_that_differs_from_its_copy_is_not_taken_for_it(
    build: Path, tmp_path: Path
) -> None:
    put(tmp_path / "root/vendor/bridge/tree.cpp", "int other;")
    write_compile_commands(tmp_path / "root", build)
    assert f"{tmp_path}/work/bridge/tree.cpp" in commands(tmp_path / "root")


def test_without_a_build_folder_nothing_is_written(tmp_path: Path) -> None:
    assert not write_compile_commands(tmp_path, tmp_path / "gone")
    assert not (tmp_path / NAME).exists()
