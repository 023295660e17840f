"""Where llama.cpp comes from, and how its patched source gets into a work folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .cache import Cache, mark_used, sha256_file
from .errors import BuildError
from .patches import Changes, apply_series
from .pin import Pin
from .processes import run_logged
from .progress import Progress

REPLACEMENT = "PYTREELLAMA_LLAMA_CPP"
LANDMARK = "include/llama.h"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """One llama.cpp: `identity` changes with its content.

    A `folder` is used where it stands; an `archive` is unpacked; neither means the download.
    """

    identity: str
    description: str
    folder: Path | None = None
    archive: Path | None = None


def find_source(pin: Pin) -> Source:
    """The source that the environment asks for: the pin's download, or its replacement."""
    asked = os.environ.get(REPLACEMENT)
    if not asked:
        return Source(pin.sha256, f"{pin.distribution} {pin.version}")
    return source_at(Path(asked), pin, REPLACEMENT)


def source_at(path: Path, pin: Pin, asker: str) -> Source:
    """The llama.cpp in a folder or an archive, which `asker` (named in errors) asks for."""
    path = path.expanduser().absolute()
    if path.is_dir():
        folder = _find_root(path, asker)
        return Source(_hash_folder(folder, pin.unpack), str(folder), folder=folder)
    if path.is_file():
        return Source(sha256_file(path), str(path), archive=path)
    raise BuildError(
        f"{asker} names {path}, which does not exist",
        "point it at a folder that holds llama.cpp or at a tar archive of it, or unset it",
    )


def _find_root(path: Path, asker: str) -> Path:
    for candidate in (path, path / "vendor/llama.cpp", path / "llama.cpp"):
        if (candidate / LANDMARK).is_file():
            return candidate
    raise BuildError(
        f"{asker} names {path}, which holds no llama.cpp ({LANDMARK} is missing)",
        "point it at the folder with llama.cpp's CMakeLists.txt, or unset it",
    )


