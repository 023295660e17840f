"""build.py by hand and as pip's hook: one clear message and the right status, whatever happens."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from alone import started
from buildlib.errors import BuildError
from buildlib.processes import run_logged
from buildlib.progress import Progress

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_script", ROOT / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    """A script in an empty folder whose steps only note that they were asked for."""
    steps = FakeSteps(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "PACKAGE", tmp_path / "src/pytreellama/native")
    monkeypatch.setattr(script, "Environment", lambda root: steps)
    monkeypatch.setattr(script, "ensure_native", steps.ensure_native)
    monkeypatch.setattr(script, "become", steps.become)
    monkeypatch.setattr(script.staging, "stage", steps.stage)
    monkeypatch.setattr(script.staging, "stage_testing", steps.stage_testing)
    monkeypatch.setattr(script, "describe_to_editors", lambda: None)
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.setitem(os.environ, "CMAKE_ARGS", "")
    monkeypatch.setattr(signal, "signal", lambda *_: handler)
    return steps


class FakeSteps:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".venv"
        self.python = self.folder / "bin/python"
        self.is_running = True
        self.steps: list[str] = []
        self.extras: list[str] = []
        self.known_extras: list[str] = []
        self.testing = False
        self.command: list[str] = []
        self.tools: Sequence[str] = ()
        self.n_jobs: int | None = None
        self.failure: BaseException | None = None

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def ensure(self, progress: Progress) -> None:
        self.steps.append("environment")

    def all_extras(self, extras: Sequence[str]) -> list[str]:
        return sorted({*extras, *self.known_extras})

    def ensure_tools(self, extra: str, progress: Progress) -> None:
        self.steps.append(f"tools {extra}")

    def ensure_package(self, extras: list[str], progress: Progress) -> None:
        self.steps.append("package")
        self.extras = extras

    def ensure_native(
        self, progress: Progress, n_jobs: int | None, tools: Sequence[str], *, testing: bool
    ) -> Path:
        self.steps.append("native")
        self.n_jobs, self.tools, self.testing = n_jobs, tools, testing
        if self.failure is not None:
            raise self.failure
        return self.folder.parent / "entry"

    def stage(self, entry: Path, package: Path) -> bool:
        self.steps.append("stage")
        return True

    def stage_testing(self, entry: Path, package: Path) -> None:
        assert self.testing
        self.steps.append("stage testing")

    def become(self, command: Sequence[str | Path]) -> int:
        self.command = [str(word) for word in command]
        return 0


#
# commands
#


def test_run_sets_up_then_generates_and_compares(script: ModuleType, fake: FakeSteps) -> None:
    assert script.main(["run", "Once", "--max-tokens", "8", "--jobs", "3"]) == 0
    assert fake.steps == ["environment", "native", "stage", "package"]
    words = ["generate", "Once", "--max-tokens", "8", "--compare"]
    assert fake.command == [str(fake.program("pytreellama")), *words]
    assert fake.n_jobs == 3


def test_run_without_a_prompt_is_a_demonstration(script: ModuleType, fake: FakeSteps) -> None:
    script.main(["run"])
    assert fake.command[1:] == ["demo"]


def test_test_installs_its_extra_and_passes_arguments_on(
    script: ModuleType, fake: FakeSteps
) -> None:
    assert script.main(["test", "-k", "tree", "tests/unit"]) == 0
    assert fake.extras == ["test"]
    assert fake.command == [str(fake.python), "-m", "pytest", "-k", "tree", "tests/unit"]


@pytest.mark.parametrize(
    ("words", "known", "testing"),
    [
        (["run"], [], False),
        (["build"], [], False),
        (["build", "--extra", "serve"], [], False),
        (["test"], [], True),
        (["build", "--extra", "test"], [], True),
        (["build", "--extra", "bench"], [], True),
        (["build"], ["bench"], True),
    ],
)
def test_instruments_are_built_for_those_who_test_alone(
    script: ModuleType, fake: FakeSteps, words: list[str], known: list[str], testing: bool
) -> None:
    fake.known_extras = known
    assert script.main(words) == 0
    assert fake.testing is testing
    assert ("stage testing" in fake.steps) is testing


def test_build_runs_nothing_and_tells_where_the_tools_are(
    script: ModuleType, fake: FakeSteps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["build", "--target", "llama-bench", "--extra", "bench"]) == 0
    assert fake.tools == ["llama-bench"]
    assert fake.extras == ["bench"]
    assert fake.command == []
    assert str(Path("entry/bin/llama-bench")) in capsys.readouterr().err


def test_outside_its_environment_the_script_goes_on_inside(
    script: ModuleType, fake: FakeSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.is_running = False
    monkeypatch.setattr(sys, "argv", ["build.py", "test", "-x"])
    script.main()
    assert fake.steps == ["environment"]
    assert fake.command == [str(fake.python), str(script.ROOT / "build.py"), "test", "-x"]


def test_a_backend_becomes_cmake_args_and_those_given_come_last(
    script: ModuleType, fake: FakeSteps
) -> None:
    os.environ["CMAKE_ARGS"] = "-DGGML_CUDA_FA=OFF"
    script.main(["build", "--backend", "cuda"])
    assert os.environ["CMAKE_ARGS"] == "-DGGML_CUDA=ON -DGGML_CUDA_FA=OFF"


@pytest.mark.parametrize(
    "arguments",
    [[], ["build", "--nothing"], ["build", "--jobs", "0"], ["run", "--backend", "abacus"]],
)
def test_wrong_arguments_are_refused(script: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.parse_arguments(arguments)
    assert caught.value.code == 2


#
# endings
#


def test_a_failed_build_ends_in_its_message(
    script: ModuleType, fake: FakeSteps, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.failure = BuildError("it broke", "mend it", Path("log.txt"))
    assert script.main(["build"]) == 1
    told = "build.py: it broke\nWhat to do: mend it\nFull log: log.txt\n"
    assert capsys.readouterr().err == told


def test_an_interruption_ends_with_130(
    script: ModuleType, fake: FakeSteps, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.failure = KeyboardInterrupt()
    assert script.main(["build"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "not allowed to write")]
)
def test_trouble_with_the_disk_is_told(
    script: ModuleType,
    fake: FakeSteps,
    capsys: pytest.CaptureFixture[str],
    number: int,
    reason: str,
) -> None:
    fake.failure = OSError(number, os.strerror(number), "/some/file")
    assert script.main(["build"]) == 1
    told = capsys.readouterr().err
    assert reason in told
    assert "/some/file" in told


def test_an_error_of_ours_is_not_hidden(script: ModuleType, fake: FakeSteps) -> None:
    fake.failure = OSError(errno.EBADF, "bad file descriptor")
    with pytest.raises(OSError, match="bad file"):
        script.main(["build"])


def test_clean_removes_what_was_staged_and_the_cache_on_request(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src/pytreellama/native"
    cached = tmp_path / "cache/build/work"
    for path in (package / "lib/libllama.so", package / "build_info.json", package / "log.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    cached.mkdir(parents=True)
    (tmp_path / "cache/model.gguf").touch()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "PACKAGE", package)
    monkeypatch.setenv("PYTREELLAMA_CACHE", str(tmp_path / "cache"))
    assert script.clean(and_cache=False) == 0
    assert [path.name for path in package.iterdir()] == ["log.py"]
    assert cached.exists()
    assert script.clean(and_cache=True) == 0
    assert not cached.exists()
    assert (tmp_path / "cache/model.gguf").exists()


#
# a real interruption
#

DRIVER = """
import importlib.util, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("build_script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


class Here:
    is_running = True

    def __init__(self, root):
        pass

    def all_extras(self, extras):
        return list(extras)

    def ensure(self, progress):
        pass


def ensure_native(progress, n_jobs, tools, testing):
    progress.phase("compiling")
    child = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(600)"]
    with open(sys.argv[2], "w") as log:
        script.native.run_logged(child, log)


script.Environment = Here
script.ensure_native = ensure_native
sys.exit(script.main(["build"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_build_and_its_children(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", DRIVER, str(ROOT / "build.py"), str(tmp_path / "log")]
    with started(command, stderr=subprocess.PIPE, text=True) as build:
        children: list[psutil.Process] = []
        while not children:
            assert build.poll() is None
            children = psutil.Process(build.pid).children()
            time.sleep(0.01)
        build.send_signal(number)
        _, told = build.communicate(timeout=60)
    assert build.returncode == 130
    assert told == "compiling\nbuild.py: interrupted; run the same command again to go on\n"
    assert not any(child.is_running() for child in children)


def test_a_child_does_not_outlive_an_error_in_its_reader(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        pids.append(int(line))
        raise OSError(errno.ENOSPC, "no space left on device")

    pids: list[int] = []
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with (tmp_path / "log").open("w") as log, pytest.raises(OSError, match="no space"):
        run_logged([sys.executable, "-c", code], log, on_line=fail)
    assert not psutil.pid_exists(pids[0])


#
# progress
#


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_every_tenth_is_one_line() -> None:
    told = io.StringIO()
    with Progress(told) as progress:
        progress.phase("compiling")
        for step in range(1, 201):
            progress.step(step, 200)
    lines = told.getvalue().splitlines()
    assert lines[0] == "compiling"
    assert [line.split()[0] for line in lines[1:]] == [f"{tenth}0%" for tenth in range(1, 11)]


def test_on_a_terminal_one_line_redraws_itself_and_goes() -> None:
    told = Terminal()
    with Progress(told) as progress:
        progress.phase("compiling")
        progress.step(57, 160)
        progress.say("done")
    assert "compiling [57/160] 0:00" in told.getvalue()
    assert told.getvalue().count("\n") == 1
    assert told.getvalue().endswith("\r\x1b[2K")


def test_nothing_is_said_where_nothing_is_done() -> None:
    told = Terminal()
    with Progress(told):
        pass
    assert told.getvalue() == ""


#
# the hook
#


def make_hook(script: ModuleType, tmp_path: Path) -> Any:
    hook = object.__new__(script.NativeBuildHook)
    native = tmp_path / "entry/native"
    (native / "lib").mkdir(parents=True)
    for name in ("_native.abi3.so", "lib/libllama.so", "build_info.json"):
        (native / name).touch()
    return hook


def test_a_wheel_takes_the_library_from_the_cache_and_names_its_platform(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(script, tmp_path)
    monkeypatch.setattr(script, "ensure_native", lambda progress: tmp_path / "entry")
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize("standard", data)
    assert sorted(data["force_include"].values()) == [
        "pytreellama/native/_native.abi3.so",
        "pytreellama/native/build_info.json",
        "pytreellama/native/lib/libllama.so",
    ]
    assert data["pure_python"] is False
    interpreter, abi, platform = data["tag"].split("-")
    assert interpreter.startswith("cp3") and abi != "none" and platform != "any"


def test_an_editable_install_stages_beside_the_sources(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(script, tmp_path)
    staged: list[Path] = []
    monkeypatch.setattr(script, "ensure_native", lambda progress: tmp_path / "entry")
    monkeypatch.setattr(script.staging, "stage", lambda entry, package: staged.append(package))
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize("editable", data)
    assert staged == [ROOT / "src/pytreellama/native"]
    assert data["force_include"] == {}


def test_a_failed_hook_says_why_without_a_traceback(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(progress: Progress) -> Path:
        raise BuildError("no compiler", "install one")

    hook = make_hook(script, tmp_path)
    monkeypatch.setattr(script, "ensure_native", fail)
    with pytest.raises(SystemExit) as caught:
        hook.initialize("standard", {"force_include": {}})
    assert caught.value.code == 1
    assert capsys.readouterr().err == "build.py: no compiler\nWhat to do: install one\n"
