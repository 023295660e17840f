"""What compiles, for which machine: compilers, toolkits, CMake, and the CPU's features."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError
from .processes import first_line

CUDA_HOME = "/usr/local/cuda"
BACKENDS = ("cpu", "cuda", "metal", "vulkan")

# what CMake is told for a backend asked for by name
BACKEND_FLAGS = {
    # on a Mac llama.cpp takes Metal by itself, and Accelerate, which sums in an order of its own
    "cpu": ("-DGGML_METAL=OFF", "-DGGML_BLAS=OFF") if sys.platform == "darwin" else (),
    "cuda": ("-DGGML_CUDA=ON",),
    "metal": ("-DGGML_METAL=ON",),
    "vulkan": ("-DGGML_VULKAN=ON",),
}

# variables that CMake heeds when it configures a folder for the first time
HEEDED = (
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "CUDAARCHS",
    "CUDAFLAGS",
    "CMAKE_BUILD_TYPE",
    "CMAKE_PREFIX_PATH",
    "CMAKE_TOOLCHAIN_FILE",
    "MACOSX_DEPLOYMENT_TARGET",
    "SDKROOT",
)

# flags of /proc/cpuinfo that a compiler turns into instructions (the rest is for kernels)
ISA_FLAG = re.compile(
    r"(sse|ssse|pni$|avx|fma|f16c|bmi|abm|lzcnt|popcnt|movbe|amx|aes|vaes|pclmul|vpclmul|sha|gfni"
    r"|adx|xop|tbm|cx16|lahf|asimd|neon|vfp|sve|sme(?!p)|i8mm|bf16|fphp|crc32|atomics|rv)"
)


@dataclass(frozen=True)
class Toolchain:
    """Everything about the machine that decides what comes out of the same source."""

    c_compiler: str
    cxx_compiler: str
    toolkit: str
    system: str
    machine: str
    cpu_features: tuple[str, ...]  # empty unless the build is for this very CPU
    native_cpu: bool
    environment: tuple[str, ...]
    backends: tuple[str, ...]
    module_suffix: str


def split_cmake_args(text: str) -> list[str]:
    """CMAKE_ARGS as a list, quoted the way the shell of the platform quotes."""
    try:
        return shlex.split(text, posix=sys.platform != "win32")
    except ValueError as error:
        raise BuildError(f"cannot read CMAKE_ARGS: {error}: {text}", "close its quotes") from None


def definitions(cmake_args: Sequence[str]) -> dict[str, str]:
    """The -DNAME=VALUE among CMake arguments; the last one wins."""
    matches = (re.fullmatch(r"-D\s*(\w+)(?::\w+)?=(.*)", arg) for arg in _joined(cmake_args))
    return {match[1]: match[2] for match in matches if match}


def _joined(cmake_args: Sequence[str]) -> list[str]:
    """Glue `-D NAME=VALUE` together."""
    joined: list[str] = []
    for arg in cmake_args:
        if joined and joined[-1] == "-D":
            joined[-1] += arg
        else:
            joined.append(arg)
    return joined


def is_on(value: str | None, default: bool = False) -> bool:
    """CMake's idea of true."""
    if value is None:
        return default
    return value.upper() in ("1", "ON", "YES", "TRUE", "Y")


def find_toolchain(cmake_args: Sequence[str]) -> Toolchain:
    defined = definitions(cmake_args)
    backends = _backends(defined)
    native_cpu = is_on(defined.get("GGML_NATIVE"), default=True)
    return Toolchain(
        c_compiler=_compiler("C", "CC", defined, ("cc", "gcc", "clang", "cl")),
        cxx_compiler=_compiler("C++", "CXX", defined, ("c++", "g++", "clang++", "cl")),
        toolkit=_cuda_toolkit(defined) if "cuda" in backends else "",
        system=platform.system(),
        machine=platform.machine(),
        cpu_features=cpu_features() if native_cpu else (),
        native_cpu=native_cpu,
        environment=tuple(f"{name}={os.environ[name]}" for name in HEEDED if name in os.environ),
        backends=backends,
        module_suffix=module_suffix(),
    )


def _backends(defined: dict[str, str]) -> tuple[str, ...]:
    apple = sys.platform == "darwin"
    choices = {
        "cuda": is_on(defined.get("GGML_CUDA")),
        "metal": is_on(defined.get("GGML_METAL"), default=apple),
        "vulkan": is_on(defined.get("GGML_VULKAN")),
        "hip": is_on(defined.get("GGML_HIP")),
        "sycl": is_on(defined.get("GGML_SYCL")),
    }
    return ("cpu", *(name for name, chosen in choices.items() if chosen))