def _hash_folder(folder: Path, unpack: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for relative in sorted(walk(folder, unpack)):
        digest.update(f"{relative}\0{sha256_file(folder / relative)}\n".encode())
    return digest.hexdigest()


def walk(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Relative paths (with /) of the files under those of `names` that exist."""
    for name in names:
        top = folder / name
        if top.is_file():
            yield name
        for directory, _, files in os.walk(top):
            base = Path(directory).relative_to(folder).as_posix()
            yield from (f"{base}/{file}" for file in files)


#
# the pristine tree
#


def obtain(source: Source, pin: Pin, cache: Cache, progress: Progress) -> Path:
    """A folder with the pristine llama.cpp: unpacked if it is not there whole already."""
    if source.folder is not None:
        return source.folder
    entry = entry_of(source, pin, cache)
    if not is_intact(entry):
        shutil.rmtree(entry, ignore_errors=True)
        with cache.temporary() as folder:
            archive = source.archive or download(pin, folder, progress)
            progress.phase("unpacking llama.cpp")
            tree = folder / "tree"
            unpack(archive, tree, pin)
            write_manifest(tree)
            tree.rename(entry)
    mark_used(entry)
    return entry


def entry_of(source: Source, pin: Pin, cache: Cache) -> Path:
    """Where `obtain` keeps the pristine tree of an archive."""
    identity = hashlib.sha256("\0".join([source.identity, *pin.unpack]).encode()).hexdigest()
    return cache.sources / identity[:16]


def download(pin: Pin, folder: Path, progress: Progress) -> Path:
    """Fetch the pinned archive with pip, hash checked by pip and by us."""
    progress.phase(f"downloading {pin.distribution} {pin.version} ({pin.size_mb} MB)")
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{pin.distribution}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8"
    )
    target = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check", "--retries=2", "--no-deps", "--require-hashes"]
    command += [
        f"--no-binary={pin.distribution}",
        f"--dest={target}",
        f"--requirement={requirements}",
    ]
    (folder / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(folder / "tmp")}
    lines: list[str] = []
    log = folder / "pip.log"
    with log.open("w", encoding="utf-8") as file:
        status = run_logged(command, file, on_line=lines.append, env=env)
    if status != 0:
        raise _download_error(pin, lines)
    archives = [path for path in target.iterdir() if path.name.endswith(".tar.gz")]
    if len(archives) != 1:
        names = ", ".join(path.name for path in target.iterdir()) or "nothing"
        raise BuildError(f"pip should have brought one .tar.gz, but brought {names}")
    found = sha256_file(archives[0])
    if found != pin.sha256:
        raise _wrong_hash(pin, found)
    return archives[0]


def _download_error(pin: Pin, lines: list[str]) -> BuildError:
    output = "".join(lines)
    if "DO NOT MATCH THE HASHES" in output:
        return _wrong_hash(pin, "something else (pip refused it)")
    if "No space left on device" in output:
        return BuildError(
            "no space left on the device while downloading llama.cpp",
            "free some space, or set PYTREELLAMA_CACHE to a folder on another disk",
        )
    if "No module named pip" in output:
        return BuildError(
            f"{sys.executable} has no pip, which fetches llama.cpp's source",
            f"install pip, or set {REPLACEMENT} to a folder or archive with llama.cpp",
        )
    tail = "\n".join("  pip: " + line.rstrip() for line in lines[-6:])
    return BuildError(
        f"cannot download {pin.distribution} {pin.version} (is this machine offline?)\n{tail}",
        "check the network and pip's index settings and run again; without a network, fetch the "
        f"archive elsewhere and set {REPLACEMENT} to it (or to a folder with llama.cpp)",
    )


def _wrong_hash(pin: Pin, found: str) -> BuildError:
    return BuildError(
        f"the archive of {pin.distribution} {pin.version} is not the pinned one:\n"
        f"  wanted sha256 {pin.sha256}\n  found         {found}",
        "do not use it; check pip's index and any proxy in between, then run again",
    )


def unpack(archive: Path, target: Path, pin: Pin) -> None:
    """Write the listed parts of llama.cpp, and nothing else, under `target`.

    Only plain files are written, by us, each to a path that was checked: links, devices and
    paths that lead out of the tree end the build.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            prefix = _find_prefix(archive, members)
            for member in members:
                _unpack_member(tar, member, prefix, target, pin.unpack)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BuildError(
            f"{archive} is not a readable tar archive: {error}",
            f"fetch it again; {REPLACEMENT} takes a .tar or .tar.gz, or an unpacked folder",
        ) from None


def _find_prefix(archive: Path, members: list[tarfile.TarInfo]) -> str:
    """What stands before llama.cpp's own paths, with a / at its end."""
    names = [member.name.removeprefix("./") for member in members]
    roots = [
        name.removesuffix(LANDMARK)
        for name in names
        if name == LANDMARK or name.endswith("/" + LANDMARK)
    ]
    if not roots:
        raise BuildError(
            f"{archive} holds no llama.cpp ({LANDMARK} is missing)",
            "use an archive of llama.cpp or of llama-cpp-python (the source distribution)",
        )
    return min(roots, key=len)


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, prefix: str, target: Path, wanted: Iterable[str]
) -> None:
    name = member.name.removeprefix("./")
    if not name.startswith(prefix):
        return
    path = PurePosixPath(name.removeprefix(prefix))
    if not path.parts or path.parts[0] not in wanted or member.isdir():
        return
    if not member.isfile() or ".." in path.parts or "\\" in name or ":" in name:
        raise BuildError(
            f"the archive holds {member.name}, which is not a plain file inside llama.cpp",
            "do not use this archive",
        )
    content = tar.extractfile(member)
    assert content is not None
    place = target / path
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        shutil.copyfileobj(content, file)


def write_manifest(tree: Path) -> None:
    """List what a complete tree holds, so that a damaged one is noticed."""
    names = sorted(entry.name for entry in tree.iterdir())
    hashes = {relative: sha256_file(tree / relative) for relative in walk(tree, names)}
    (tree / MANIFEST).write_text(json.dumps(hashes), encoding="utf-8")


def is_intact(tree: Path) -> bool:
    try:
        hashes = json.loads((tree / MANIFEST).read_text(encoding="utf-8"))
        return all(sha256_file(tree / relative) == found for relative, found in hashes.items())
    except (OSError, ValueError):
        return False


#
# the patched tree
#


def synchronise(
    pristine: Path, patches: Iterable[Path], target: Path, unpack: Iterable[str]
) -> None:
    """Make `target` the patched source, writing only files that differ.

    Untouched files keep their times, so a rebuild compiles no more than the patches changed.
    """

    def read(relative: str) -> bytes | None:
        path = pristine / relative
        return path.read_bytes() if path.is_file() else None

    changes: Changes = apply_series(patches, read)
    patched = {relative: content for relative, content in changes.items() if content is not None}
    paths = {path: pristine / path for path in walk(pristine, unpack) if path not in changes}
    names = [entry.name for entry in target.iterdir()] if target.is_dir() else []
    mirror(target, names, {**paths, **patched})


def mirror(target: Path, names: Iterable[str], files: Mapping[str, Path | bytes]) -> None:
    """Make `target` hold these files and, under `names`, no others; write only what differs.

    `files` gives by relative path (with /) the content, or the file to copy.
    """
    for relative, file in sorted(files.items()):
        write_if_changed(target / relative, file if isinstance(file, bytes) else file.read_bytes())
    for relative in set(walk(target, names)) - files.keys():
        (target / relative).unlink()


def write_if_changed(path: Path, content: bytes) -> bool:
    """Write whole or not at all; leave the file alone, and return False, if it holds `content`."""
    try:
        if path.read_bytes() == content:
            return False
    except OSError:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
    return True
