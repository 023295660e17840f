"""The native build, from recipe to staged files, with the real CMake on a tiny llama.cpp."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildlib import explain, native, staging
from buildlib.cache import Cache
from buildlib.errors import BuildError
from buildlib.modules import STAGED
from buildlib.native import ensure
from buildlib.progress import Progress
from buildlib.recipe import OURS as FOLDERS
from buildlib.recipe import Recipe, read_recipe
from buildlib.sources import REPLACEMENT
from buildlib.staging import is_whole, stage, stage_testing, unstage

ROOT = Path(__file__).parents[2]

PIN = """\
[archive]
distribution = "llama-cpp-python"
version = "0"
sha256 = "0"
size_mb = 1
[llama_cpp]
commit = "abc"
licence = "MIT"
path = "."
unpack = ["CMakeLists.txt", "include", "src"]
"""

# as much of llama.cpp's build as ours touches
LLAMA_CMAKE = """\
cmake_minimum_required(VERSION 3.18)
project(tiny CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_WINDOWS_EXPORT_ALL_SYMBOLS ON)
option(GGML_AVX2 "" ON)
option(GGML_FMA "" OFF)
foreach (name ggml-base ggml-cpu ggml llama)
    add_library(${name} SHARED src/${name}.cpp)
    set_target_properties(${name} PROPERTIES VERSION 1.2.3 SOVERSION 1)
endforeach()
set(GGML_AVAILABLE_BACKENDS ggml-cpu CACHE INTERNAL "")
target_link_libraries(ggml PUBLIC ggml-base ggml-cpu)
target_link_libraries(llama PUBLIC ggml)
target_include_directories(llama PUBLIC include)
target_include_directories(llama PRIVATE src)
if (LLAMA_BUILD_TOOLS)
    add_executable(llama-tiny src/tool.cpp)
    target_link_libraries(llama-tiny llama)
endif()
"""
LLAMA_H = """\
#pragma once
#ifdef __cplusplus
extern "C"
#endif
int llama_answer(void);
"""
TOOL = '#include "llama.h"\nint main() { return llama_answer() == 42 ? 0 : 1; }\n'
BRIDGE_H = """\
#pragma once
#ifdef __cplusplus
extern "C"
#endif
int treellama_twice(void);
"""
BRIDGE = '#include "treellama.h"\n#include "inside.h"\nint treellama_twice() { return 2 * kept; }\n'
TESTING_H = """\
#pragma once
struct treellama_pair { int first, second; };
#ifdef __cplusplus
extern "C"
#endif
int treellama_hidden(void);
"""
TESTING = """\
#include "treellama-testing.h"
#include "treellama.h"
#include "inside.h"
int treellama_hidden() { return kept + treellama_twice(); }
"""
OURS = {
    "bridge/treellama.h": BRIDGE_H,
    "bridge/treellama.cpp": BRIDGE,
    "ggml-cpu/kernels/fast.h": "const int kernels = 1;\n",
    "ggml-cpu/kernels/fast.cpp": '#include "kernels/fast.h"\nint fast() { return kernels; }\n',
    "testing/treellama-testing.h": TESTING_H,
    "testing/instruments.cpp": TESTING,
    "llama/trees.cpp": '#include "inside.h"\nint trees() { return kept; }\n',
}
PATCH = """\
--- a/src/llama.cpp
+++ b/src/llama.cpp
@@ -3 +3 @@
-int llama_answer() { return kept; }
+int llama_answer() { return kept + 1; }
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with our CMakeLists.txt, C++ and declarations; a tiny llama.cpp beside."""
    root, llama = tmp_path / "project", tmp_path / "llama.cpp"
    write(root / "vendor/llama_cpp.toml", PIN)
    write(root / "vendor/CMakeLists.txt", (ROOT / "vendor/CMakeLists.txt").read_text())
    for name, text in OURS.items():
        write(root / "vendor" / name, text)
    write(
        root / "src/pytreellama/testing/declarations/10-hidden.h", "int treellama_hidden(void);\n"
    )
    write(root / STAGED / "declarations/10-llama.h", "int llama_answer(void);\n")
    write(root / STAGED / "declarations/20-bridge.h", "int treellama_twice(void);\n")
    write(llama / "CMakeLists.txt", LLAMA_CMAKE)
    write(llama / "include/llama.h", LLAMA_H)
    write(llama / "src/inside.h", "const int kept = 42;\n")
    source = '#include "llama.h"\n#include "inside.h"\nint llama_answer() { return kept; }\n'
    write(llama / "src/llama.cpp", source)
    write(llama / "src/tool.cpp", TOOL)
    for name in ("ggml-base", "ggml-cpu", "ggml"):
        write(llama / f"src/{name}.cpp", f"int {name.replace('-', '_')}_here() {{ return 1; }}\n")
    monkeypatch.setenv(REPLACEMENT, str(llama))
    return root


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One cache for all tests: what they make is told apart by content, as in real life."""
    return Cache(tmp_path_factory.mktemp("cache"))


