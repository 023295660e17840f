"""`build.py patches ...`: what a maintainer of the series types."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from . import bump as bumps
from .cache import Cache, cache_root
from .checkout import checkout, export, obtain_pristine, open_checkout, require_fit
from .errors import BuildError
from .git import Repository
from .pin import Pin, read_pin
from .progress import Progress, format_elapsed
from .series import Patch, header_faults, read_series, size_faults
from .sources import Source, find_source, source_at

FOLDER = "llama.cpp"
PATCHES = "vendor/patches"
PIN_FILE = "vendor/llama_cpp.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, allow_abbrev=False)

    made = action("checkout", "Make a git repository at the pin with a commit for each patch.")
    made.add_argument("folder", nargs="?", help=f"where (default: {FOLDER} in the checkout)")
    written = action("export", "Write the commits of that repository back as the series.")
    written.add_argument("folder", nargs="?", help=f"the repository (default: {FOLDER})")
    _add_bump_arguments(action("bump", "Rebase the series onto another llama.cpp, move the pin."))
    measured = action("check", "Measure each patch and check its header against the rules.")
    measured.add_argument("--json", action="store_true", help="print JSON")
    needed = action("necessity", "Show that the tests of a patch fail without it (slow).")
    needed.add_argument("patches", nargs="*", metavar="NAME", help="part of a name (default: all)")
    needed.add_argument("--json", action="store_true", help="print JSON")
    needed.add_argument("--jobs", type=int, metavar="N", help="compilers at a time")


def _add_bump_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="?",
        help="a folder or archive of llama.cpp, or a source distribution of llama-cpp-python",
    )  # fmt: skip
    parser.add_argument("--folder", help=f"the repository (default: {FOLDER}; made if missing)")
    parser.add_argument("--commit", help="llama.cpp's commit, where the source does not tell")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="count the conflicts, change nothing")
    how.add_argument("--continue", action="store_true", dest="go_on", help="conflicts are solved")
    how.add_argument("--abort", action="store_true", help="back to the series as it was")


def run(options: argparse.Namespace, root: Path, progress: Progress) -> int:
    """Do what the arguments ask for.

    Returns:
        0 if all is well, 1 if something is left to do.
    """
    if options.action == "check":
        return _check(root, options.json)
    if options.action == "necessity":
        from .necessity import show_necessity

        return show_necessity(root, options.patches, progress, options.json, options.jobs)
    if options.action == "bump":
        return _bump(options, root, progress)
    folder = _folder(root, options.folder)
    if options.action == "checkout":
        _checkout(folder, root, progress)
        progress.say(f"the series is in {folder}: git log pin..HEAD; then build.py patches export")
        return 0
    written = export(open_checkout(folder), root / PATCHES, find_source(_pin(root)), root)
    progress.say(f"{len(written)} patches are in {root / PATCHES}")
    return 0


def _folder(root: Path, asked: str | None) -> Path:
    return Path(asked).expanduser().absolute() if asked else root / FOLDER


def _pin(root: Path) -> Pin:
    return read_pin(root / PIN_FILE)


def _checkout(folder: Path, root: Path, progress: Progress) -> Repository:
    pin = _pin(root)
    source = find_source(pin)
    pristine = obtain_pristine(pin, source, Cache(cache_root()), progress)
    progress.phase("committing llama.cpp and the series")
    return checkout(folder, root / PATCHES, pin, source, pristine)


#
# check
#


def _check(root: Path, as_json: bool) -> int:
    series = read_series(root / PATCHES)
    faults = {patch.name: header_faults(patch.header, root) for patch in series}
    oversize = size_faults(series)
    if as_json:
        print(json.dumps(_measured(series, faults, oversize), indent=2))
    else:
        _print_series(series, faults, oversize)
    return 1 if oversize or any(faults.values()) else 0


def _measured(
    series: Sequence[Patch], faults: dict[str, list[str]], oversize: list[str]
) -> dict[str, object]:
    return {
        "patches": [
            {
                "name": patch.name,
                "subject": patch.header.subject,
                "n_lines": patch.n_lines,
                "n_hunks": patch.n_hunks,
                "files": sorted({diff.target for diff in patch.diffs}),
                "faults": faults[patch.name],
            }
            for patch in series
        ],
        "n_lines": sum(patch.n_lines for patch in series),
        "n_hunks": sum(patch.n_hunks for patch in series),
        "faults": oversize,
    }


def _print_series(
    series: Sequence[Patch], faults: dict[str, list[str]], oversize: list[str]
) -> None:
    print("lines  hunks  files  patch")
    for patch in series:
        print(f"{patch.n_lines:5}  {patch.n_hunks:5}  {len(patch.diffs):5}  {patch.name}")
        for fault in faults[patch.name]:
            print(f"{'':21}{fault}")
    files = {diff.target for patch in series for diff in patch.diffs}
    n_lines, n_hunks = (sum(getattr(p, n) for p in series) for n in ("n_lines", "n_hunks"))
    print(f"{n_lines:5}  {n_hunks:5}  {len(files):5}  the series of {len(series)}")
    for fault in oversize:
        print(f"too large: {fault}")


#
# bump
#


def _bump(options: argparse.Namespace, root: Path, progress: Progress) -> int:
    folder = _folder(root, options.folder)
    if options.abort:
        repository = open_checkout(folder)
        bumps.load(repository)
        bumps.abort(repository)
        progress.say("the series is as it was before the bump")
        return 0
    started_s = time.monotonic()
    if options.go_on:
        repository = open_checkout(folder)
        bump = bumps.load(repository)
        is_done = bumps.go_on(repository, bump)
    else:
        repository, bump = _prepare_bump(options, folder, root, progress)
        if options.dry_run:
            return _print_preview(repository)
        progress.phase("rebasing the series")
        is_done = bumps.start(repository, bump)
    if not is_done:
        return _print_conflicts(bump)
    _finish_bump(repository, bump, root, progress)
    progress.say(f"done in {format_elapsed(time.monotonic() - started_s)} (this command alone)")
    return 0


def _prepare_bump(
    options: argparse.Namespace, folder: Path, root: Path, progress: Progress
) -> tuple[Repository, bumps.Bump]:
    if not options.source:
        raise BuildError("bump needs a SOURCE", "name a folder or an archive, or use --continue")
    old = _pin(root)
    source = source_at(Path(options.source), old, "SOURCE")
    pin, is_distribution = bumps.read_new_pin(old, source, options.commit)
    repository = open_checkout(folder) if folder.exists() else _checkout(folder, root, progress)
    if bumps.is_under_way(repository):
        raise BuildError("a bump is under way already", "go on with --continue, or use --abort")
    if not repository.is_clean():
        raise BuildError(f"{folder} has changes that are in no commit", "commit them first")
    if not options.dry_run:
        require_fit(repository, root)  # not only after an hour of merging
    pristine = obtain_pristine(pin, source, Cache(cache_root()), progress)
    progress.phase("committing the new llama.cpp")
    bumps.add_source(repository, pin, source, pristine)
    return repository, bumps.Bump(pin, is_distribution)


def _print_preview(repository: Repository) -> int:
    conflicts = bumps.preview(repository)
    repository.run("tag", "--delete", bumps.NEXT)
    for conflict in conflicts:
        print(f"{conflict.n_places:5}  {conflict.file}")
    n_places = sum(conflict.n_places for conflict in conflicts)
    print(f"{n_places:5}  conflicts in {len(conflicts)} files, all patches merged at once")
    return 1 if conflicts else 0


def _print_conflicts(bump: bumps.Bump) -> int:
    last = bump.conflicts[-1].patch
    print(f"conflicts in: {last}")
    for conflict in bump.conflicts:
        if conflict.patch == last:
            print(f"{conflict.n_places:5}  {conflict.file}")
    print(f"{bump.n_conflicts:5}  so far, in {len({c.patch for c in bump.conflicts})} patches")
    print("solve them in the checkout, then: build.py patches bump --continue (or --abort)")
    return 1


def _finish_bump(repository: Repository, bump: bumps.Bump, root: Path, progress: Progress) -> None:
    gone = bumps.dropped(repository)
    bumps.finish(repository)
    bumps.rewrite_pin(root / PIN_FILE, bump.pin)
    identity = repository.text("log", "-1", "--format=%B", "pin").split("identity ")[-1]
    source = Source(identity.strip(), "the new source")
    export(repository, root / PATCHES, source, root)
    for subject in gone:
        progress.say(f"dropped, the new source has it: {subject}")
    for conflict in bump.conflicts:
        progress.say(f"solved: {conflict.n_places} in {conflict.file} ({conflict.patch})")
    progress.say(f"conflicts in all: {bump.n_conflicts}")
    if bump.pin.commit == "unknown":
        progress.say(f"the source does not tell its commit: write it into {PIN_FILE}")
    if not bump.is_distribution:
        progress.say(
            f"{PIN_FILE} still names {bump.pin.distribution} {bump.pin.version}: only a source "
            "distribution of it can be pinned; build with PYTREELLAMA_LLAMA_CPP until there is one"
        )
