"""Models of the Hub's cache and of Ollama's store are loaded as any file is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytreellama import Engine, Model
from pytreellama.errors import ModelLoadError

PathOf = Callable[..., Path]

REPO, COMMIT = "owner/tiny-GGUF", "0123456789abcdef0123456789abcdef01234567"


def hub_cache(folder: Path, model: Path) -> None:
    repo = folder / "models--owner--tiny-GGUF"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copy(model, snapshot / "tiny-Q4_K_M.gguf")


def ollama_store(folder: Path, model: Path) -> None:
    digest = "0a" * 32
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"layers": [layer]}))
    (folder / "blobs").mkdir()
    shutil.copy(model, folder / "blobs" / f"sha256-{digest}")


def test_a_cached_repository(
    tmp_path: Path, tiny_model_path: PathOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install '.[hub]'")
    hub_cache(tmp_path, tiny_model_path("rope"))
    options = {"cache_dir": tmp_path, "local_files_only": True}
    with Model.from_pretrained(REPO, hub_options=options) as model:
        assert model.path.name == "tiny-Q4_K_M.gguf"


def test_a_pulled_model(
    tmp_path: Path, tiny_model_path: PathOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama_store(tmp_path, tiny_model_path("rope"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    with Model.from_ollama("tiny") as model, Engine(model, n_ctx=256) as engine:
        assert engine.generate([5, 6], max_tokens=2).tokens


def test_a_damaged_blob(tmp_path: Path, tiny_model_path: PathOf) -> None:
    ollama_store(tmp_path, tiny_model_path("rope"))
    blob = next((tmp_path / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:999])
    with pytest.raises(ModelLoadError, match="damaged or incomplete"):
        Model.from_ollama("tiny", store=tmp_path)


def test_the_home_folder(
    tmp_path: Path, tiny_model_path: PathOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tiny_model_path("rope"), tmp_path / "tiny.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Model("~/tiny.gguf") as model:
        assert model.path == tmp_path / "tiny.gguf"
