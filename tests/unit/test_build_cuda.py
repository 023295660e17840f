"""CUDA's toolkit: a system's or that of wheels, found, completed, and missed with advice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from buildlib import cuda, toolchain
from buildlib.errors import BuildError
from buildlib.recipe import read_recipe

ROOT = Path(__file__).parents[2]
ON = {"GGML_CUDA": "ON"}
EVERY = "-DCMAKE_CUDA_ARCHITECTURES=75-virtual;80-real;86-real;89-real;90-real;120a-real"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA's wheels are for Linux")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty PATH, and neither toolkit nor wheels."""
    for name in ("CUDACXX", "CUDA_PATH", "CUDAARCHS"):
        monkeypatch.delenv(name, raising=False)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.setattr(toolchain, "CUDA_HOME", str(tmp_path / "no-cuda"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    return tmp_path


def make_nvcc(path: Path, release: str = "13.0", here: Path | None = None) -> Path:
    """A program that says what nvcc says: its release, or with --dryrun its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = f"Cuda compilation tools, release {release}\n#$ _HERE_={here or path.parent}\n"
    path.write_text(f"#!{sys.executable}\nprint({said!r})\n")
    path.chmod(0o755)
    return path


def make_system_toolkit(machine: Path, release: str = "13.0", *, cublas: bool = True) -> Path:
    """A toolkit whose nvcc is called by a script on the PATH."""
    root = machine / "cuda"
    make_nvcc(machine / "bin/nvcc", release, here=root / "bin")
    (root / "include").mkdir(parents=True)
    (root / "lib64").mkdir()
    if cublas:
        (root / "include/cublas_v2.h").touch()
    return root


def make_wheels(machine: Path) -> Path:
    root = machine / "site-packages/nvidia/cu13"
    make_nvcc(root / "bin/nvcc")
    for name in ("include/cublas_v2.h", "nvvm/bin/cicc", "lib/libcublas.so.13", "lib/libcudart.a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def make_gpu(machine: Path) -> None:
    program = machine / "bin/nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('9.0')\n")
    program.chmod(0o755)


def test_a_build_for_the_cpu_asks_for_nothing(machine: Path) -> None:
    assert not cuda.needs_wheels({})
    assert cuda.cmake_args({"GGML_CUDA": "OFF"}, machine) == []


def test_wheels_are_needed_where_no_toolkit_is_whole(machine: Path) -> None:
    assert cuda.needs_wheels(ON)
    root = make_system_toolkit(machine, cublas=False)
    assert cuda.needs_wheels(ON)
    (root / "include/cublas_v2.h").touch()
    assert not cuda.needs_wheels(ON)


def test_wheels_are_not_needed_twice_or_beside_a_choice(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not cuda.needs_wheels(ON | {"CMAKE_CUDA_COMPILER": "/opt/nvcc"})
    monkeypatch.setenv("CUDACXX", "/opt/nvcc")
    assert not cuda.needs_wheels(ON)
    monkeypatch.delenv("CUDACXX")
    make_wheels(machine)
    assert not cuda.needs_wheels(ON)


def test_a_view_of_the_wheels_has_the_names_that_nvcc_and_linkers_look_for(machine: Path) -> None:
    wheels = make_wheels(machine)
    view = cuda.make_view(wheels, machine / "views")
    assert (view / "bin").is_dir() and not (view / "bin").is_symlink()
    assert (view / "bin/nvcc").resolve() == wheels / "bin/nvcc"
    assert (view / "nvvm/bin/cicc").exists() and (view / "include/cublas_v2.h").exists()
    assert (view / "lib64/libcublas.so").resolve() == wheels / "lib/libcublas.so.13"
    assert (view / "lib64/libcudart.a").exists()
    assert cuda.make_view(wheels, machine / "views") == view
    (wheels / "lib/libcublasLt.so.13").touch()
    more = cuda.make_view(wheels, machine / "views")
    assert more != view and (more / "lib64/libcublasLt.so").exists()


def test_wheels_compile_by_their_view_and_run_where_they_are(machine: Path) -> None:
    wheels = make_wheels(machine)
    make_system_toolkit(machine, cublas=False)  # as where only the compiler is installed
    args = cuda.cmake_args(ON, machine / "views")
    view = next((machine / "views").iterdir())
    assert args == [
        f"-DCMAKE_CUDA_COMPILER={view}/bin/nvcc",
        f"-DCUDAToolkit_ROOT={view}",
        f"-DTREELLAMA_TOOLKIT_LIB={wheels}/lib",
        "-DGGML_CUDA_NO_VMM=ON",
        EVERY,
    ]


def test_a_systems_toolkit_comes_before_wheels(machine: Path) -> None:
    make_wheels(machine)
    root = make_system_toolkit(machine)
    said = [f"-DTREELLAMA_TOOLKIT_LIB={root}/lib64", "-DGGML_CUDA_NO_VMM=ON", EVERY]
    assert cuda.cmake_args(ON, machine) == said
    (root / "lib64/stubs").mkdir()
    (root / "lib64/stubs/libcuda.so").touch()
    assert "-DGGML_CUDA_NO_VMM=ON" not in cuda.cmake_args(ON, machine)


def test_a_compiler_without_cublas_is_told(machine: Path) -> None:
    make_system_toolkit(machine, cublas=False)
    with pytest.raises(BuildError, match=r"bin/nvcc was found, but no cuBLAS") as caught:
        cuda.cmake_args(ON, machine)
    assert "cuda-build" in caught.value.advice


def test_a_users_own_toolkit_is_left_alone(machine: Path) -> None:
    make_system_toolkit(machine, cublas=False)
    for name in ("CUDAToolkit_ROOT", "CUDA_cublas_LIBRARY"):
        assert cuda.cmake_args(ON | {name: "/opt"}, machine) == [EVERY]


@pytest.mark.parametrize(
    ("release", "newest", "n_kinds"), [("11.4", "86-real", 3), ("12.4", "90-real", 5)]
)
def test_older_compilers_are_asked_for_what_they_know(
    machine: Path, release: str, newest: str, n_kinds: int
) -> None:
    make_system_toolkit(machine, release)
    kinds = cuda.cmake_args(ON, machine)[-1].partition("=")[2].split(";")
    assert kinds[-1] == newest and len(kinds) == n_kinds


def test_a_gpu_that_is_present_is_compiled_for_alone(machine: Path) -> None:
    make_system_toolkit(machine)
    make_gpu(machine)
    assert cuda.cmake_args(ON, machine)[-1] == "-DCMAKE_CUDA_ARCHITECTURES=native"


def test_the_users_architectures_win(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_system_toolkit(machine)
    for args in (cuda.cmake_args(ON | {"CMAKE_CUDA_ARCHITECTURES": "90"}, machine),):
        assert not any("ARCHITECTURES" in arg for arg in args)
    monkeypatch.setenv("CUDAARCHS", "90")
    assert not any("ARCHITECTURES" in arg for arg in cuda.cmake_args(ON, machine))


def test_what_cuda_needs_is_part_of_the_recipe_before_the_users_words(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTREELLAMA_CACHE", str(machine / "cache"))
    for name in ("cc", "c++"):
        make_nvcc(machine / "bin" / name)
    make_system_toolkit(machine)
    usual = read_recipe(ROOT, "-DGGML_CUDA=ON")
    own = read_recipe(ROOT, "-DGGML_CUDA=ON -DGGML_CUDA_NO_VMM=OFF")
    assert EVERY in usual.cmake_args
    assert own.cmake_args[-1] == "-DGGML_CUDA_NO_VMM=OFF"
    assert usual.work_id != own.work_id
