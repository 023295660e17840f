"""Models that Ollama has pulled, found in a store of its layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytreellama.errors import ModelLoadError
from pytreellama.model.ollama import ollama_model_path

DIGEST = "sha256:" + "0a" * 32


def pulled(store: Path, *where: str, digest: str = DIGEST) -> Path:
    """A manifest as Ollama writes it, and the blob that it names."""
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "1b" * 32},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 4},
    ]
    manifest = store.joinpath("manifests", *where)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    blob = store / "blobs" / digest.replace(":", "-")
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"GGUF")
    return blob


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("llama3.2", ("registry.ollama.ai", "library", "llama3.2", "latest")),
        ("llama3.2:1b", ("registry.ollama.ai", "library", "llama3.2", "1b")),
        ("me/own:q8", ("registry.ollama.ai", "me", "own", "q8")),
        ("hf.co/me/own:Q4_K_M", ("hf.co", "me", "own", "Q4_K_M")),
        ("localhost:5000/me/own", ("localhost:5000", "me", "own", "latest")),
    ],
)
def test_a_name_is_read_as_ollama_reads_it(
    tmp_path: Path, name: str, where: tuple[str, ...]
) -> None:
    blob = pulled(tmp_path, *where)
    assert ollama_model_path(name, store=tmp_path) == blob


def test_the_store_is_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = pulled(tmp_path, "registry.ollama.ai", "library", "tiny", "latest")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert ollama_model_path("tiny") == blob


def test_the_store_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / ".ollama" / "models"
    blob = pulled(store, "registry.ollama.ai", "library", "tiny", "latest")
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ollama_model_path("tiny") == blob


def test_a_model_that_was_not_pulled_is_answered_with_those_that_were(tmp_path: Path) -> None:
    pulled(tmp_path, "registry.ollama.ai", "library", "tiny", "1b")
    pulled(tmp_path, "hf.co", "me", "own", "Q8_0")
    said = r"has no model other; it has hf.co/me/own:Q8_0, tiny:1b: run `ollama pull other`"
    with pytest.raises(ModelLoadError, match=said):
        ollama_model_path("other", store=tmp_path)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no store of Ollama in .*OLLAMA_MODELS"):
        ollama_model_path("tiny", store=tmp_path / "none")


@pytest.mark.parametrize(
    "name", ["", "a/b/c/d", "../../etc:passwd", "a/../b", "tiny:..", "tiny:", "a\\b", "a\0b", "/a"]
)
def test_a_name_cannot_lead_out_of_the_store(tmp_path: Path, name: str) -> None:
    pulled(tmp_path, "registry.ollama.ai", "library", "tiny", "latest")
    with pytest.raises(ModelLoadError, match="invalid name="):
        ollama_model_path(name, store=tmp_path)


@pytest.mark.parametrize("digest", ["sha256:../../secret", "md5:00", "sha256:" + "0A" * 32, ""])
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path, digest: str) -> None:
    (tmp_path / "blobs").mkdir()
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest}]
    manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"layers": layers}))
    with pytest.raises(ModelLoadError, match="which is no SHA-256"):
        ollama_model_path("tiny", store=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layers": []}', '{"layers": [5]}', "null"])
def test_a_manifest_of_something_else(tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(content)
    with pytest.raises(ModelLoadError, match="is no manifest of a GGUF model"):
        ollama_model_path("tiny", store=tmp_path)


def test_a_blob_that_is_gone(tmp_path: Path) -> None:
    pulled(tmp_path, "registry.ollama.ai", "library", "tiny", "latest").unlink()
    with pytest.raises(ModelLoadError, match="is missing; run `ollama pull tiny` again"):
        ollama_model_path("tiny", store=tmp_path)
