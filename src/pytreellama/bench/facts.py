"""Facts of a build, a machine and a model: as an object for JSON, and as lines for people."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytreellama import __version__
from pytreellama.units import gibibytes

if TYPE_CHECKING:
    from pytreellama.model.model import Model

Report = dict[str, Any]


def python_facts() -> Report:
    """What is known without the native part."""
    return {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
    }


def native_facts() -> Report:
    """The build, the devices that it sees, and the machine as it is now."""
    from pytreellama import system

    return {
        "build": system.build_info(),
        "llama_cpp": system.llama_version(),
        "cpu_features": list(system.cpu_features()),
        "devices": [asdict(device) for device in system.devices()],
        "machine": system.machine_facts(),
    }


def model_dict(model: Model) -> dict[str, Any]:
    """What identifies a model, for JSON."""
    return {
        "path": str(model.path),
        "name": model.name,
        "description": model.description,
        "architecture": model.architecture,
        "file_type": model.file_type,
        "n_params": model.n_params,
        "size": model.size,
    }


def model_facts(model: Model) -> Report:
    """What a model is."""
    from pytreellama.draft.medusa import find_heads

    heads = find_heads(model)
    return model_dict(model) | {
        "devices": [device.name for device in model.devices],
        "is_on_gpu": is_on_gpu(model),
        "n_ctx_train": model.n_ctx_train,
        "n_layer": model.n_layer,
        "n_embd": model.n_embd,
        "n_head": model.n_head,
        "n_head_kv": model.n_head_kv,
        "n_swa": model.n_swa,
        "n_vocab": model.vocab.n_tokens,
        "has_chat_template": model.chat_template is not None,
        "can_generate": model.can_generate,
        "can_branch": model.can_branch,
        "draft_shape": "trees" if model.can_branch else None,  # known once a context is made
        "node_bytes": 0,
        "medusa_heads": None if heads is None else str(heads),
    }


def is_on_gpu(model: Model) -> bool:
    """True if GPUs compute every layer; the CPU may still look up embeddings."""
    placed = model.placement
    is_split = placed.n_cpu_moe > 0 or any(buffer == "CPU" for _, buffer in placed.tensor_overrides)
    return bool(model.devices) and not is_split and not 0 <= placed.n_gpu_layers <= model.n_layer


def build_lines(report: Report) -> Report:
    """What was built, a fact a line."""
    lines = {
        "pytreellama": f"{report['version']}, Python {report['python']}",
        "platform": report["platform"],
    }
    build = report["build"]
    if build is None:
        return lines | {"native part": "cannot be loaded"}
    flags = " ".join(build.get("cmake_args", [])) or "none"
    return lines | {
        "llama.cpp": f"{build.get('commit')} (version {report.get('llama_cpp', 'unknown')}), "
        f"from {build.get('source')}",
        "patches": "\n".join(build.get("patches", [])) or "none",
        "backends": ", ".join(build.get("backends", [])),
        "CMake flags": flags,
        "compiler": build.get("cxx_compiler"),
        "toolkit": build.get("toolkit") or "none",
        "made for this CPU": "yes" if build.get("native_cpu") else "no, for any of its kind",
    }


def machine_lines(report: Report) -> Report:
    """This machine, a fact a line."""
    machine = report["machine"]
    quota = "" if machine["cpu_quota"] is None else f", limited to {machine['cpu_quota']:g}"
    load = "" if machine["load"] is None else f", load {machine['load']:.1f}"
    cores = f"{machine['n_cores']} physical, {machine['n_logical_cores']} logical"
    return {
        "cores": f"{cores}{quota}{load}",
        "memory": f"{gibibytes(machine['memory_available'])} available of "
        f"{gibibytes(machine['memory'])}",
        "devices": "\n".join(map(_device_line, report["devices"])),
        "CPU features": " ".join(report["cpu_features"]),
    }


def _device_line(device: Report) -> str:
    if device["kind"] == "cpu" or not device["total"]:
        return f"{device['name']}: {device['description']}"
    free = f"{gibibytes(device['free'])} free of {gibibytes(device['total'])}"
    return f"{device['name']}: {device['description']}, {free}"


def file_lines(files: list[Report]) -> Report:
    """The files whose hashes were compared, a file a line."""
    return {file["path"]: "differs" if file["problem"] else "as expected" for file in files}


def model_lines(model: Report) -> Report:
    """This model, a fact a line; ``weight_buffers`` among the facts tell where weights are."""
    buffers = (f"{name} {size:.0f} MiB" for name, size in model["weight_buffers"].items())
    window = f", sliding window {model['n_swa']}" if model["n_swa"] else ""
    return {
        "file": model["path"],
        "name": model["name"],
        "architecture": model["architecture"],
        "type": model["file_type"],
        "size": f"{gibibytes(model['size'])}, {model['n_params'] / 1e6:.0f} million weights",
        "weights are in": ", ".join(buffers) or "unknown",
        "computed on": ", ".join([*model["devices"], *([] if model["is_on_gpu"] else ["CPU"])]),
        "layers": f"{model['n_layer']}, width {model['n_embd']}, {model['n_head']} heads, "
        f"{model['n_head_kv']} for keys and values{window}",
        "trained for": f"{model['n_ctx_train']} tokens of context",
        "vocabulary": f"{model['n_vocab']} tokens",
        "chat template": "yes" if model["has_chat_template"] else "no",
        "drafts": _drafts(model["draft_shape"], model["node_bytes"]),
        "Medusa heads": model["medusa_heads"] or "none; see pytreellama medusa train",
    }


def _drafts(shape: str | None, node_bytes: int) -> str:
    """What is drafted for a model, in words."""
    state = f", {node_bytes / 1024:.0f} KiB of state a node" if node_bytes else ""
    drafts = {"plain": "nothing: its recurrent state cannot be rolled back", None: "not measured"}
    return drafts.get(shape, f"{shape}{state}")
