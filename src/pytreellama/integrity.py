"""Whether the files that come with pytreellama are, byte for byte, those that they should be.

Nothing native is imported: what is checked may be what cannot be loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytreellama.errors import FileError
from pytreellama.files import read_json, sha256_of
from pytreellama.model import default_model

_NATIVE = Path(__file__).parent / "native"
_BUILD_INFO_BYTES = 2**20
_BUILD_AGAIN = "build it again (python3 build.py build), or reinstall the package"
_FETCH_AGAIN = "delete the file; it is fetched again"


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What became of one file's check.

    Attributes:
        problem: what is wrong with it; None if its hash is the one expected.
    """

    path: Path
    sha256: str
    problem: str | None = None


def check_native() -> list[FileCheck]:
    """Compare the compiled files with the hashes that the build left in build_info.json."""
    info = _NATIVE / "build_info.json"
    try:
        files = read_json(info, max_bytes=_BUILD_INFO_BYTES)["files"].items()
    except (FileError, KeyError, TypeError, AttributeError) as error:
        return [FileCheck(info, "", f"the hashes of the native files are not known: {error}")]
    return [_check(_NATIVE / name, str(expected), _BUILD_AGAIN) for name, expected in files]


def check_default_model() -> FileCheck | None:
    """Compare the default model with its pin; None if it has not been fetched yet."""
    path = default_model.cached_path()
    return _check(path, default_model.SHA256, _FETCH_AGAIN) if path.exists() else None


def _check(path: Path, expected: str, advice: str) -> FileCheck:
    try:
        found = sha256_of(path)
    except FileError as error:
        return FileCheck(path, expected, str(error))
    if found != expected:
        problem = f"{path} has sha256 {found}, expected {expected}; {advice}"
        return FileCheck(path, expected, problem)
    return FileCheck(path, expected)
