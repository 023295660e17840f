"""The series as a git repository at the pin, one commit a patch, and back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .cache import Cache
from .errors import BuildError
from .git import Repository
from .patches import apply_series, list_patches, parse_patch
from .pin import Pin
from .progress import Progress
from .series import FIELDS, Header, file_name, header_faults, read_header
from .sources import Source, entry_of, is_intact, obtain, walk, write_if_changed

PIN = "pin"  # the tag of the source without patches
DIFF = (
    "diff-tree", "-p", "-r", "--no-commit-id", "--unified=3", "--no-renames", "--no-ext-diff",
    "--no-textconv", "--no-color", "--diff-algorithm=histogram", "--indent-heuristic",
    "--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip
METADATA = (b"diff --git ", b"index ", b"new file mode ", b"deleted file mode ")


def checkout(folder: Path, patches: Path, pin: Pin, source: Source, pristine: Path) -> Repository:
    """Make a repository of the pristine source and a commit for each patch.

    Raises:
        BuildError: the folder is in use, or a patch does not apply.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BuildError(
            f"{folder} is there and not empty", "name another folder, or remove this one"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".checkout-", dir=folder.parent) as temporary:
        made = Repository.create(Path(temporary) / "series")
        commit_source(made, pin, source, pristine)
        made.run("tag", PIN)
        for patch in list_patches(patches):
            _commit_patch(made, patch)
        if folder.exists():
            folder.rmdir()
        made.folder.rename(folder)
    return Repository(folder)


def commit_source(repository: Repository, pin: Pin, source: Source, pristine: Path) -> None:
    """Commit a pristine source as the whole content of the work tree."""
    for relative in walk(pristine, pin.unpack):
        target = repository.folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pristine / relative, target)
    message = f"llama.cpp {pin.commit}\n\n{source.description}\nidentity {source.identity}\n"
    repository.commit_all(message.encode())


def _commit_patch(repository: Repository, patch: Path) -> None:
    folder = repository.folder

    def read(relative: str) -> bytes | None:
        path = folder / relative
        return path.read_bytes() if path.is_file() else None

    for relative, content in apply_series([patch], read).items():
        if content is None:
            (folder / relative).unlink()
        else:
            write_if_changed(folder / relative, content)
    header = read_header(patch.read_bytes()).text or patch.stem
    repository.commit_all(header.encode() + b"\n")


def open_checkout(folder: Path) -> Repository:
    """The repository that ``checkout`` made.

    Raises:
        BuildError: there is none in the folder.
    """
    repository = Repository(folder)
    if repository.state.is_dir():
        known = repository.try_run("rev-parse", "--verify", "--quiet", f"refs/tags/{PIN}")
        if known.returncode == 0:
            return repository
    raise BuildError(
        f"{folder} is no checkout of the patch series",
        "make one: python3 build.py patches checkout",
    )


def obtain_pristine(pin: Pin, source: Source, cache: Cache, progress: Progress) -> Path:
    """As ``obtain``; a tree that is there already does not wait for a build to end."""
    cache.make()
    if source.folder is None and is_intact(entry_of(source, pin, cache)):
        return obtain(source, pin, cache, progress)
    with cache.locked(progress):
        return obtain(source, pin, cache, progress)


#
# back to files
#


def export(repository: Repository, target: Path, source: Source, root: Path) -> list[Path]:
    """Write a patch for each commit since the pin; other patches in ``target`` go.

    Nothing is written unless every header is complete and the build's own applier makes of the
    pin what the last commit holds.

    Returns:
        The files of the series.

    Raises:
        BuildError: the repository or a header is not fit for it.
    """
    _require_at_rest(repository)
    _require_pin(repository, source)
    texts = _texts(repository, root)
    with tempfile.TemporaryDirectory(prefix="patches-") as temporary:
        for name, content in texts.items():
            (Path(temporary) / name).write_bytes(content)
        _require_same(repository, Path(temporary))
    target.mkdir(parents=True, exist_ok=True)
    for old in list_patches(target):
        if old.name not in texts:
            old.unlink()
    for name, content in texts.items():
        write_if_changed(target / name, content)
    return [target / name for name in texts]


def _require_at_rest(repository: Repository) -> None:
    if any((repository.state / name).exists() for name in ("rebase-merge", "rebase-apply")):
        raise BuildError(
            f"a rebase is under way in {repository.folder}",
            "end it first: build.py patches bump --continue (or --abort), or git rebase",
        )
    if not repository.is_clean():
        raise BuildError(
            f"{repository.folder} has changes that are in no commit",
            "commit them (git commit --amend, or --fixup and git rebase -i --autosquash pin)",
        )
    if repository.run("rev-list", "--merges", f"{PIN}..HEAD"):
        raise BuildError(
            f"{repository.folder} has merges after the pin", "rebase them: one commit is one patch"
        )


def _require_pin(repository: Repository, source: Source) -> None:
    if f"identity {source.identity}" not in repository.text("log", "-1", "--format=%B", PIN):
        raise BuildError(
            f"{repository.folder} stands on another source than vendor/llama_cpp.toml names",
            "make a new checkout, or move the pin with: build.py patches bump",
        )


def require_fit(repository: Repository, root: Path) -> None:
    """Check that ``export`` would take every header.

    Raises:
        BuildError: one is not complete.
    """
    _texts(repository, root)


def _texts(repository: Repository, root: Path) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    faults: list[str] = []
    for number, commit in enumerate(commits_of(repository), 1):
        header = message_of(repository, commit)
        name = file_name(number, header.subject)
        faults += [f"{name}: {fault}" for fault in header_faults(header, root)]
        diff = bare_diff(repository, commit)
        if not diff:
            faults.append(f"{name}: the commit changes nothing")
        texts[name] = header.text.encode() + b"\n\n" + diff
    if faults:
        raise BuildError(
            "the series is not fit to be written:\n" + "\n".join("  " + f for f in faults),
            f"edit the messages (git rebase -i pin, reword); each has {', '.join(FIELDS)}",
        )
    return texts


def commits_of(repository: Repository, since: str = PIN) -> list[str]:
    return repository.text("rev-list", "--reverse", f"{since}..HEAD").split()


def message_of(repository: Repository, commit: str) -> Header:
    content = repository.run("cat-file", "commit", commit)
    return read_header(content.partition(b"\n\n")[2])


def bare_diff(repository: Repository, commit: str) -> bytes:
    """A commit's diff without the lines that only git reads, which change with every rebase."""
    diff = repository.run(*DIFF, f"{commit}^", commit)
    return b"".join(line for line in diff.splitlines(True) if not line.startswith(METADATA))


def _require_same(repository: Repository, patches: Path) -> None:
    series = list_patches(patches)
    for patch in series:
        parse_patch(patch)
    changes = apply_series(series, lambda path: repository.read(PIN, path))
    touched = repository.names("diff", "--name-only", "--no-renames", "-z", PIN, "HEAD")
    wrong = [
        path
        for path in sorted({*touched, *changes})
        if changes.get(path, repository.read(PIN, path)) != repository.read("HEAD", path)
    ]
    if wrong:
        raise BuildError(
            f"the written series would not give {', '.join(wrong)} as they are in the checkout"
        )
