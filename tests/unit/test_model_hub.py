"""Models of the Hugging Face Hub: which file is taken, and how without a network."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pytreellama.errors import ModelLoadError
from pytreellama.model import hub
from pytreellama.model.hub import choose_model, hub_model_path

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install '.[hub]'")

REPO = "owner/tiny-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = [
    "README.md",
    "imatrix.gguf",
    "mmproj-tiny-f16.gguf",
    "tiny-IQ2_M.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-Q8_0.gguf",
    "F16/tiny-F16-00002-of-00002.gguf",
    "F16/tiny-F16-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        (None, "tiny-Q4_K_M.gguf"),
        ("*q8_0.gguf", "tiny-Q8_0.gguf"),
        ("*Q8_0*", "tiny-Q8_0.gguf"),
        ("tiny-IQ2_M.gguf", "tiny-IQ2_M.gguf"),
        ("*f16*", "F16/tiny-F16-00001-of-00002.gguf"),
        ("F16/*", "F16/tiny-F16-00001-of-00002.gguf"),
        ("*-00002-of-00002.gguf", "F16/tiny-F16-00001-of-00002.gguf"),
    ],
)
def test_one_model_is_chosen(pattern: str | None, chosen: str) -> None:
    assert choose_model(NAMES, REPO, pattern)[0] == chosen


def test_all_parts_of_a_split_model_are_fetched() -> None:
    assert choose_model(NAMES, REPO, "*F16*") == [
        "F16/tiny-F16-00001-of-00002.gguf",
        "F16/tiny-F16-00002-of-00002.gguf",
    ]


def test_without_a_preferred_quantisation_the_first_is_taken() -> None:
    assert choose_model(["b-IQ3_M.gguf", "a-BF16.gguf"], REPO) == ["a-BF16.gguf"]


@pytest.mark.parametrize(
    ("names", "pattern", "said"),
    [
        (NAMES, "*Q5_K*", r"no GGUF model of owner/tiny-GGUF matches \*Q5_K\*; it holds .*tiny-Q8"),
        (NAMES, "tiny-*", "4 models of owner/tiny-GGUF match tiny-.*name one of them"),
        (["model.safetensors"], None, "holds no GGUF model"),
        (["mmproj-a.gguf"], None, "holds no GGUF model"),
        ([f"m-{i:02}.gguf" for i in range(30)], "*.gguf", "30 models .* and 18 more"),
    ],
)
def test_a_choice_that_is_none_says_what_there_is(
    names: list[str], pattern: str | None, said: str
) -> None:
    with pytest.raises(ModelLoadError, match=said):
        choose_model(names, REPO, pattern)


@pytest.mark.parametrize("repo", ["tiny", "a/b/c", "", "owner/", "owner/na me"])
def test_a_name_that_is_no_repository(repo: str) -> None:
    with pytest.raises(ModelLoadError, match="expected owner/name"):
        hub_model_path(repo)


def cached(folder: Path, *names: str) -> None:
    """The cache of ``huggingface_hub`` as a download leaves it."""
    repo = folder / "models--owner--tiny-GGUF"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs").mkdir()
    for i, name in enumerate(names):
        blob = repo / "blobs" / f"{i:064x}"
        blob.write_bytes(name.encode())
        link = repo / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.mark.parametrize(
    ("repo", "filename", "content"),
    [
        (REPO, None, b"tiny-Q4_K_M.gguf"),
        (f"{REPO}:q8_0", None, b"tiny-Q8_0.gguf"),
        (REPO, "*q8_0.gguf", b"tiny-Q8_0.gguf"),
        (REPO, "tiny-Q8_0.gguf", b"tiny-Q8_0.gguf"),
    ],
)
def test_a_cached_model_needs_no_network(
    tmp_path: Path, repo: str, filename: str | None, content: bytes
) -> None:
    cached(tmp_path, "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf")
    path = hub_model_path(repo, filename, cache_dir=tmp_path, local_files_only=True)
    assert path.read_bytes() == content


def test_a_model_that_is_not_cached_is_not_found_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot fetch owner/tiny-GGUF from .*check the name"):
        hub_model_path(REPO, cache_dir=tmp_path, local_files_only=True)


def test_retries_without_a_network_are_one_error_and_no_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")

    def unreachable(*arguments: object) -> list[str]:
        logger.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub, "_files", unreachable)
    with pytest.raises(ModelLoadError, match="Name or service not known; check the name and the"):
        hub_model_path(REPO)
    assert "Retrying" not in capfd.readouterr().err
    assert logging.getLogger("huggingface_hub").getEffectiveLevel() <= logging.WARNING
