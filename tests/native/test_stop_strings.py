"""Stop strings are found however the text is cut, and nothing certain is held back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.engine.stop_strings import StopStrings
from pytreellama.errors import RequestError

texts = st.text(alphabet="ab\n", max_size=24)
stop_lists = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


def written_until_stop(text: str, stops: list[str]) -> str:
    """The text before the stop that is complete first; of those, the one that begins first."""
    for end in range(1, len(text) + 1):
        starts = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if starts:
            return text[: min(starts)]
    return text


@given(texts, stop_lists)
def test_text_fed_by_characters_ends_before_the_first_complete_stop(
    text: str, stops: list[str]
) -> None:
    watcher = StopStrings(stops)
    out = []
    for character in text:
        out.append(watcher.push(character))
        if watcher.found is not None:
            break
    else:
        out.append(watcher.finish())
    assert "".join(out) == written_until_stop(text, stops)


@given(texts, stop_lists)
def test_only_what_may_become_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    watcher = StopStrings(stops)
    out = ""
    for character in text:
        out += watcher.push(character)
        if watcher.found is not None:
            return
        held = text[len(out) : len(out) + max(map(len, stops), default=0)]
        seen = watcher.finish()
        assert seen == "" or any(stop.startswith(seen) for stop in stops), held
        watcher.push(seen)


def test_without_stops_everything_passes_at_once() -> None:
    assert StopStrings([]).push("anything at all") == "anything at all"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        StopStrings(["ok", ""])


def test_too_many_or_too_long_stop_strings_are_refused() -> None:
    StopStrings(["ab"] * 2**15)
    for stops in (["x" * (2**16 + 1)], [f"{i:06}" for i in range(100_000)]):
        with pytest.raises(RequestError, match="at most 65536 are allowed"):
            StopStrings(stops)
