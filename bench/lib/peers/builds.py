"""llama.cpp's tools for ``peers.py``: stock ones, each built once a run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lib import stock
from lib.peers.types import PeerError, short
from lib.report import note

PLAIN = "llama-completion"
SERVER = "llama-server"

WEB_PAGE = "scripts/ui-assets.cmake"
NO_WEB_PAGE = """\
file(WRITE "${UI_BINARY_DIR}/ui.h" [[
#pragma once
#include <string>
#include <vector>
struct llama_ui_asset { std::string name; };
inline std::vector<llama_ui_asset> llama_ui_get_assets() { return {}; }
]])
file(WRITE "${UI_BINARY_DIR}/ui.cpp" "#include \\"ui.h\\"\\n")
"""


def tool_path(name: str) -> Path:
    """Raises PeerError if the tool cannot be built."""
    found = _built(name)
    if isinstance(found, PeerError):
        raise found
    return found


@cache
def _built(name: str) -> Path | PeerError:
    note(f"building {name}, if it is not there yet")
    try:
        return _build_server() if name == SERVER else stock.stock_tool(name)
    except PeerError as error:
        return error
    except (SystemExit, Exception) as error:
        return PeerError(f"cannot be built: {short(error)}")


def _build_server() -> Path:
    """The script that packs the server's web page is not vendored: another packs none."""
    work = tool_path(PLAIN).parents[2]
    script = work / "llama.cpp" / WEB_PAGE
    if not script.exists():
        script.parent.mkdir(exist_ok=True)
        script.write_text(NO_WEB_PAGE, encoding="utf-8")
    return stock.compile_target(work, SERVER, stock.own_recipe().cmake_args)
