#!/usr/bin/env python3
"""The one build script: by hand, and as the hook through which pip builds pytreellama.

    python3 build.py run                       build what is missing, then show what trees do
    python3 build.py test                      the same, then the tests
    python3 build.py build --target llama-bench
    python3 build.py clean --cache

By hand it needs nothing but Python 3.10 and a C++ compiler: it makes .venv beside itself,
installs the build requirements there, and goes on inside. vendor/buildlib does the work.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

if sys.version_info < (3, 10):  # noqa: UP036 - it runs before pip can check
    sys.exit("build.py: Python 3.10 or newer is needed, this is " + sys.version.split()[0])

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "vendor"))

from buildlib import cuda, native, patch_commands, site, staging, toolchain  # noqa: E402
from buildlib.cache import Cache, cache_root  # noqa: E402
from buildlib.compile_commands import write_compile_commands  # noqa: E402
from buildlib.environment import Environment  # noqa: E402
from buildlib.errors import BuildError, explain_os_error  # noqa: E402
from buildlib.modules import INSTALLED, STAGED  # noqa: E402
from buildlib.progress import Progress  # noqa: E402
from buildlib.recipe import read_recipe  # noqa: E402

PACKAGE = ROOT / STAGED
INTERRUPTED = 130
TESTERS = {"test", "bench"}  # extras that come with the test instruments

#
# by hand
#


def main(arguments: Sequence[str] | None = None) -> int:
    options, rest = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return clean(options.cache) if options.command == "clean" else prepare(options, rest)
    except KeyboardInterrupt:
        return complain("interrupted; run the same command again to go on", INTERRUPTED)
    except BuildError as error:
        return complain(str(error))
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        return complain(str(explained))


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="build.py", description="Build, run and test pytreellama."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--backend", choices=toolchain.BACKENDS, help="what to compile for (finer: CMAKE_ARGS)"
    )
    common.add_argument("--jobs", type=positive, metavar="N", help="compilers at a time")

    def command(name: str, text: str, **more: Any) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, parents=[common], allow_abbrev=False, **more
        )

    build = command("build", "Set everything up.")
    build.add_argument(
        "--target", action="append", default=[], metavar="NAME",
        help="also build this tool of llama.cpp (llama-bench, llama-completion, ...); repeatable",
    )  # fmt: skip
    build.add_argument(
        "--extra", action="append", default=[], metavar="NAME",
        help="also install this extra of pyproject.toml (test, bench); repeatable",
    )  # fmt: skip
    command("run", "Set everything up, then: pytreellama demo, or generate ... --compare.")
    command("test", "Set everything up, then: pytest ...")
    command("docs", "Set everything up, then build the documentation: mkdocs build ...")
    text = "Keep the series of patches: edit it, move the pin, check it (docs/patches.md)."
    patch_commands.add_arguments(commands.add_parser("patches", help=text, description=text))
    clean_parser = commands.add_parser("clean", help="Remove what build.py made in the checkout.")
    clean_parser.add_argument("--cache", action="store_true", help="and all cached builds")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command in ("build", "clean", "patches"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options, rest


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def prepare(options: argparse.Namespace, rest: list[str]) -> int:
    """Everything that `options.command` needs, then the command itself."""
    environment = Environment(ROOT)
    with Progress() as progress:
        environment.ensure(progress)
        if environment.is_running and options.command == "patches":
            return patch_commands.run(options, ROOT, progress)
        if environment.is_running:
            build(options, environment, progress)
    if not environment.is_running:
        return become([environment.python, ROOT / "build.py", *sys.argv[1:]])
    if options.command == "run":
        compare = [] if "--compare" in rest else ["--compare"]
        words = ["generate", *rest, *compare] if rest else ["demo"]
        return become([environment.program("pytreellama"), *words])
    if options.command == "test":
        return become([environment.python, "-m", "pytest", *rest])
    if options.command == "docs":
        site.stage_pages(ROOT, ROOT / "build" / "docs")
        os.environ.update(NO_MKDOCS_2_WARNING="1")  # the theme's notice is not about the pages
        return become([environment.python, "-m", "mkdocs", "build", "--quiet", *rest])
    return 0


def build(options: argparse.Namespace, environment: Environment, progress: Progress) -> None:
    flags = toolchain.BACKEND_FLAGS[options.backend] if options.backend else ()
    # pip's subprocess, which runs the hook below, must come to the same recipe
    os.environ["CMAKE_ARGS"] = " ".join([*flags, os.environ.get("CMAKE_ARGS", "")]).strip()
    args = toolchain.split_cmake_args(os.environ["CMAKE_ARGS"])
    if cuda.needs_wheels(toolchain.definitions(args)):
        environment.ensure_tools(cuda.EXTRA, progress)
    tools = options.target if options.command == "build" else []
    asked = {"test": ["test"], "docs": ["docs"], "build": getattr(options, "extra", [])}.get(
        options.command, []
    )
    extras = environment.all_extras(asked)
    testing = not TESTERS.isdisjoint(extras)
    entry = ensure_native(progress, options.jobs, tools, testing=testing)
    staging.stage(entry, PACKAGE)
    if testing:
        staging.stage_testing(entry, PACKAGE)
    describe_to_editors()
    environment.ensure_package(extras, progress)
    if options.command == "build":
        progress.say(f"ready: {PACKAGE} and {environment.folder}")
        for tool in tools:
            progress.say(f"{tool}: {native.tool_path(entry, tool)}")


def clean(and_cache: bool) -> int:
    staging.unstage(PACKAGE)
    environment = Environment(ROOT)
    if not environment.remove() and environment.folder.exists():
        print(f"{environment.folder} was not made by build.py: left alone")
    if and_cache and cache_root().exists():
        shutil.rmtree(cache_root())
    return 0


def become(command: Sequence[str | Path]) -> int:
    """Go on as `command`; on Windows, where nothing can, run it and pass its status on."""
    words = [str(word) for word in command]
    if not Path(words[0]).exists():
        raise BuildError(f"{words[0]} is missing", "run: python3 build.py clean, and try again")
    if sys.platform == "win32":
        return subprocess.call(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)


def complain(text: str, status: int = 1) -> int:
    print(f"build.py: {text}", file=sys.stderr)
    return status


#
# for both
#


def ensure_native(
    progress: Progress,
    n_jobs: int | None = None,
    tools: Sequence[str] = (),
    *,
    testing: bool = False,
) -> Path:
    recipe = read_recipe(ROOT, os.environ.get("CMAKE_ARGS", ""))
    return native.ensure(recipe, Cache(cache_root()), progress, n_jobs, tools, testing=testing)


def describe_to_editors() -> None:
    """Write compile_commands.json, where the build's work folder is still there."""
    recipe = read_recipe(ROOT, os.environ.get("CMAKE_ARGS", ""))
    write_compile_commands(ROOT, Cache(cache_root()).work / recipe.work_id / "build")


