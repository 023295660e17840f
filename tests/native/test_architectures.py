"""Tiny models of every architecture family: they load, decode, and depend on their history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

import tiny_architectures
from alone import run_alone
from architecture_facts import DISTANCES, N_LONG, N_SHORT

KINDS = tuple(tiny_architectures.KINDS)
DECODERS = tuple(name for name, kind in tiny_architectures.KINDS.items() if kind.memory != "none")
REFUSED = tuple(name for name in KINDS if name not in DECODERS)
"""Encoders, whose logits are all zero, and decoders whose graph fails or ends the process."""
WITHOUT_STATE = tuple(name for name in DECODERS if tiny_architectures.KINDS[name].memory == "kv")
HYBRIDS = tuple(
    name
    for name in DECODERS
    if tiny_architectures.KINDS[name].memory == "hybrid"
    and name != "deepseek4"  # whose states are compressed cells
)

QUANTISED: dict[str, dict[str, int]] = {
    "q8_0": {},
    "q4_k": {"n_embd": 256, "n_head": 8, "n_ff": 256},
}
"""Types of weights, and sizes whose rows divide into their blocks."""

PRINT_FACTS = "import sys, architecture_facts as f; f.print_facts(*sys.argv[1:4], sys.argv[4:])"

N_TEXTS = (N_SHORT, N_LONG)

Facts = dict[str, dict[str, Any]]


def facts_of(
    kinds: Sequence[str], directory: str, n_texts: Sequence[int], **options: int | str
) -> Facts:
    """What a process found out about each kind, in children of its own."""
    arguments = directory, json.dumps(options), json.dumps(n_texts)
    outcome = run_alone(PRINT_FACTS, *arguments, *kinds, limit_s=300)
    assert outcome.code == 0, str(outcome)
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    return {line.pop("kind"): line for line in lines}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    directory = tmp_path_factory.mktemp("architectures")
    return facts_of(KINDS, str(directory), N_TEXTS)


@pytest.mark.parametrize("kind", DECODERS)
def test_model_loads_with_the_memory_of_its_architecture(kind: str, facts: Facts) -> None:
    expected = tiny_architectures.KINDS[kind]
    found = facts[kind]
    assert found.get("error") is None
    assert found["architecture"] == expected.arch
    assert found["memory"] == expected.memory


@pytest.mark.parametrize("kind", WITHOUT_STATE)
def test_a_model_with_a_kv_cache_alone_can_branch(kind: str, facts: Facts) -> None:
    assert facts[kind]["can_branch"]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("n_text", N_TEXTS)
def test_logits_are_finite_and_spread(kind: str, n_text: int, facts: Facts) -> None:
    found = facts[kind]["texts"][str(n_text)]
    assert found["is_finite"]
    assert 1 < found["spread"] < 10


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_another_token_in_sight_changes_logits_by_far_more_than_roundings(
    kind: str, distance: int, facts: Facts
) -> None:
    change = facts[kind]["texts"][str(N_SHORT)]["changes"][str(distance)]
    if kind == "lfm2-swa" and distance == max(DISTANCES):
        assert change == 0  # its windows of 8 cells and convolutions over 3 tokens reach no further
    else:
        assert change > 0.2


@pytest.mark.parametrize("kind", [name for name in DECODERS if name not in WITHOUT_STATE])
def test_a_recurrent_state_is_not_full_after_600_tokens(kind: str, facts: Facts) -> None:
    assert facts[kind]["texts"][str(N_LONG)]["changes"]["1"] > 0.2


@pytest.mark.parametrize("kind", HYBRIDS)
def test_the_state_of_a_hybrid_alone_carries_history(kind: str, facts: Facts) -> None:
    assert facts[kind]["state_change"] > 0.2


@pytest.mark.parametrize("dtype", QUANTISED)
def test_quantised_models_depend_on_the_token_before(
    dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = str(tmp_path_factory.mktemp(dtype))
    found = facts_of(DECODERS, directory, N_TEXTS[:1], dtype=dtype, **QUANTISED[dtype])
    assert found.keys() == set(DECODERS)
    changes = {kind: facts["texts"][str(N_SHORT)]["changes"]["1"] for kind, facts in found.items()}
    assert {kind: change for kind, change in changes.items() if not 0.1 < change < 100} == {}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_generates_no_text_is_refused_before_llama_cpp_runs_it(
    kind: str, facts: Facts
) -> None:
    error = facts[kind].get("error", "")
    assert error.startswith("ContextError")
    assert "own check failed" not in error
