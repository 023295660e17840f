"""The tiny models that other tests stand on: what their files hold, read back with gguf alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, TokenType
from gguf.quants import dequantize

from tiny_models import (
    ARCHITECTURES,
    BOS,
    BRANCHING_KINDS,
    DTYPES,
    EOS,
    IM_END,
    IM_START,
    KINDS,
    N_VOCAB_MIN,
    tiny_model,
    write_tiny_model,
)

N_TENSORS = {
    "rope": 21,
    "rope_mha": 21,
    "neox": 25,
    "learned": 29,
    "alibi": 28,
    "swa": 29,
    "moe": 23,
    "recurrent": 23,
    "hybrid": 29,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def field(reader: GGUFReader, name: str) -> Any:
    named = reader.get_field("general.architecture")
    assert named is not None
    arch = named.contents()
    found = reader.get_field(name.format(arch=arch))
    assert found is not None, f"{name} is missing"
    return found.contents()


def tensors(reader: GGUFReader) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_file_reads_back_as_its_architecture_with_every_tensor(kind: str, directory: Path) -> None:
    path = tiny_model(kind, directory)
    reader = GGUFReader(path)
    weights = tensors(reader)
    assert field(reader, "general.architecture") == ARCHITECTURES[kind]
    assert field(reader, "{arch}.block_count") == 2
    assert len(reader.tensors) == N_TENSORS[kind]
    assert weights["token_embd.weight"].shape == weights["output.weight"].shape == (320, 64)
    assert all(np.isfinite(values).all() for values in weights.values())
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(
    kind: str, tmp_path: Path
) -> None:
    first, again, other = (
        write_tiny_model(tmp_path / f"{name}.gguf", kind, seed=seed).read_bytes()
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert first == again
    assert len(first) == len(other)
    assert first != other


def test_kinds_draw_different_weights_from_one_seed(directory: Path) -> None:
    embeddings = {
        kind: tensors(GGUFReader(tiny_model(kind, directory)))["token_embd.weight"]
        for kind in KINDS
    }
    assert len({values.tobytes() for values in embeddings.values()}) == len(KINDS)


def test_more_layers_leave_the_first_ones_alone(directory: Path) -> None:
    short = tensors(GGUFReader(tiny_model("rope", directory)))
    tall = tensors(GGUFReader(tiny_model("rope", directory, n_layer=3)))
    assert tall.keys() > short.keys()
    assert all(np.array_equal(values, tall[name]) for name, values in short.items())


def test_head_counts_are_those_of_the_kind(directory: Path) -> None:
    def heads(kind: str) -> tuple[object, object]:
        reader = GGUFReader(tiny_model(kind, directory))
        names = ("{arch}.attention.head_count", "{arch}.attention.head_count_kv")
        head_count, head_count_kv = (field(reader, name) for name in names)
        return head_count, head_count_kv

    assert heads("rope") == heads("neox") == heads("swa") == heads("moe") == (4, 2)
    assert heads("rope_mha") == (4, 4)
    assert heads("learned") == heads("alibi") == (2, 2)
    assert heads("hybrid") == (2, [0, 2])


def test_sliding_window_alternates_with_full_attention(directory: Path) -> None:
    reader = GGUFReader(tiny_model("swa", directory, n_layer=4, n_swa=12))
    assert field(reader, "{arch}.attention.sliding_window") == 12
    assert field(reader, "{arch}.attention.sliding_window_pattern") == [True, False, True, False]


def test_only_models_with_recurrent_layers_cannot_branch(directory: Path) -> None:
    recurrent = {
        kind
        for kind in KINDS
        if any("ssm" in tensor.name for tensor in GGUFReader(tiny_model(kind, directory)).tensors)
    }
    assert set(KINDS) - set(BRANCHING_KINDS) == recurrent == {"recurrent", "hybrid"}


@pytest.mark.parametrize("n_vocab", [N_VOCAB_MIN, 320, 5000])
def test_vocabulary_is_complete_and_without_repetition(n_vocab: int, directory: Path) -> None:
    reader = GGUFReader(tiny_model("rope", directory, n_vocab=n_vocab))
    tokens = field(reader, "tokenizer.ggml.tokens")
    types = np.asarray(field(reader, "tokenizer.ggml.token_type"))
    assert len(tokens) == len(set(tokens)) == len(types) == n_vocab
    assert len(field(reader, "tokenizer.ggml.scores")) == n_vocab
    assert [tokens[i] for i in (BOS, EOS, IM_START, IM_END)] == [
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert [tokens[i] for i in np.flatnonzero(types == TokenType.BYTE)] == [
        f"<0x{byte:02X}>" for byte in range(256)
    ]
    assert field(reader, "tokenizer.ggml.eos_token_id") == EOS
    assert field(reader, "tokenizer.ggml.eot_token_id") == IM_END
    assert "<|im_start|>" in field(reader, "tokenizer.chat_template")


def test_every_piece_is_merged_from_two_others_with_a_score_that_falls(directory: Path) -> None:
    reader = GGUFReader(tiny_model("rope", directory, n_vocab=5000))
    pieces = field(reader, "tokenizer.ggml.tokens")[IM_END + 1 :]
    scores = field(reader, "tokenizer.ggml.scores")[IM_END + 1 :]
    known = set(pieces)
    merged = [i for i, piece in enumerate(pieces) if len(piece) > 1]
    for i in merged:
        piece = pieces[i]
        assert any(piece[:k] in known and piece[k:] in known for k in range(1, len(piece))), piece
    assert (np.diff([scores[i] for i in merged]) < 0).all()
    assert max(s for s, p in zip(scores, pieces, strict=True) if len(p) == 1) < scores[merged[-1]]


def test_control_tokens_are_predicted_only_on_request(directory: Path) -> None:
    silent = tensors(GGUFReader(tiny_model("rope", directory)))["output.weight"]
    ending = tensors(GGUFReader(tiny_model("rope", directory, stops=True)))["output.weight"]
    control = [0, BOS, EOS, IM_START, IM_END]
    assert not silent[control].any()
    assert ending[control].any(axis=1).all()
    others = np.delete(np.arange(len(silent)), control)
    assert np.array_equal(silent[others], ending[others])


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_have_the_type_asked_for_and_vectors_stay_f32(dtype: str, directory: Path) -> None:
    reader = GGUFReader(tiny_model("hybrid", directory, dtype=dtype, n_embd=256))
    types = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    exact = tensors(GGUFReader(tiny_model("hybrid", directory, n_embd=256)))["blk.0.ssm_in.weight"]
    rounded = tensors(reader)["blk.0.ssm_in.weight"]
    assert types["blk.0.ssm_in.weight"] == types["output.weight"] == DTYPES[dtype][0]
    assert types["blk.0.attn_norm.weight"] == types["blk.0.ssm_a"] == GGMLQuantizationType.F32
    assert np.abs(exact - rounded).max() < 0.15 * np.abs(exact).max()
    assert (dtype == "f32") == np.array_equal(exact, rounded)


def test_tiny_model_writes_once_and_keeps_options_apart(tmp_path: Path) -> None:
    path = tiny_model("rope", tmp_path)
    before = path.stat().st_mtime_ns
    assert tiny_model("rope", tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert tiny_model("rope", tmp_path, seed=1) != path
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".gguf", ".gguf"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("transformer", {}, "not one of rope"),
        ("rope", {"dtype": "q3"}, "not one of f32"),
        ("rope", {"n_vocab": 100}, "leaves no room"),
        ("rope", {"n_head": 4, "n_head_kv": 3}, "cannot share"),
        ("learned", {"n_head": 3}, "does not divide"),
    ],
)
def test_impossible_sizes_are_refused(
    kind: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_tiny_model(tmp_path / "model.gguf", kind, **options)
    assert not list(tmp_path.iterdir())