#
# as pip's hook
#

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, before .venv is made
    pass
else:

    class NativeBuildHook(BuildHookInterface[Any]):
        """Puts the native library into a wheel, or beside the sources of an editable install."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            try:
                with Progress() as progress:
                    entry = ensure_native(progress)
                if version == "editable":
                    staging.stage(entry, PACKAGE)
                else:
                    build_data["force_include"].update(files_of_wheel(entry))
                    build_data["pure_python"] = False
                    build_data["tag"] = wheel_tag()
            except BuildError as error:
                fail_hook(str(error))
            except OSError as error:
                explained = explain_os_error(error)
                if explained is None:
                    raise
                fail_hook(str(explained))


def fail_hook(text: str) -> NoReturn:
    """End the hook with the message alone: pip shows what was printed, and needs no traceback."""
    raise SystemExit(complain(text))


def files_of_wheel(entry: Path) -> dict[str, str]:
    folder = entry / "native"
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): f"{INSTALLED}/{path.relative_to(folder).as_posix()}" for path in files}


def wheel_tag() -> str:
    """The limited API since Python 3.10, where there is one; this platform."""
    from packaging.tags import sys_tags

    tag = next(
        t for t in sys_tags() if "linux_" not in t.platform or t.platform.startswith("linux")
    )
    if toolchain.module_suffix() in (".abi3.so", ".pyd"):
        return f"cp310-abi3-{tag.platform}"
    return f"{tag.interpreter}-{tag.abi}-{tag.platform}"


if __name__ == "__main__":
    sys.exit(main())
