"""Where a model comes from, as the command line takes it: a path, the Hub, or Ollama's store."""

from __future__ import annotations

from pathlib import Path

from pytreellama.model.default_model import default_model_path

HUB, OLLAMA = "hf:", "ollama:"


def source_path(source: str | None) -> Path:
    """Path of a model's file; downloads it if need be.

    Args:
        source: a path, "hf:owner/name" or "hf:owner/name:Q4_K_M" of the Hugging Face Hub,
            "ollama:name:tag" of Ollama's store; None for the default model.

    Raises:
        ModelLoadError: it cannot be found or downloaded.
    """
    if source is None:
        return default_model_path()
    if source.startswith(HUB):
        from pytreellama.model.hub import hub_model_path

        return hub_model_path(source.removeprefix(HUB))
    if source.startswith(OLLAMA):
        from pytreellama.model.ollama import ollama_model_path

        return ollama_model_path(source.removeprefix(OLLAMA))
    return Path(source).expanduser()
