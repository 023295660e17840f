"""Tiny models of every architecture family: they load, decode, and hang on their history."""

from __future__ import annotations

import json
from typing import Any

import pytest

import architecture_facts
import tiny_architectures
from alone import run_alone

KINDS = tuple(tiny_architectures.KINDS)
DECODERS = tuple(name for name, kind in tiny_architectures.KINDS.items() if kind.memory != "none")
REFUSED = tuple(name for name in KINDS if name not in DECODERS)
ACCEPTED_TODAY = tuple(name for name in REFUSED if name != "eagle3")
"""Encoders, whose logits are all zero, and decoders whose graph fails or ends the process."""

RUN_FACTS = "import sys, architecture_facts; architecture_facts.main(sys.argv[1], sys.argv[2:])"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process found out about each kind, in children of its own."""
    directory = tmp_path_factory.mktemp("architectures")
    outcome = run_alone(RUN_FACTS, str(directory), *KINDS, limit_s=300)
    assert outcome.code == 0, str(outcome)
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    return {line.pop("kind"): line for line in lines}


@pytest.mark.parametrize("kind", DECODERS)
def test_model_loads_with_the_memory_of_its_architecture(
    kind: str, facts: dict[str, dict[str, Any]]
) -> None:
    expected = tiny_architectures.KINDS[kind]
    found = facts[kind]
    assert found.get("error") is None
    assert found["architecture"] == expected.arch
    assert found["memory"] == expected.memory


@pytest.mark.parametrize("kind", DECODERS)
def test_a_model_with_a_kv_cache_alone_can_branch(
    kind: str, facts: dict[str, dict[str, Any]]
) -> None:
    if tiny_architectures.KINDS[kind].memory == "kv":
        assert facts[kind]["can_branch"]


@pytest.mark.parametrize("kind", DECODERS)
def test_logits_are_finite_spread_and_the_same_again(
    kind: str, facts: dict[str, dict[str, Any]]
) -> None:
    found = facts[kind]
    assert found["is_finite"]
    assert 1 < found["spread"] < 10
    assert found["repeats"]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("distance", architecture_facts.DISTANCES)
def test_another_token_in_sight_changes_logits_by_far_more_than_roundings(
    kind: str, distance: int, facts: dict[str, dict[str, Any]]
) -> None:
    change = facts[kind]["changes"][str(distance)]
    if kind == "lfm2-swa" and distance == max(architecture_facts.DISTANCES):
        assert change == 0  # its windows of 8 cells and convolutions over 3 tokens reach no further
    else:
        assert change > 0.2


def _refused(kind: str) -> object:
    reason = "contexts of encoders, chameleon and plm are not refused yet"
    marks = [pytest.mark.xfail(strict=True, reason=reason)] if kind in ACCEPTED_TODAY else []
    return pytest.param(kind, marks=marks)


@pytest.mark.parametrize("kind", map(_refused, REFUSED))
def test_a_model_that_generates_no_text_is_refused_before_llama_cpp_runs_it(
    kind: str, facts: dict[str, dict[str, Any]]
) -> None:
    error = facts[kind].get("error", "")
    assert error.startswith("ContextError")
    assert "own check failed" not in error