def _compiler(language: str, variable: str, defined: dict[str, str], names: tuple[str, ...]) -> str:
    """Name and version of the compiler that CMake will take."""
    asked = defined.get("CMAKE_CXX_COMPILER" if language == "C++" else "CMAKE_C_COMPILER")
    command = [asked] if asked else shlex.split(os.environ.get(variable, ""))
    if not command:
        found = next((path for name in names if (path := shutil.which(name))), None)
        if found is None and sys.platform == "win32":
            return "the compiler of Visual Studio, found by CMake"
        command = [found] if found else []
    if not command or shutil.which(command[0]) is None:
        asked_for = f" ({command[0]} was asked for)" if command else ""
        raise BuildError(f"no {language} compiler was found{asked_for}", _compiler_advice())
    if Path(command[0]).stem.lower() == "cl":
        return first_line(command) or "cl"
    version = first_line([*command, "--version"])
    if version is None:
        raise BuildError(f"the {language} compiler {command[0]} does not run", _compiler_advice())
    return f"{' '.join(command)}: {version}"


def _compiler_advice() -> str:
    if sys.platform == "darwin":
        return "install Apple's command line tools: xcode-select --install"
    if sys.platform == "win32":
        return "install the Build Tools for Visual Studio with 'Desktop development with C++'"
    return (
        "install a C and C++ compiler (Debian, Ubuntu: sudo apt install build-essential; "
        "Fedora: sudo dnf install gcc-c++), or name one in CC and CXX"
    )


def find_nvcc(defined: Mapping[str, str]) -> str | None:
    """CUDA's compiler: the one that was chosen, or the system's."""
    candidates = [
        defined.get("CMAKE_CUDA_COMPILER"),
        os.environ.get("CUDACXX"),
        shutil.which("nvcc"),
        *(
            str(Path(root) / "bin" / ("nvcc.exe" if sys.platform == "win32" else "nvcc"))
            for root in (os.environ.get("CUDA_PATH"), CUDA_HOME)
            if root
        ),
    ]
    return next((found for path in candidates if path and (found := shutil.which(path))), None)


def _cuda_toolkit(defined: Mapping[str, str]) -> str:
    """Version of nvcc, and of the GPUs that it will compile for."""
    nvcc = find_nvcc(defined)
    if nvcc is None:
        raise BuildError(
            "the CUDA backend was asked for, but nvcc was not found",
            "let build.py install it (python3 build.py build --backend cuda), install the CUDA "
            "toolkit, or name its compiler in CUDACXX; without it, build for the CPU",
        )
    release = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"V[\d.]+", release.stdout)
    gpus = first_line(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    return f"{nvcc} {version.group() if version else '?'} for {gpus or 'no GPU present'}"


def module_suffix() -> str:
    """Suffix of an extension module for the limited API, where this Python offers it."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return str(sysconfig.get_config_var("EXT_SUFFIX"))
    return ".pyd" if sys.platform == "win32" else ".abi3.so"


def python_include() -> Path:
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"Python's own header is missing: {include / 'Python.h'}",
            f"install it (Debian, Ubuntu: sudo apt install python{version}-dev; "
            "Fedora: sudo dnf install python3-devel)",
        )
    return include


def python_library() -> Path | None:
    """The import library of the limited API, which only Windows needs."""
    return Path(sys.base_prefix) / "libs/python3.lib" if sys.platform == "win32" else None


def cpu_features() -> tuple[str, ...]:
    """Instruction sets of this machine's CPU, sorted; what a native build may contain."""
    if sys.platform == "linux":
        return _linux_cpu_features(Path("/proc/cpuinfo"))
    if sys.platform == "darwin":
        lines = subprocess.run(
            ["sysctl", "machdep.cpu.brand_string", "hw.optional"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.splitlines()
        return tuple(sorted(line for line in lines if not line.endswith(": 0")))
    return (os.environ.get("PROCESSOR_IDENTIFIER") or platform.processor(),)


def _linux_cpu_features(cpuinfo: Path) -> tuple[str, ...]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (platform.processor(),)
    match = re.search(r"^(?:flags|Features|isa)\s*:\s*(.*)$", text, re.MULTILINE)
    flags = match[1].split() if match else [platform.processor()]
    return tuple(sorted(flag for flag in flags if ISA_FLAG.match(flag)))


def find_cmake() -> str:
    """CMake: the one that pip installed as a build requirement, else the system's."""
    try:
        import cmake
    except ImportError:
        return _system_program("cmake", "CMake (3.18 or newer)")
    return str(Path(cmake.CMAKE_BIN_DIR) / ("cmake.exe" if sys.platform == "win32" else "cmake"))


def find_ninja() -> str:
    try:
        import ninja
    except ImportError:
        return _system_program("ninja", "Ninja")
    program = Path(ninja.BIN_DIR) / ("ninja.exe" if sys.platform == "win32" else "ninja")
    return str(program) if program.is_file() else _system_program("ninja", "Ninja")


def _system_program(name: str, title: str) -> str:
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=scripts) or shutil.which(name)
    if found is None:
        raise BuildError(
            f"{title} was not found",
            f"run build.py by hand, which installs it into .venv, or: pip install {name}",
        )
    return found
