"""Moving the pin: the series rebased onto another llama.cpp by three-way merges."""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .checkout import PIN, commit_source, commits_of, message_of
from .errors import BuildError
from .git import Repository
from .pin import Pin
from .sources import Source

NEXT = "pin-next"
BEFORE = "before-bump"
STATE = "bump.json"
HEAD_OF_LLAMA_CPP = ".git/modules/vendor/llama.cpp/HEAD"
N_COMMIT_DIGITS = 9


@dataclass(frozen=True)
class Conflict:
    """Places of one file that a person must merge, in one patch (or in all, if it is empty)."""

    patch: str
    file: str
    n_places: int


@dataclass
class Bump:
    """A move of the pin that is under way, as it is kept between two commands."""

    pin: Pin
    is_distribution: bool
    conflicts: list[Conflict] = field(default_factory=list)

    @property
    def n_conflicts(self) -> int:
        return sum(conflict.n_places for conflict in self.conflicts)


#
# the new pin
#


def read_new_pin(old: Pin, source: Source, commit: str | None) -> tuple[Pin, bool]:
    """The pin of a new source, and whether the package index has it.

    A source distribution says its version, and most say llama.cpp's commit too; of a folder or
    another archive nothing but the commit can be known.
    """
    if source.archive is None:
        found = _commit_of(source.folder)
        return replace(old, commit=commit or found or "unknown"), False
    facts, found = _read_distribution(source.archive)
    name = facts.get("Name", "").replace("_", "-")
    pin = replace(old, commit=(commit or found or "unknown")[:N_COMMIT_DIGITS])
    if name != old.distribution or "Version" not in facts:
        return pin, False
    size_mb = round(source.archive.stat().st_size / 1e6)
    return replace(pin, version=facts["Version"], sha256=source.identity, size_mb=size_mb), True


def _commit_of(folder: Path | None) -> str | None:
    if folder is None or not (folder / ".git").exists():
        return None
    result = Repository(folder).try_run("rev-parse", f"--short={N_COMMIT_DIGITS}", "HEAD")
    return result.stdout.decode().strip() or None


def _read_distribution(archive: Path) -> tuple[dict[str, str], str | None]:
    """The fields of PKG-INFO, and llama.cpp's commit, as far as the archive has them."""
    facts: dict[str, str] = {}
    commit = None
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = member.name.removeprefix("./").partition("/")[2]
                file = tar.extractfile(member) if member.isfile() else None
                if file is None or inside not in ("PKG-INFO", HEAD_OF_LLAMA_CPP):
                    continue
                text = file.read(1 << 20).decode("utf-8", "replace")
                if inside == "PKG-INFO":
                    head = text.partition("\n\n")[0]
                    facts = dict(re.findall(r"^([\w-]+): (.*)$", head, re.MULTILINE))
                elif match := re.fullmatch(r"[0-9a-f]{40}", text.strip()):
                    commit = match[0]
    except (tarfile.TarError, EOFError) as error:
        raise BuildError(f"{archive} is not a readable tar archive: {error}") from None
    return facts, commit


def rewrite_pin(path: Path, pin: Pin) -> None:
    """Put the new values into vendor/llama_cpp.toml; all else in it stays."""
    text = path.read_text(encoding="utf-8")
    values = {"version": pin.version, "sha256": pin.sha256, "commit": pin.commit}
    lines = {name: f'{name} = "{value}"' for name, value in values.items()}
    lines["size_mb"] = f"size_mb = {pin.size_mb}"
    for name, line in lines.items():
        text, n_found = re.subn(rf"^{name} = .*$", line, text, flags=re.MULTILINE)
        if n_found != 1:
            raise BuildError(f"{path} has {n_found} lines '{name} = ...', expected one")
    path.write_text(text, encoding="utf-8")


#
# the rebase
#


def preview(repository: Repository) -> list[Conflict]:
    """What would conflict if all patches were merged at once, file by file."""
    conflicts = []
    for path in repository.names("diff", "--name-only", "--no-renames", "-z", PIN, "HEAD"):
        versions = [repository.read(revision, path) for revision in ("HEAD", PIN, NEXT)]
        n_places = _count_merge(repository, versions)
        if n_places:
            conflicts.append(Conflict("", path, n_places))
    return conflicts


def _count_merge(repository: Repository, versions: list[bytes | None]) -> int:
    _, base, theirs = versions
    if base == theirs:
        return 0
    if theirs is None or base is None:  # it is gone, or both add it
        return 1
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("ours", "base", "theirs")]
        for path, content in zip(paths, versions, strict=True):
            path.write_bytes(content or b"")
        merged = repository.try_run("merge-file", "-p", *map(str, paths))
    if merged.returncode > 127:
        raise BuildError(f"git merge-file failed: {merged.stderr.decode('utf-8', 'replace')}")
    return merged.returncode