def make(
    root: Path, cache: Cache, *tools: str, cmake_args: str = "", testing: bool = False
) -> Path:
    recipe = read_recipe(root, cmake_args)
    return ensure(recipe, cache, Progress(io.StringIO()), 2, tools, testing=testing)


def call(folder: Path, function: str) -> int:
    """The result of a function of the module, called in a process of its own."""
    code = (
        "import importlib.util, os, sys\n"
        "if os.name == 'nt': os.add_dll_directory(os.path.join(sys.argv[1], 'lib'))\n"
        "spec = importlib.util.spec_from_file_location('_native', sys.argv[2])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "print(getattr(module.lib, sys.argv[3])())\n"
    )
    (module,) = folder.glob("_native*")
    command = [sys.executable, "-c", code, str(folder), str(module), function]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def call_instrument(folder: Path) -> int:
    """What an instrument says that reaches into the library, in a process of its own."""
    code = (
        "import importlib.util, sys\n"
        "for name, path in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    spec = importlib.util.spec_from_file_location(name, path)\n"
        "    sys.modules[name] = module = importlib.util.module_from_spec(spec)\n"
        "print(module.lib.treellama_hidden() + module.lib.llama_answer())\n"
    )
    command = [sys.executable, "-c", code]
    for name in ("_native", "_native_testing"):
        command += [f"pytreellama.native.{name}", str(next(folder.glob(f"{name}.*")))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def work_of(root: Path, cache: Cache) -> Path:
    return cache.work / read_recipe(root, "").work_id


def n_compiled(work: Path) -> int:
    return (work / "build.log").read_text().count("Building C")


def info_of(entry: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((entry / "native/build_info.json").read_text())
    return info


#
# what a build makes
#


def test_a_build_makes_a_module_that_loads_and_tells_where_it_comes_from(
    project: Path, shared_cache: Cache
) -> None:
    entry = make(project, shared_cache)
    assert call(entry / "native", "llama_answer") == 42
    assert call(entry / "native", "treellama_twice") == 84
    info = info_of(entry)
    assert info["commit"] == "abc"
    assert info["patches"] == []
    assert info["key"] == entry.name
    assert info["backends"] == list(read_recipe(project, "").toolchain.backends)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are those of Linux")
def test_libraries_carry_no_version_in_their_names(project: Path, shared_cache: Cache) -> None:
    entry = make(project, shared_cache)
    names = {path.name for path in (entry / "native/lib").iterdir()}
    assert names == {"libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"}
    assert not any(path.is_symlink() for path in (entry / "native/lib").iterdir())


def test_the_libraries_can_be_moved(project: Path, shared_cache: Cache, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(make(project, shared_cache) / "native", moved)
    assert call(moved, "llama_answer") == 42


def test_a_patch_ends_up_in_the_library_and_in_the_record(
    project: Path, shared_cache: Cache
) -> None:
    write(project / "vendor/patches/0001-one-more.patch", PATCH)
    entry = make(project, shared_cache)
    assert call(entry / "native", "llama_answer") == 43
    assert info_of(entry)["patches"] == ["0001-one-more.patch"]


def test_a_portable_build_tells_what_it_needs(project: Path, tmp_path: Path) -> None:
    recipe = read_recipe(project, "-DGGML_NATIVE=OFF")
    if recipe.toolchain.machine not in ("x86_64", "AMD64"):
        pytest.skip("ggml's options are named for x86")
    info = info_of(make(project, Cache(tmp_path / "cache"), cmake_args="-DGGML_NATIVE=OFF"))
    assert info["native_cpu"] is False
    assert info["cpu_features"] == ["avx2"]


def test_a_tool_is_built_when_it_is_asked_for(project: Path, shared_cache: Cache) -> None:
    entry = make(project, shared_cache)
    tool = native.tool_path(entry, "llama-tiny")
    assert not tool.exists()
    assert make(project, shared_cache, "llama-tiny") == entry
    assert subprocess.run([tool], check=False).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="instruments reach what a DLL does not show")
class TestInstruments:
    """The test instruments: a module of their own, for those who ask."""

    def test_a_build_has_none_unless_they_are_asked_for(
        self, project: Path, shared_cache: Cache
    ) -> None:
        write(project / "vendor/bridge/treellama.cpp", BRIDGE.replace("2 *", "7 *"))
        entry, package = make(project, shared_cache), project / STAGED
        assert not (entry / "testing").exists()
        assert make(project, shared_cache, testing=True) == entry
        stage(entry, package)
        assert not list(package.glob("_native_testing*"))

    def test_they_share_the_libraries_and_reach_into_them(
        self, project: Path, shared_cache: Cache
    ) -> None:
        package = project / STAGED
        entry = make(project, shared_cache, testing=True)
        stage(entry, package)
        stage_testing(entry, package)
        assert call_instrument(package) == 42 + 84 + 42

    def test_staging_the_same_build_again_keeps_them_and_another_one_removes_them(
        self, project: Path, shared_cache: Cache
    ) -> None:
        package = project / STAGED
        entry = make(project, shared_cache, testing=True)
        stage(entry, package)
        stage_testing(entry, package)
        assert not stage(entry, package)
        assert list(package.glob("_native_testing.*"))
        write(project / "vendor/patches/0001-one-more.patch", PATCH)
        assert stage(make(project, shared_cache), package)
        assert not list(package.glob("_native_testing.*"))

    def test_damaged_ones_are_built_again(self, project: Path, shared_cache: Cache) -> None:
        entry = make(project, shared_cache, testing=True)
        module = next((entry / "testing").glob("_native_testing.*"))
        whole = module.read_bytes()
        module.write_bytes(whole[:-1])
        assert make(project, shared_cache, testing=True) == entry
        assert module.read_bytes() == whole

    def test_a_function_that_they_lack_is_named(self, project: Path, shared_cache: Cache) -> None:
        folder = project / "vendor/testing"
        write(folder / "treellama-testing.h", TESTING_H + "int treellama_absent(void);\n")
        write(
            project / "src/pytreellama/testing/declarations/20-absent.h",
            "int treellama_absent(void);",
        )
        with pytest.raises(BuildError, match="treellama_absent"):
            make(project, shared_cache, testing=True)


def test_an_unknown_tool_is_refused_with_those_that_exist(
    project: Path, shared_cache: Cache
) -> None:
    with pytest.raises(BuildError, match="no tool llama-huge") as caught:
        make(project, shared_cache, "llama-huge")
    assert "llama-tiny" in caught.value.advice


#
# what is built again, and what is not
#


def test_the_same_build_is_taken_from_the_cache(
    project: Path, shared_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make(project, shared_cache)
    monkeypatch.setattr(native, "Build", None)  # nothing may be built
    assert make(project, shared_cache) == entry


def test_a_change_of_the_bridge_compiles_the_bridge_alone(
    project: Path, shared_cache: Cache
) -> None:
    entry = make(project, shared_cache)
    write(project / "vendor/bridge/treellama.cpp", BRIDGE.replace("2 *", "3 *"))
    changed = make(project, shared_cache)
    assert changed != entry
    assert call(changed / "native", "treellama_twice") == 126
    assert n_compiled(work_of(project, shared_cache)) == 1


def test_kernels_join_the_cpu_backend_and_cache_code_joins_llama(
    project: Path, shared_cache: Cache
) -> None:
    lib = make(project, shared_cache) / "native/lib"
    for library, function in (("ggml-cpu", b"fast"), ("llama", b"trees")):
        (path,) = lib.glob(f"*{library}.*")
        assert function in path.read_bytes()


def test_a_header_of_a_kernel_is_followed(project: Path, shared_cache: Cache) -> None:
    shutil.rmtree(make(project, shared_cache))
    make(project, shared_cache)  # the work folder may hold another test's bridge
    write(project / "vendor/ggml-cpu/kernels/fast.h", "const int kernels = 2;\n")
    make(project, shared_cache)
    assert n_compiled(work_of(project, shared_cache)) == 1


def test_a_source_that_is_removed_leaves_the_build(project: Path, shared_cache: Cache) -> None:
    write(project / "vendor/llama/orders.cpp", "int orders() { return 1; }\n")
    make(project, shared_cache)
    (project / "vendor/llama/orders.cpp").unlink()
    (path,) = (make(project, shared_cache) / "native/lib").glob("*llama.*")
    assert b"orders" not in path.read_bytes()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_without_sources_is_named(project: Path, shared_cache: Cache, folder: str) -> None:
    shutil.rmtree(project / "vendor" / folder)
    with pytest.raises(BuildError, match=f"{folder} holds no C"):
        make(project, shared_cache)


@pytest.mark.parametrize("damage", ["change", "remove", "info"])
def test_a_damaged_entry_is_built_again(project: Path, shared_cache: Cache, damage: str) -> None:
    entry = make(project, shared_cache)
    library = next((entry / "native/lib").iterdir())
    if damage == "change":
        library.write_bytes(library.read_bytes()[:-1])
    elif damage == "remove":
        library.unlink()
    else:
        (entry / "native/build_info.json").write_text("{")
    assert make(project, shared_cache) == entry
    assert is_whole(entry / "native")
    assert call(entry / "native", "llama_answer") == 42


@pytest.mark.parametrize("name", ["CMakeCache.txt", "build.ninja"])
def test_a_damaged_build_folder_is_started_anew(
    project: Path, shared_cache: Cache, name: str
) -> None:
    entry = make(project, shared_cache)
    (work_of(project, shared_cache) / "build" / name).write_text("\0 half a fi")
    shutil.rmtree(entry)
    assert call(make(project, shared_cache) / "native", "llama_answer") == 42


def test_a_damaged_object_is_compiled_anew(project: Path, shared_cache: Cache) -> None:
    entry = make(project, shared_cache)
    build = work_of(project, shared_cache) / "build"
    for made in [*build.rglob("ggml.cpp.o*"), *build.glob("bin/libggml.*")]:
        made.write_bytes(b"half")
    shutil.rmtree(entry)
    assert call(make(project, shared_cache) / "native", "llama_answer") == 42


def test_all_that_matters_is_in_the_key(project: Path) -> None:
    def recipe(cmake_args: str = "") -> Recipe:
        return read_recipe(project, cmake_args)

    first = recipe()
    seen = {first.key}
    for path, text in {
        "vendor/patches/0001-one-more.patch": PATCH,
        "vendor/bridge/treellama.h": BRIDGE_H + "\n",
        "vendor/ggml-cpu/kernels/fast.h": "const int kernels = 3;\n",
        "vendor/llama/trees.cpp": "int trees() { return 1; }\n",
        "vendor/testing/instruments.cpp": TESTING + "\n",
        "src/pytreellama/testing/declarations/10-hidden.h": "int treellama_hidden(void); \n",
        f"{STAGED}/declarations/10-llama.h": "int llama_answer(void); \n",
        "vendor/CMakeLists.txt": "\n",
    }.items():
        write(project / path, text)
        assert recipe().work_id == first.work_id, f"{path} must not throw objects away"
        assert recipe().key not in seen, f"{path} must change the key"
        seen.add(recipe().key)
    write(project.parent / "llama.cpp/src/llama.cpp", "int other;\n")
    assert recipe().work_id != first.work_id
    assert recipe("-DGGML_CPU_REPACK=OFF").work_id != recipe().work_id


#
# what goes wrong
#


def test_a_bridge_that_does_not_compile_is_shown_by_its_own_path(
    project: Path, shared_cache: Cache
) -> None:
    write(project / "vendor/bridge/treellama.cpp", "int treellama_twice() { return nothing; }\n")
    with pytest.raises(BuildError, match="does not compile") as caught:
        make(project, shared_cache)
    assert f"{project}/vendor/bridge/treellama.cpp:1" in caught.value.what
    assert "nothing" in caught.value.what
    assert caught.value.log is not None
    assert "nothing" in caught.value.log.read_text()
    assert not (shared_cache.builds / read_recipe(project, "").key).exists()


def test_a_function_that_is_declared_but_not_there_is_named(
    project: Path, shared_cache: Cache
) -> None:
    header = BRIDGE_H.replace("treellama_twice", "treellama_absent")
    write(project / "vendor/bridge/treellama.h", BRIDGE_H + header.replace("#pragma once\n", ""))
    write(project / STAGED / "declarations/30-absent.h", "int treellama_absent(void);\n")
    with pytest.raises(BuildError, match="treellama_absent"):
        make(project, shared_cache)
    assert not (shared_cache.builds / read_recipe(project, "").key).exists()


def test_a_declaration_that_c_contradicts_does_not_compile(
    project: Path, shared_cache: Cache
) -> None:
    write(project / STAGED / "declarations/10-llama.h", "int llama_answer(double);\n")
    with pytest.raises(BuildError, match=r"does not compile(.|\n)*llama_answer"):
        make(project, shared_cache)


def test_a_declaration_that_cffi_cannot_read_is_named(project: Path, shared_cache: Cache) -> None:
    write(project / STAGED / "declarations/10-llama.h", "int llama_answer(;\n")
    with pytest.raises(BuildError, match=r"10-llama\.h"):
        make(project, shared_cache)


def test_a_patch_that_does_not_apply_stops_before_the_compiler(
    project: Path, tmp_path: Path
) -> None:
    write(project / "vendor/patches/0001-one-more.patch", PATCH.replace("-3 +3", "-2 +2"))
    with pytest.raises(BuildError, match=r"0001-one-more\.patch, file src/llama\.cpp, hunk 1"):
        make(project, Cache(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("build.log"))


def test_a_configuration_that_fails_shows_what_cmake_says(
    project: Path, shared_cache: Cache
) -> None:
    with pytest.raises(BuildError, match=r"cannot configure(.|\n)*CMake Error"):
        make(project, shared_cache, cmake_args="-DCMAKE_PROJECT_INCLUDE=/nowhere.cmake")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fatal error: error writing to /tmp/x.s: No space left on device", "no space left"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "out of memory"),
        ("virtual memory exhausted: Cannot allocate memory", "out of memory"),
    ],
)
def test_trouble_of_the_machine_is_not_blamed_on_the_source(line: str, reason: str) -> None:
    trouble = explain.machine_trouble(["[1/2] Building", line])
    assert trouble is not None
    assert reason in trouble[0]
    assert explain.machine_trouble(["x.cpp:1: error: expected ';'"]) is None


def test_an_interrupted_build_leaves_no_entry_and_goes_on_later(
    project: Path, shared_cache: Cache
) -> None:
    class Interrupted(Progress):
        def step(self, step: int, n_steps: int) -> None:
            raise KeyboardInterrupt

    write(project / "vendor/bridge/treellama.cpp", BRIDGE.replace("2 *", "5 *"))
    recipe = read_recipe(project, "")
    with pytest.raises(KeyboardInterrupt):
        ensure(recipe, shared_cache, Interrupted(io.StringIO()), 1)
    assert not (shared_cache.builds / recipe.key).exists()
    assert not list(shared_cache.root.glob("tmp-*"))
    assert call(make(project, shared_cache) / "native", "treellama_twice") == 210


#
# staging
#


def staged_files(package: Path) -> set[str]:
    files = (path for path in package.rglob("*") if path.is_file())
    names = {path.relative_to(package).as_posix() for path in files}
    return {name for name in names if not name.startswith("declarations/")}


def test_staging_copies_once_and_mends(project: Path, shared_cache: Cache) -> None:
    entry, package = make(project, shared_cache), project / STAGED
    assert stage(entry, package)
    assert staged_files(package) == staged_files(entry / "native")
    assert not stage(entry, package)
    next((package / "lib").iterdir()).write_bytes(b"damaged")
    assert stage(entry, package)
    assert is_whole(package)


def test_another_build_replaces_all_of_the_staged_one(project: Path, shared_cache: Cache) -> None:
    package = project / STAGED
    stage(make(project, shared_cache), package)
    write(package / "lib/libggml-cuda.so", "of an earlier build")
    write(project / "vendor/patches/0001-one-more.patch", PATCH)
    stage(make(project, shared_cache), package)
    assert not (package / "lib/libggml-cuda.so").exists()
    assert call(package, "llama_answer") == 43


@pytest.mark.parametrize("n_copied", [0, 1, 3])
def test_an_interrupted_staging_leaves_nothing_staged(
    project: Path, shared_cache: Cache, monkeypatch: pytest.MonkeyPatch, n_copied: int
) -> None:
    entry, package = make(project, shared_cache), project / STAGED
    copied: list[Path] = []

    def copy(source: Path, target: Path) -> None:
        if len(copied) == n_copied:
            raise KeyboardInterrupt
        copied.append(target)
        shutil.copy2(source, target)

    monkeypatch.setattr(staging, "copy_whole", copy)
    with pytest.raises(KeyboardInterrupt):
        stage(entry, package)
    assert staged_files(package) == set()


def test_unstaging_leaves_the_sources(project: Path, shared_cache: Cache) -> None:
    package = project / STAGED
    stage(make(project, shared_cache), package)
    unstage(package)
    unstage(package)
    assert staged_files(package) == set()
    assert (package / "declarations/10-llama.h").exists()


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ('  Target "ggml-cuda" links to: CUDA::cublas but the target was not found', "cublas"),
        ('  Target "ggml-cuda" links to: CUDA::cuda_driver', "GGML_CUDA_NO_VMM"),
        ("  Could NOT find Vulkan (missing: Vulkan_LIBRARY glslc)", "apt install glslc"),
        ('  Could not find a package configuration file provided by "SPIRV-Headers"', "spirv"),
    ],
)
def test_a_missing_package_is_told_with_how_to_get_it(line: str, advice: str) -> None:
    found = explain.missing_package(["CMake Error at CMakeLists.txt:1:", line])
    assert found is not None and advice in found
    assert explain.missing_package(["CMake Error: The source directory does not exist."]) is None


def test_progress_does_not_count_the_steps_of_a_build_inside(
    project: Path, shared_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vulkan's generator of shaders is built by a ninja of its own."""
    steps: list[tuple[int, int]] = []
    lines = [
        "[1/400] a",
        "[1/2] inner",
        "[2/2] inner",
        "[2/400] b",
        "[3/401] one more",
        "[4/401] c",
    ]
    with Progress() as progress:
        monkeypatch.setattr(progress, "step", lambda *numbers: steps.append(numbers))
        build = native.Build(read_recipe(project, ""), shared_cache, progress, 1)
        command = [sys.executable, "-c", f"print({chr(10).join(lines)!r})"]
        with (project / "log").open("w", encoding="utf-8") as log:
            build._run("compile", command, log)
    assert steps == [(1, 400), (2, 400), (3, 401), (4, 401)]
