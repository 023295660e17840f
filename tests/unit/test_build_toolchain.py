"""Compilers, toolkits and the CPU: found, told apart, and missed with advice."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from buildlib import toolchain
from buildlib.errors import BuildError

CPUINFO = """\
processor\t: 0
flags\t\t: fpu vme sse2 smep avx2 sha_ni hypervisor avx512f amx_int8 f16c

processor\t: 1
flags\t\t: fpu
"""


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose PATH is one empty folder."""
    for name in ("CC", "CXX", "CUDACXX", "CUDA_PATH", *toolchain.HEEDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def make_program(path: Path, output: str, status: int = 0) -> Path:
    path.write_text(f"#!{sys.executable}\nprint({output!r})\nraise SystemExit({status})\n")
    path.chmod(0o755)
    return path


posix = pytest.mark.skipif(sys.platform == "win32", reason="programs are made with a #! line")


@posix
def test_without_a_compiler_the_packages_to_install_are_told(bare_machine: Path) -> None:
    with pytest.raises(BuildError, match="no C compiler was found") as caught:
        toolchain.find_toolchain([])
    assert "install" in caught.value.advice
    make_program(bare_machine / "cc", "cc 1.0")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found"):
        toolchain.find_toolchain([])


@posix
def test_a_compiler_asked_for_but_missing_is_named(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nowhere/gcc-99")
    with pytest.raises(BuildError, match=r"/nowhere/gcc-99 was asked for"):
        toolchain.find_toolchain([])


@posix
def test_a_compiler_that_does_not_run_is_told(bare_machine: Path) -> None:
    make_program(bare_machine / "cc", "broken", status=1)
    with pytest.raises(BuildError, match="does not run"):
        toolchain.find_toolchain([])


@posix
def test_cmake_args_choose_the_compiler(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    ours = make_program(bare_machine / "my-cc", "mine 7.1")
    args = [f"-DCMAKE_C_COMPILER={ours}", f"-DCMAKE_CXX_COMPILER:FILEPATH={ours}"]
    assert toolchain.find_toolchain(args).cxx_compiler == f"{ours}: mine 7.1"


@posix
def test_cuda_without_nvcc_is_told(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cc", "c++"):
        make_program(bare_machine / name, name)
    monkeypatch.setattr(toolchain, "CUDA_HOME", str(bare_machine / "no-cuda"))
    with pytest.raises(BuildError, match="nvcc was not found"):
        toolchain.find_toolchain(["-DGGML_CUDA=ON"])


@posix
def test_the_toolkit_and_its_gpus_are_part_of_the_toolchain(bare_machine: Path) -> None:
    for name in ("cc", "c++"):
        make_program(bare_machine / name, name)
    nvcc = make_program(bare_machine / "nvcc", "Cuda compilation tools, release 13.0, V13.0.88")
    without = toolchain.find_toolchain(["-DGGML_CUDA=1"])
    make_program(bare_machine / "nvidia-smi", "9.0")
    with_gpu = toolchain.find_toolchain(["-DGGML_CUDA=1"])
    assert without.toolkit == f"{nvcc} V13.0.88 for no GPU present"
    assert with_gpu.toolkit == f"{nvcc} V13.0.88 for 9.0"
    assert with_gpu.backends == ("cpu", "cuda")


@posix
def test_flags_of_the_environment_are_part_of_the_toolchain(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cc", "c++"):
        make_program(bare_machine / name, name)
    plain = toolchain.find_toolchain([])
    monkeypatch.setenv("CXXFLAGS", "-O1")
    assert toolchain.find_toolchain([]) != plain


def test_cmake_args_are_split_as_a_shell_would() -> None:
    args = toolchain.split_cmake_args("-DA=1 '-DB=x y' -D C:BOOL=ON -DA=2")
    assert toolchain.definitions(args) == {"A": "2", "B": "x y", "C": "ON"}


@pytest.mark.skipif(sys.platform == "win32", reason="quoting differs")
def test_cmake_args_with_an_open_quote_are_refused() -> None:
    with pytest.raises(BuildError, match="cannot read CMAKE_ARGS"):
        toolchain.split_cmake_args("'-DA=1")


def test_only_features_that_compilers_use_are_kept(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    features = toolchain._linux_cpu_features(tmp_path / "cpuinfo")
    assert features == ("amx_int8", "avx2", "avx512f", "f16c", "sha_ni", "sse2")


@posix
def test_a_portable_build_does_not_depend_on_this_cpu(bare_machine: Path) -> None:
    for name in ("cc", "c++"):
        make_program(bare_machine / name, name)
    assert toolchain.find_toolchain(["-DGGML_NATIVE=OFF"]).cpu_features == ()
    assert toolchain.find_toolchain([]).cpu_features == toolchain.cpu_features()


def test_a_missing_python_header_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(BuildError, match=r"Python\.h") as caught:
        toolchain.python_include()
    assert "-dev" in caught.value.advice


def test_missing_cmake_is_told(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmake", None)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(bare_machine))
    with pytest.raises(BuildError, match=r"CMake.*was not found"):
        toolchain.find_cmake()
