"""git, for the tools that keep the patch series; a user's build does without it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .errors import BuildError

IDENTITY = {"NAME": "pytreellama", "EMAIL": "patches@pytreellama.invalid"}


class Repository:
    """A git repository and its work tree, untouched by the user's settings and hooks.

    Args:
        folder: the work tree. A repository above it is never taken for it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.state = self.folder / ".git"

    @classmethod
    def create(cls, folder: Path) -> Repository:
        """Make an empty repository whose files git stores and compares byte for byte."""
        repository = cls(folder)
        repository.folder.mkdir(parents=True, exist_ok=True)
        repository.run("init", "--quiet", "--template=", "--initial-branch=series")
        (repository.state / "info").mkdir(exist_ok=True)
        # stands above every .gitattributes of the source
        (repository.state / "info/attributes").write_text("* -text !diff !merge !ident !filter\n")
        for name, value in {
            "core.autocrlf": "false",
            "core.fileMode": "false",
            "core.quotePath": "false",
            "merge.conflictStyle": "diff3",
        }.items():
            repository.run("config", name, value)
        return repository

    def try_run(
        self, *arguments: str, stdin: bytes | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git in the work tree, whatever its exit status is."""
        command = [_find_git(), *arguments]
        env = {**_environment(self.folder), **environment}
        return subprocess.run(
            command, cwd=self.folder, input=stdin or b"", capture_output=True, check=False, env=env
        )

    def run(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> bytes:
        """Run git in the work tree and return what it prints.

        Raises:
            BuildError: git failed.
        """
        result = self.try_run(*arguments, stdin=stdin, **environment)
        if result.returncode != 0:
            said = (result.stderr or result.stdout).decode("utf-8", "replace").strip()
            raise BuildError(f"git {arguments[0]} failed in {self.folder}:\n{said}")
        return result.stdout

    def text(self, *arguments: str) -> str:
        return self.run(*arguments).decode("utf-8", "replace").strip()

    def names(self, *arguments: str) -> list[str]:
        """The paths that a command prints with ``-z``."""
        return [name for name in self.run(*arguments).decode("utf-8").split("\0") if name]

    def read(self, revision: str, path: str) -> bytes | None:
        """A file of a commit; None if the commit has no such file."""
        result = self.try_run("cat-file", "blob", f"{revision}:{path}")
        return result.stdout if result.returncode == 0 else None

    def commit_all(self, message: bytes) -> None:
        """Commit the work tree as it is, ignored files too, with the message byte for byte."""
        self.run("add", "--all", "--force")
        options = ("--quiet", "--no-verify", "--allow-empty", "--cleanup=verbatim")
        self.run("commit", *options, "--file=-", stdin=message)

    def is_clean(self) -> bool:
        return not self.run("status", "--porcelain", "--untracked-files=all")


def _find_git() -> str:
    found = shutil.which("git")
    if found is None:
        raise BuildError(
            "git is not installed; the tools for the patch series need it (a build does not)",
            "install git 2.30 or newer",
        )
    return found


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    roles = ("AUTHOR", "COMMITTER")
    people = {f"GIT_{role}_{key}": v for role in roles for key, v in IDENTITY.items()}
    return {
        **kept,
        **people,
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_EDITOR": "true",
        "LC_ALL": "C",
    }
