"""A text's logits are the same bits alone and beside others, wherever a context promises it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny_architectures
from alone import run_alone
from beside_others import LAYOUTS
from exactness import needs_exact
from tiny_architectures import sparse
from tiny_models import tiny_model

PRINT_CHANGES = "import sys, beside_others as b; b.print_changes(*sys.argv[1:3], sys.argv[3:])"
SAVE_ROWS = "import sys, beside_others as b; b.save_rows(*sys.argv[1:])"

DECODERS = [name for name, kind in tiny_architectures.KINDS.items() if kind.memory != "none"]
SPARSE = list(sparse.KINDS)
BLOCKS = ["qwen4exp", "qwen4exp-ple"]
POOLED = [*BLOCKS, "glm5-next"]
"""An indexer among recurrent layers, which pools cells: of those that sequences share, others."""

N_TEXTS = [40, 600]

Lines = list[dict[str, Any]]


def changes_of(kinds: Sequence[str], directory: Path) -> Lines:
    """A line for each kind and length of text, measured in processes of their own."""
    outcome = run_alone(PRINT_CHANGES, str(directory), json.dumps(N_TEXTS), *kinds, limit_s=300)
    assert outcome.code == 0, str(outcome)
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    done = [(line["kind"], line["n_text"]) for line in lines]
    assert done == [(kind, n) for kind in kinds for n in N_TEXTS], str(outcome)
    return lines


def broken_promises(lines: Lines) -> dict[str, dict[str, float]]:
    """The changes of logits where all contexts promised that there would be none."""
    found = {}
    for line in lines:
        changed = {name: change for name, change in line["changes"].items() if change != 0}
        if all(line["promises"]) and changed:
            found[f"{line['kind']}, {line['n_text']} tokens"] = changed
    return found


@pytest.fixture(scope="module")
def sparse_changes(model_directory: Path) -> Lines:
    return changes_of(SPARSE + POOLED, model_directory)


@needs_exact
def test_sparse_attention_chooses_the_same_cells_beside_others(sparse_changes: Lines) -> None:
    lines = [line for line in sparse_changes if line["kind"] in SPARSE]
    assert all(all(line["promises"]) for line in lines)
    assert broken_promises(lines) == {}


def test_every_layout_was_measured_with_steps_and_a_tree(sparse_changes: Lines) -> None:
    expected = {name + end for name in LAYOUTS for end in ("", ", a tree")}
    assert all(line["changes"].keys() == expected for line in sparse_changes)


@needs_exact
def test_blocks_of_cells_are_chosen_alike_where_no_cells_are_shared(sparse_changes: Lines) -> None:
    lines = [line for line in sparse_changes if line["kind"] in BLOCKS]
    assert {max(line["changes"].values()) for line in lines} == {0}


def test_pools_of_cells_promise_nothing_and_share_no_prefix(sparse_changes: Lines) -> None:
    lines = [line for line in sparse_changes if line["kind"] in POOLED]
    assert len(lines) == len(POOLED) * len(N_TEXTS)
    assert not any(any(line["promises"]) for line in lines)
    assert {tuple(line["sharing"]) for line in lines} == {("none",)}


@needs_exact
@pytest.mark.slow
def test_no_kind_of_model_breaks_its_promise_beside_others(model_directory: Path) -> None:
    others = [kind for kind in DECODERS if kind not in SPARSE + POOLED]
    lines = changes_of(others, model_directory)
    assert broken_promises(lines) == {}
    promising = {line["kind"] for line in lines if all(line["promises"])}
    assert set(others) - promising == {"deepseek4", "grok", "minimax-01"}


@pytest.mark.parametrize(("kind", "n_text"), [("minimax-m3", 600), ("deepseek32", 25)])
def test_logits_are_those_of_stock_s_sparse_attention(
    kind: str, n_text: int, model_directory: Path, tmp_path: Path
) -> None:
    """Blocks are chosen as stock does for one sequence; 25 cells are fewer than an indexer has."""
    rows: list[NDArray[np.float32]] = []
    for disabled in ("0", "1"):
        out = str(tmp_path / f"{disabled}.npy")
        path = str(tiny_model(kind, model_directory))
        environment = {"LLAMA_KQ_ORDER_DISABLE": disabled}
        outcome = run_alone(SAVE_ROWS, path, out, str(n_text), environment=environment)
        assert outcome.code == 0, str(outcome)
        rows.append(np.load(out))
    assert np.abs(rows[0] - rows[1]).max() < 0.1
    assert rows[0].std() > 1
