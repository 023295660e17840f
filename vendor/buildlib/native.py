"""The native library: from a recipe to finished artifacts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from . import toolchain as tools_of
from .cache import Cache, mark_used, sha256_file
from .errors import BuildError
from .explain import machine_trouble, missing_package, telling_lines
from .modules import NATIVE, TESTING, Module, emit_c
from .processes import run_logged
from .progress import Progress, format_elapsed
from .recipe import FORMAT, OURS, Recipe
from .sources import mirror, obtain, synchronise, write_if_changed
from .staging import BUILD_INFO, copy_whole, is_whole

# measured: pip takes 370 MB for a moment (the archive twice, once unpacked), then source twice,
# objects and libraries 160; a GPU's kernels are many and large
SPACE_MB = 600
SPACE_GPU_MB = 4000
COMPILER_MEMORY = 1 << 30  # what one compilation of a large file may take
COMPILER_MEMORY_CUDA = 2 << 30  # of CUDA's attention and products

_MODULES = {NATIVE.name, TESTING.name}

# ggml's options for x86 (all but the last few are on by default where GGML_NATIVE is off)
X86_OPTIONS = {
    "SSE42": "sse4_2",
    "AVX": "avx",
    "AVX2": "avx2",
    "BMI2": "bmi2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_TILE": "amx_tile",
    "AMX_INT8": "amx_int8",
    "AMX_BF16": "amx_bf16",
}


def ensure(
    recipe: Recipe,
    cache: Cache,
    progress: Progress,
    n_jobs: int | None = None,
    tools: Sequence[str] = (),
    *,
    testing: bool = False,
) -> Path:
    """The finished build of `recipe`, made if it is not cached whole; its cache entry.

    `tools` are targets of llama.cpp that end up in the entry's `bin` folder as well; with
    `testing`, the test instruments end up in its `testing` folder.
    """
    cache.make()
    entry = cache.builds / recipe.key
    if not _is_finished(entry, tools, testing):
        with cache.locked(progress):
            if not _is_finished(entry, tools, testing):
                is_cuda = "cuda" in recipe.toolchain.backends
                memory = COMPILER_MEMORY_CUDA if is_cuda else COMPILER_MEMORY
                build = Build(recipe, cache, progress, n_jobs or default_jobs(memory))
                build.make(entry, tools, testing)
            mark_used(entry)
            cache.prune()
    mark_used(entry)
    return entry


def _is_finished(entry: Path, tools: Sequence[str], testing: bool) -> bool:
    folders = ["native", *(["testing"] if testing else [])]
    has_tools = all(tool_path(entry, tool).is_file() for tool in tools)
    return has_tools and all(is_whole(entry / folder) for folder in folders)


def tool_path(entry: Path, tool: str) -> Path:
    return entry / "bin" / (tool + (".exe" if sys.platform == "win32" else ""))


def default_jobs(bytes_each: int = COMPILER_MEMORY) -> int:
    """As many compilers as there are processors, if the memory carries them."""
    affinity = getattr(os, "sched_getaffinity", None)
    n_cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return n_cpus
    return max(1, min(n_cpus, memory // bytes_each))


class _StepError(Exception):
    """A step of CMake or Ninja failed; `lines` is what it printed."""

    def __init__(self, step: str, lines: list[str]) -> None:
        super().__init__(step)
        self.step = step
        self.lines = lines

    @property
    def may_be_damage(self) -> bool:
        """Whether a damaged build folder can be the cause, so that starting anew may help."""
        compilation = any(re.search(r"^FAILED: .*\.(o|obj)\b", line) for line in self.lines)
        return not compilation and machine_trouble(self.lines) is None


class Build:
    """One build in its work folder, where an interrupted or earlier one is continued."""

    def __init__(self, recipe: Recipe, cache: Cache, progress: Progress, n_jobs: int) -> None:
        self.recipe = recipe
        self.cache = cache
        self.progress = progress
        self.n_jobs = n_jobs
        self.work = cache.work / recipe.work_id
        self.folder = self.work / "build"
        self.log = self.work / "build.log"

    def make(self, entry: Path, tools: Sequence[str], testing: bool) -> None:
        started_s = time.monotonic()
        gpu = len(self.recipe.toolchain.backends) > 1
        self.cache.require_free(SPACE_GPU_MB if gpu else SPACE_MB)
        include = tools_of.python_include()
        modules = [NATIVE, *([TESTING] if testing else [])]
        self._prepare_source(modules)
        self._compile_resuming(include, [*(module.name for module in modules), *tools])
        if not is_whole(entry / "native"):
            self._finish(entry)
        if testing:
            self._finish_testing(entry)
        self._finish_tools(entry, tools)
        elapsed = format_elapsed(time.monotonic() - started_s)
        names = "+".join(self.recipe.toolchain.backends)
        self.progress.say(f"built the native library for {names} in {elapsed}")

    def _prepare_source(self, modules: Iterable[Module]) -> None:
        recipe = self.recipe
        pristine = obtain(recipe.source, recipe.pin, self.cache, self.progress)
        self.progress.phase("patching llama.cpp")
        self.work.mkdir(exist_ok=True)
        mark_used(self.work)
        synchronise(pristine, recipe.patches, self.work / "llama.cpp", recipe.pin.unpack)
        lists = (recipe.root / "vendor/CMakeLists.txt").read_bytes()
        if write_if_changed(self.work / "CMakeLists.txt", lists):
            self._forget("configure")  # CMake would keep the options that it had from the old one
        self._copy_ours()
        with self.cache.temporary() as folder:
            for module in modules:
                written = emit_c(module, recipe.root, folder / f"{module.name}.c")
                write_if_changed(self.work / written.name, written.read_bytes())

    def _copy_ours(self) -> None:
        vendor = self.recipe.root / "vendor"
        paths = {path.relative_to(vendor).as_posix(): path for path in self.recipe.ours}
        for name in OURS:
            if not any(path.startswith(f"{name}/") and path.endswith(".cpp") for path in paths):
                raise BuildError(f"{vendor / name} holds no C++ source", "get a complete checkout")
        mirror(self.work, OURS, paths)

    #
    # CMake
    #

    def _compile_resuming(self, include: Path, targets: Sequence[str]) -> None:
        """Compile; if an earlier, damaged folder stands in the way, start it anew, once."""
        resumed = (self.folder / "CMakeCache.txt").exists()
        try:
            try:
                self._configure_and_compile(include, targets)
            except _StepError as failure:
                if not resumed or not failure.may_be_damage:
                    raise
                self.progress.say("the earlier build cannot be continued: starting it anew")
                self._forget(failure.step)
                self._configure_and_compile(include, targets)
        except _StepError as failure:
            raise self._explain(failure) from None

    def _forget(self, step: str) -> None:
        if step == "configure":  # objects are good; only CMake's memory is doubtful
            (self.folder / "CMakeCache.txt").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "CMakeFiles", ignore_errors=True)
        else:
            shutil.rmtree(self.folder)

    def _configure_and_compile(self, include: Path, targets: Sequence[str]) -> None:
        cmake = tools_of.find_cmake()
        with self.log.open("w", encoding="utf-8") as log:
            self.progress.phase("configuring llama.cpp")
            self._run("configure", [cmake, *self._configure_args(include, targets)], log)
            self._require_targets(targets)
            self.progress.phase("compiling llama.cpp")
            command = [cmake, "--build", str(self.folder), "--config", "Release"]
            command += ["--parallel", str(self.n_jobs), "--target", *targets]
            self._run("compile", command, log)

    def _run(self, step: str, command: Sequence[str], log: TextIO) -> None:
        lines: list[str] = []
        n_steps = 0

        def on_line(line: str) -> None:
            nonlocal n_steps
            lines.append(line)
            if match := re.match(r"\[(\d+)/(\d+)\]", line):
                n_steps = max(n_steps, int(match[2]))
                # Vulkan's generator of shaders is built by a ninja inside, which has fewer steps
                if int(match[2]) == n_steps:
                    self.progress.step(int(match[1]), n_steps)

        # a repository above the cache is not llama.cpp's: git must not speak for it
        env = {
            **os.environ,
            "NINJA_STATUS": "[%f/%t] ",
            "GIT_CEILING_DIRECTORIES": str(self.work.parent),
        }
        if run_logged(command, log, on_line=on_line, env=env) != 0:
            raise _StepError(step, lines)

    def _configure_args(self, include: Path, targets: Sequence[str]) -> list[str]:
        recipe = self.recipe
        args = ["-S", str(self.work), "-B", str(self.folder)]
        if sys.platform != "win32" or shutil.which("cl"):
            args += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools_of.find_ninja()}"]
        values: dict[str, object] = {
            "TREELLAMA_LLAMA_CPP": self.work / "llama.cpp",
            "TREELLAMA_OURS": self.work,
            "TREELLAMA_CFFI_C": self.work / f"{NATIVE.name}.c",
            "TREELLAMA_TESTING_C": (
                self.work / f"{TESTING.name}.c" if TESTING.name in targets else ""
            ),
            "TREELLAMA_MODULE_SUFFIX": recipe.toolchain.module_suffix,
            "TREELLAMA_PYTHON_INCLUDE": include,
            "TREELLAMA_PYTHON_LIBRARY": tools_of.python_library() or "",
            "TREELLAMA_TOOLS": "OFF" if {*targets} <= _MODULES else "ON",
            "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
            "LLAMA_BUILD_NUMBER": 0,
            "LLAMA_BUILD_COMMIT": recipe.pin.commit,
        }
        args += [f"-D{name}={_with_slashes(value)}" for name, value in values.items()]
        return [*args, *recipe.cmake_args]

    def _explain(self, failure: _StepError) -> BuildError:
        lines = [line.rstrip() for line in failure.lines]
        if trouble := machine_trouble(lines):
            return BuildError(*trouble, log=self.log)
        text = "\n".join("  " + line for line in telling_lines(lines))
        for name in OURS:  # what is to be mended is in the checkout
            text = text.replace(f"{self.work / name}/", f"{self.recipe.root / 'vendor' / name}/")
        what = (
            "CMake cannot configure the build"
            if failure.step == "configure"
            else ("llama.cpp does not compile")
        )
        missing = missing_package(lines) if failure.step == "configure" else None
        return BuildError(
            f"{what}:\n{text}",
            missing
            or "check that compiler and toolkit are complete and that CMAKE_ARGS fits; "
            "build.py clean --cache forgets all earlier builds",
            self.log,
        )

    def _require_targets(self, targets: Sequence[str]) -> None:
        """Check the names before anything is compiled; only Ninja's file tells them beforehand."""
        ninja = self.folder / "build.ninja"
        if not ninja.exists():
            return
        text = ninja.read_text(encoding="utf-8", errors="replace")
        names = re.findall(r"^build ([\w-]+): phony bin/\1(?:\.exe)?$", text, re.MULTILINE)
        for target in targets:
            if target not in {*names, *_MODULES}:
                raise BuildError(
                    f"llama.cpp has no tool {target}", f"choose among {', '.join(sorted(names))}"
                )

    #
    # artifacts
    #

    def _finish(self, entry: Path) -> None:
        """Copy the artifacts to a folder beside, check that they load, rename it to `entry`."""
        with self.cache.temporary() as folder:
            made = folder / "entry"
            native = made / "native"
            (native / "lib").mkdir(parents=True)
            for kind, path in self._artifacts():
                if kind != TESTING.name:
                    shutil.copy2(path, native if kind == NATIVE.name else native / "lib")
            self._check_loads(NATIVE, native)
            (native / BUILD_INFO).write_text(
                json.dumps(self._build_info(native), indent=2) + "\n", encoding="utf-8"
            )
            shutil.copy2(self.log, made)
            shutil.rmtree(entry, ignore_errors=True)
            made.rename(entry)

    def _finish_testing(self, entry: Path) -> None:
        """Copy the module of test instruments into the entry; it shares the libraries there."""
        with self.cache.temporary() as folder:
            made = folder / "testing"
            made.mkdir()
            for kind, path in self._artifacts():
                if kind == TESTING.name:
                    shutil.copy2(path, made)
            # it finds the libraries beside itself, where it will be staged
            together = folder / "together"
            shutil.copytree(entry / "native", together)
            shutil.copytree(made, together, dirs_exist_ok=True)
            self._check_loads(TESTING, together)
            files = {path.name: sha256_file(path) for path in made.iterdir()}
            (made / BUILD_INFO).write_text(json.dumps({"files": files}), encoding="utf-8")
            shutil.rmtree(entry / "testing", ignore_errors=True)
            made.rename(entry / "testing")

    def _artifacts(self) -> list[tuple[str, Path]]:
        lists = sorted(self.folder.glob("artifacts-*.txt"), key=lambda p: "Release" not in p.name)
        if not lists:
            raise BuildError("CMake wrote no list of artifacts", log=self.log)
        pairs = (line.split(" ", 1) for line in lists[0].read_text(encoding="utf-8").splitlines())
        return [(kind, Path(path)) for kind, path in pairs]

    def _check_loads(self, module: Module, folder: Path) -> None:
        """A function that is declared but not there shows only when the library is loaded."""
        code = (
            "import importlib.util, os, sys\n"
            "if os.name == 'nt': os.add_dll_directory(sys.argv[1])\n"
            "for name, path in zip(sys.argv[2::2], sys.argv[3::2]):\n"
            "    spec = importlib.util.spec_from_file_location(name, path)\n"
            "    sys.modules[name] = importlib.util.module_from_spec(spec)\n"
        )
        command = [sys.executable, "-c", code, str(folder / "lib")]
        for each in [module.base, module] if module.base else [module]:
            command += [each.qualified_name, str(next(folder.glob(f"{each.name}.*")))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        missing = re.search(r".*(undefined symbol|symbol not found).*", result.stderr, re.I)
        if missing:
            raise BuildError(
                f"the native library was built but lacks a function: {missing.group()}",
                f"what {module.declarations} declare, llama.cpp or the bridge must define",
                self.log,
            )

    def _build_info(self, native: Path) -> dict[str, object]:
        recipe = self.recipe
        names = sorted(p.relative_to(native).as_posix() for p in native.rglob("*") if p.is_file())
        return {
            "format": FORMAT,
            "key": recipe.key,
            "distribution": recipe.pin.distribution,
            "version": recipe.pin.version,
            "sha256": recipe.pin.sha256,
            "commit": recipe.pin.commit,
            "source": recipe.source.description,
            "patches": [path.name for path in recipe.patches],
            "cmake_args": list(recipe.cmake_args),
            **asdict(recipe.toolchain),
            "cpu_features": self._cpu_features(),
            "files": {name: sha256_file(native / name) for name in names},
        }

    def _cpu_features(self) -> list[str]:
        """Instruction sets without which the library dies, in the words of /proc/cpuinfo."""
        toolchain = self.recipe.toolchain
        if toolchain.native_cpu or toolchain.machine not in ("x86_64", "AMD64"):
            return list(toolchain.cpu_features)
        cache = (self.folder / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
        chosen = dict(re.findall(r"^GGML_(\w+):BOOL=(\w+)$", cache, re.MULTILINE))
        return [flag for name, flag in X86_OPTIONS.items() if tools_of.is_on(chosen.get(name))]

    def _finish_tools(self, entry: Path, tools: Iterable[str]) -> None:
        """Copy tools beside the libraries that they were linked to."""
        built = self.folder / "bin"
        if (built / "Release").is_dir():
            built = built / "Release"
        for tool in tools:
            target = tool_path(entry, tool)
            target.parent.mkdir(exist_ok=True)
            for library in [*built.glob("*.so"), *built.glob("*.dylib"), *built.glob("*.dll")]:
                copy_whole(library, target.parent / library.name)
            copy_whole(built / target.name, target)


def _with_slashes(value: object) -> str:
    return value.as_posix() if isinstance(value, Path) else str(value)