def add_source(repository: Repository, pin: Pin, source: Source, pristine: Path) -> None:
    """Commit the new source on top of the old one and tag it; the work tree stays as it is."""
    with tempfile.TemporaryDirectory(prefix=".next-", dir=repository.folder.parent) as temporary:
        other = Repository(Path(temporary) / "next")
        repository.run("worktree", "add", "--quiet", "--detach", str(other.folder), PIN)
        try:
            other.run("rm", "-r", "--quiet", "--force", ".")
            other.folder.mkdir(exist_ok=True)
            commit_source(other, pin, source, pristine)
            repository.run("tag", "--force", NEXT, other.text("rev-parse", "HEAD"))
        finally:
            repository.run("worktree", "remove", "--force", str(other.folder))


def start(repository: Repository, bump: Bump) -> bool:
    """Begin to rebase the series onto the source that ``add_source`` tagged.

    Returns:
        Whether it is done; if not, ``bump.conflicts`` ends with those to solve.
    """
    repository.run("tag", "--force", BEFORE, "HEAD")
    _save(repository, bump)
    return _rebase(repository, bump, "--merge", "--empty=drop", "--onto", NEXT, PIN)


def go_on(repository: Repository, bump: Bump) -> bool:
    """Continue after a person has solved the conflicts; as ``start``."""
    if not is_stopped(repository):
        if repository.try_run("merge-base", "--is-ancestor", NEXT, "HEAD").returncode != 0:
            raise BuildError(
                f"the rebase in {repository.folder} was given up",
                "run: python3 build.py patches bump --abort, and begin again",
            )
        return True
    marked = [path for path in _unmerged(repository) if _count_places(repository, path)]
    if marked:
        raise BuildError(
            f"conflict markers are left in {', '.join(marked)}",
            "solve them, then run: python3 build.py patches bump --continue",
        )
    repository.run("add", "--all", "--force")
    return _rebase(repository, bump, "--continue")


def abort(repository: Repository) -> None:
    """Give up: the series stands again where it was."""
    if is_stopped(repository):
        repository.run("rebase", "--abort")
    repository.run("reset", "--quiet", "--hard", BEFORE)
    _forget(repository)


def finish(repository: Repository) -> None:
    """The new source is the pin from now on."""
    repository.run("tag", "--force", PIN, NEXT)
    _forget(repository)


def dropped(repository: Repository) -> list[str]:
    """Subjects of the patches that the rebase left nothing of: the new source has them."""
    before = repository.text("log", "--reverse", "--format=%s", f"{PIN}..{BEFORE}").split("\n")
    now = {message_of(repository, commit).subject for commit in commits_of(repository, NEXT)}
    return [subject for subject in before if subject and subject not in now]


def is_stopped(repository: Repository) -> bool:
    return (repository.state / "rebase-merge").is_dir()


def _rebase(repository: Repository, bump: Bump, *arguments: str) -> bool:
    result = repository.try_run("rebase", *arguments)
    if result.returncode == 0:
        return True
    files = _unmerged(repository)
    if not is_stopped(repository) or not files:
        said = (result.stderr + result.stdout).decode("utf-8", "replace").strip()
        raise BuildError(f"git rebase failed in {repository.folder}:\n{said}")
    subject = repository.text("log", "-1", "--format=%s", "REBASE_HEAD")
    bump.conflicts += [Conflict(subject, f, _count_places(repository, f) or 1) for f in files]
    _save(repository, bump)
    return False


def _unmerged(repository: Repository) -> list[str]:
    return repository.names("diff", "--name-only", "--diff-filter=U", "-z")


def _count_places(repository: Repository, path: str) -> int:
    try:
        content = (repository.folder / path).read_bytes()
    except FileNotFoundError:  # one side removes the file
        return 0
    return len(re.findall(rb"^<<<<<<< ", content, re.MULTILINE))


#
# between two commands
#


def load(repository: Repository) -> Bump:
    """The move that is under way.

    Raises:
        BuildError: there is none.
    """
    try:
        data = json.loads((repository.state / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(
            f"no bump is under way in {repository.folder}",
            "begin one: python3 build.py patches bump SOURCE",
        ) from None
    data["pin"]["unpack"] = tuple(data["pin"]["unpack"])
    conflicts = [Conflict(**conflict) for conflict in data["conflicts"]]
    return Bump(Pin(**data["pin"]), data["is_distribution"], conflicts)


def is_under_way(repository: Repository) -> bool:
    return (repository.state / STATE).exists()


def _save(repository: Repository, bump: Bump) -> None:
    text = json.dumps(asdict(bump), indent=2)
    (repository.state / STATE).write_text(text + "\n", encoding="utf-8")


def _forget(repository: Repository) -> None:
    (repository.state / STATE).unlink(missing_ok=True)
    repository.run("tag", "--delete", NEXT, BEFORE)
