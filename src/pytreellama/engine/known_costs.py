"""Cost curves on disk, by model and its placement, build, devices and number of threads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs

from pytreellama.context.context import Context
from pytreellama.files import read_json, replaced_file
from pytreellama.plan import CostCurve
from pytreellama.system import build_info

_FORMAT = 2  # 1 had no context depth
_log = logging.getLogger(__name__)

_N_KEPT = 200
_MAX_BYTES = 2**16
_SWITCHES = ("GGML_", "LLAMA_KQ_", "LLAMA_GRAPH_", "LLAMA_ATTN_")


def load_curve(context: Context) -> CostCurve | None:
    """The curve that an earlier engine saved under the same conditions, or None.

    A file without a valid curve, or with too few sizes, is removed: the curve is measured again.
    """
    _drop_older(context)
    path = _path(context)
    if not path.exists():
        return None
    try:
        curve = CostCurve.from_dict(read_json(path, max_bytes=_MAX_BYTES)["curve"])
        if curve.is_known:
            return curve
    except (OSError, ValueError, TypeError, KeyError):
        pass
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def save_curve(context: Context, curve: CostCurve) -> None:
    """Save a curve for the next engine, if it has enough measured sizes.

    Errors are ignored: the next engine then measures again.
    """
    if not curve.is_known:
        return
    path = _path(context)
    data = {"of": circumstances(context), "curve": curve.to_dict()}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as file:
            file.write(json.dumps(data, indent=1).encode())
        _forget_oldest(path.parent)


def _drop_older(context: Context) -> None:
    """Remove a curve in the format of an older release: it is measured again."""
    for number in range(1, _FORMAT):
        path = _path(context, number)
        if path.exists():
            _log.info("costs of passes in an older format are dropped and measured again: %s", path)
            with contextlib.suppress(OSError):
                path.unlink()


def _forget_oldest(folder: Path) -> None:
    known = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in known[_N_KEPT:]:
        path.unlink(missing_ok=True)


def _path(context: Context, number: int = _FORMAT) -> Path:
    what = json.dumps(circumstances(context) | {"format": number}, sort_keys=True)
    return _folder() / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.json"


def _folder() -> Path:
    return platformdirs.user_cache_path("pytreellama", appauthor=False) / "costs"


def _kernel_switches() -> dict[str, str]:
    """Environment variables by which llama.cpp chooses kernels or devices."""
    return {name: value for name, value in os.environ.items() if name.startswith(_SWITCHES)}


def circumstances(context: Context) -> dict[str, Any]:
    """Conditions that the cost of a pass depends on, as they are read back from JSON."""
    model, params = context.model, context.params
    file = model.file
    known = {
        "format": _FORMAT,
        "model": [str(file.real_path), file.n_bytes, file.mtime_ns],
        "build": build_info()["key"],
        "devices": [[device.name, device.description] for device in context.devices],
        "placement": asdict(model.placement),
        "switches": _kernel_switches(),
        "n_threads": context.n_threads,
        "cache": [params.type_k, params.type_v, params.flash_attention, params.offload_kv],
        "trees": [context.tree_encoding.name, context.draft_shape],
    }
    return dict(json.loads(json.dumps(known)))  # tuples are lists there
