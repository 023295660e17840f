"""Chats are sampled as their model recommends; one rule for all doors."""

from __future__ import annotations

from pytreellama.sampling.defaults import USUAL_SAMPLING, sampling_defaults


def test_what_is_given_comes_before_what_is_recommended_and_that_before_the_usual() -> None:
    metadata = {"general.sampling.temp": "0.6", "general.sampling.top_k": "20", "general.name": "x"}
    chosen = sampling_defaults(metadata, {"top_k": 5, "seed": 1})
    assert chosen == {**USUAL_SAMPLING, "temperature": 0.6, "top_k": 5, "seed": 1}


def test_mirostat_replaces_the_truncation_that_nobody_gave() -> None:
    assert sampling_defaults({}, {"mirostat": 2}) == {"temperature": 0.8, "mirostat": 2}


def test_a_recommendation_that_is_no_number_is_ignored() -> None:
    assert sampling_defaults({"general.sampling.temp": "warm"}, {})["temperature"] == 0.8
