"""Tiny models of architecture families: what their files hold, read back with gguf alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from tiny_architectures import KINDS
from tiny_architectures.parts import attends
from tiny_models import ARCHITECTURES, tiny_model, write_tiny_model

HYBRIDS = [name for name, kind in KINDS.items() if kind.memory == "hybrid"]
BETWEEN = [name for name in HYBRIDS if name not in ("deepseek4", "falcon-h1")]
"""Hybrids of which some layers do not attend."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


def tensors(path: Path) -> dict[str, np.ndarray]:
    """All weights; indices are none."""
    found = [t for t in GGUFReader(path).tensors if t.tensor_type != GGMLQuantizationType.I64]
    return {t.name: dequantize(t.data, t.tensor_type) for t in found}


def layers(names: dict[str, np.ndarray], part: str) -> set[int]:
    """The layers that have a tensor of this name."""
    found = (name.split(".") for name in names if name.startswith("blk."))
    return {int(layer) for _, layer, *rest in found if ".".join(rest).startswith(part)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_of_its_architecture_and_finite(kind: str, directory: Path) -> None:
    path = tiny_model(kind, directory)
    field = GGUFReader(path).get_field
    arch, n_block = field("general.architecture"), field(f"{KINDS[kind].arch}.block_count")
    assert arch is not None and arch.contents() == KINDS[kind].arch
    assert n_block is not None and n_block.contents() == KINDS[kind].n_layer + KINDS[kind].n_mtp
    assert all(np.isfinite(values).all() for values in tensors(path).values())
    assert path.stat().st_size < 6_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_equal_arguments_give_equal_bytes(kind: str, tmp_path: Path) -> None:
    first, again = (write_tiny_model(tmp_path / name, kind) for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].n_mtp])
def test_the_block_that_predicts_several_tokens_comes_after_all_others(
    kind: str, directory: Path
) -> None:
    assert layers(tensors(tiny_model(kind, directory)), "nextn.eh_proj") == {
        KINDS[kind].n_layer + i for i in range(KINDS[kind].n_mtp)
    }


@pytest.mark.parametrize("kind", BETWEEN)
def test_a_hybrid_has_recurrent_layers_around_one_that_attends(kind: str, directory: Path) -> None:
    names = tensors(tiny_model(kind, directory))
    recurrent = layers(names, "ssm_") | layers(names, "shortconv.") | layers(names, "attn_norm_2")
    assert {0, KINDS[kind].n_layer - 1} <= recurrent
    assert not any(attends(layer) for layer in recurrent)


def test_no_kind_has_the_name_of_a_basic_one() -> None:
    assert not KINDS.keys() & ARCHITECTURES.keys()
