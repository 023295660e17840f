"""The registry of drafters and what every drafter promises."""

from __future__ import annotations

import numpy as np
import pytest

from pytreellama.draft import (
    DRAFTERS,
    Drafter,
    NoDrafter,
    Suffix,
    SuffixDrafter,
    drafter_factory,
    make_drafter,
)
from pytreellama.errors import DraftError

REPEATED = [5, 6, 7, 8, 9] * 6

# these belong to a model: test_medusa_drafter.py, test_carried_drafters.py
WITHOUT_TARGET = sorted(set(DRAFTERS) - {"medusa", "mtp", "eagle3"})


@pytest.mark.parametrize("name", WITHOUT_TARGET)
def test_every_registered_name_makes_a_drafter_of_its_own(name: str) -> None:
    first, second = make_drafter(name), make_drafter(name)
    assert isinstance(first, Drafter)
    assert first is not second
    first.observe(REPEATED)
    assert len(second.propose(8)) == 0


@pytest.mark.parametrize("name", WITHOUT_TARGET)
def test_a_drafter_that_heard_nothing_proposes_an_empty_tree(name: str) -> None:
    drafter = make_drafter(name)
    assert len(drafter.propose(8)) == 0
    drafter.observe([])
    assert len(drafter.propose(8)) == 0


@pytest.mark.parametrize("name", WITHOUT_TARGET)
def test_proposing_changes_nothing(name: str) -> None:
    drafter = make_drafter(name)
    drafter.observe(REPEATED)
    first, second = drafter.propose(12), drafter.propose(12)
    assert first.tokens.tolist() == second.tokens.tolist()
    assert first.parents.tolist() == second.parents.tolist()


def test_none_stays_silent_where_suffix_and_auto_speak() -> None:
    proposed = {}
    for name in ("none", "suffix", "auto"):
        drafter = make_drafter(name)
        drafter.observe(REPEATED)
        proposed[name] = drafter.propose(4).tokens.tolist()
    assert proposed == {"none": [], "suffix": [5, 6, 7, 8], "auto": [5, 6, 7, 8]}


def test_auto_proposes_the_likeliest_guesses_where_nobody_plans() -> None:
    forked = [1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2, 6, 1, 2]
    auto = make_drafter("auto")
    auto.observe(forked)
    large, small = auto.propose(8), auto.propose(2)
    assert large.p is not None and small.p is not None
    assert len(large) > len(small) == 2
    assert sorted(large.p.tolist())[-2:] == sorted(small.p.tolist())


def test_an_unknown_name_lists_the_known_ones() -> None:
    names = ", ".join(sorted(DRAFTERS))
    with pytest.raises(DraftError, match=rf"'sufix'.*{names}.*Suffix\("):
        make_drafter("sufix")


def test_names_may_be_joined() -> None:
    drafter = make_drafter("suffix+recycling")
    assert drafter.name == "merge"
    drafter.observe(REPEATED)
    assert drafter.propose(4).tokens.tolist() == [5, 6, 7, 8]
    with pytest.raises(DraftError, match="'sufix'"):
        make_drafter(["suffix", "sufix"])


def test_a_factory_with_options_makes_a_drafter_for_each_sequence() -> None:
    factory = drafter_factory(Suffix(max_match=7, min_p=0.3))
    first, second = factory(), factory()
    assert first is not second
    assert isinstance(first, SuffixDrafter)
    assert (first.options.max_match, first.options.min_p) == (7, 0.3)


def test_a_drafter_class_is_a_factory() -> None:
    assert isinstance(make_drafter(NoDrafter), NoDrafter)


def test_a_single_drafter_is_refused_because_sequences_would_share_it() -> None:
    with pytest.raises(DraftError, match="drafts for one sequence"):
        make_drafter(SuffixDrafter())  # type: ignore[arg-type]


def test_what_is_neither_name_nor_factory_is_refused() -> None:
    with pytest.raises(DraftError, match="invalid drafter=3"):
        make_drafter(3)  # type: ignore[arg-type]


def test_a_factory_that_makes_no_drafter_is_named() -> None:
    with pytest.raises(DraftError, match="lacks name"):
        make_drafter(lambda: object())  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("name", WITHOUT_TARGET)
@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        ([1, -1], "from -1 to 1"),
        ([2**31], "between 0 and 2147483647"),
        ([1.5], "all integers"),
        (np.zeros((2, 2), np.int32), r"shape \(2, 2\)"),
        (np.zeros(2, np.float32), "float32"),
    ],
)
def test_what_is_no_token_id_is_refused(name: str, tokens: object, complaint: str) -> None:
    with pytest.raises(DraftError, match=complaint):
        make_drafter(name).observe(tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WITHOUT_TARGET)
def test_a_negative_number_of_nodes_is_refused(name: str) -> None:
    with pytest.raises(DraftError, match="invalid n_nodes=-1"):
        make_drafter(name).propose(-1)
