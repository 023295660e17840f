"""`.venv` in the checkout: made, filled and remembered. Runs before anything is installed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .errors import BuildError
from .pin import read_toml
from .processes import run_logged
from .progress import Progress

STAMP = "pytreellama.json"
HALF_MADE = "pytreellama-half-made"
SPACE_MB = 500  # measured: 340 with the tests' requirements
N_TAIL_LINES = 8
PIP_CHATTER = re.compile(r"\s*(note:|hint:|╰─>|\[end of output\]|WARNING: Location)")


class Environment:
    """The virtual environment of a checkout.

    A stamp inside says what build.py installed; a mark says that it is not finished yet.
    An environment with neither is somebody else's: it is used, but never removed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.scripts = self.folder / ("Scripts" if sys.platform == "win32" else "bin")

    def program(self, name: str) -> Path:
        return self.scripts / (name + (".exe" if sys.platform == "win32" else ""))

    @property
    def python(self) -> Path:
        return self.program("python")

    @property
    def is_running(self) -> bool:
        """Whether this very process runs inside the environment."""
        return Path(sys.prefix).resolve() == self.folder.resolve()

    @property
    def is_ours(self) -> bool:
        return "made_here" in self._stamp() or (self.folder / HALF_MADE).exists()

    def ensure(self, progress: Progress) -> None:
        """Make the environment and install what builds need into it, where not done yet."""
        self._remove_unusable()
        requires = read_toml(self.root / "pyproject.toml")["build-system"]["requires"]
        if self._stamp().get("build_requires") == requires:
            return
        is_new = not self.folder.exists()
        try:
            if is_new:
                progress.phase("making .venv")
                self._create()
            progress.phase("installing build requirements into .venv")
            self._pip(["install", *requires], "the build requirements")
        except BaseException:
            if is_new:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._remember(build_requires=requires, **({"made_here": True} if is_new else {}))
        (self.folder / HALF_MADE).unlink(missing_ok=True)

    def all_extras(self, extras: Iterable[str]) -> list[str]:
        """`extras` and those installed before."""
        return sorted({*extras, *self._stamp().get("package", {}).get("extras", [])})

    def ensure_tools(self, extra: str, progress: Progress) -> None:
        """Install what an extra of pyproject.toml lists, without the package itself."""
        project = read_toml(self.root / "pyproject.toml")["project"]
        requires = project["optional-dependencies"][extra]
        progress.phase(f"installing the extra {extra} into .venv")
        self._pip(["install", *requires], f"the extra {extra}")

    def ensure_package(self, extras: Iterable[str], progress: Progress) -> None:
        """Install the checkout, editable, with `extras` and those installed before."""
        known = self._stamp().get("package", {})
        wanted = self.all_extras(extras)
        project = hashlib.sha256((self.root / "pyproject.toml").read_bytes()).hexdigest()
        package = {"project": project, "extras": wanted}
        if package == known and self._has_package():
            return
        progress.phase("installing pytreellama into .venv")
        target = f"{self.root}[{','.join(wanted)}]" if wanted else str(self.root)
        self._pip(["install", "--no-build-isolation", "--editable", target], "pytreellama")
        self._remember(package=package)

    def remove(self) -> bool:
        """Remove the environment if build.py made it; whether it did."""
        if not self.is_ours:
            return False
        shutil.rmtree(self.folder)
        return True

    def _remove_unusable(self) -> None:
        half_made = (self.folder / HALF_MADE).exists()
        if not self.folder.exists() or (self.python.exists() and not half_made):
            return
        if not self.is_ours:
            raise BuildError(
                f"{self.folder} is there, but holds no Python that runs",
                "remove the folder and run again",
            )
        shutil.rmtree(self.folder)

    def _create(self) -> None:
        free = shutil.disk_usage(self.root).free // 2**20
        if free < SPACE_MB:
            raise BuildError(
                f"no space left for {self.folder}: {free} MB are free, {SPACE_MB} MB are needed",
                "free some space and run again",
            )
        self.folder.mkdir()
        (self.folder / HALF_MADE).touch()
        command = [sys.executable, "-m", "venv", str(self.folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise BuildError(
                f"cannot make a virtual environment in {self.folder}\n"
                + _tail((result.stdout + result.stderr).splitlines(), "venv"),
                f"make sure that Python's venv module is whole "
                f"(Debian, Ubuntu: sudo apt install python{version}-venv)",
            )

    def _pip(self, args: Sequence[str], what: str) -> None:
        command = [str(self.python), "-m", "pip", *args, "--quiet", "--no-input", "--retries=2"]
        command += ["--disable-pip-version-check", "--progress-bar=off"]
        lines: list[str] = []
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            status = run_logged(command, nowhere, on_line=lines.append)
        if status != 0:
            raise BuildError(
                f"pip cannot install {what} into {self.folder}\n{_tail(lines, 'pip')}",
                _pip_advice("".join(lines)),
            )

    def _has_package(self) -> bool:
        places = [*self.folder.glob("lib/python*/site-packages"), self.folder / "Lib/site-packages"]
        return any(any(place.glob("pytreellama-*.dist-info")) for place in places)

    def _stamp(self) -> dict[str, Any]:
        try:
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def _remember(self, **facts: object) -> None:
        text = json.dumps({**self._stamp(), **facts}, indent=2)
        temporary = self.folder / (STAMP + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.folder / STAMP)


def _pip_advice(output: str) -> str:
    if "No space left on device" in output:
        return "no space is left on the device: free some and run again"
    if re.search(r"Connection|resolution|Max retries|timed out|No matching dist", output):
        return "check the network and pip's index settings, and run again"
    return "read what pip says above; then run again"


def _tail(lines: Sequence[str], speaker: str) -> str:
    told = [line.rstrip() for line in lines if line.strip() and not PIP_CHATTER.match(line)]
    return "\n".join(f"  {speaker}: {line}" for line in told[-N_TAIL_LINES:])
