"""The time that long prompts take from texts that are being generated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytreellama.engine.prefill_share import N_SHORT, SHARE, PrefillShare

LONG = N_SHORT + 1
seconds = st.floats(0.001, 10.0)


def run(chunk_s: float, step_s: float, n_long: int, n_decoding: int) -> tuple[float, float]:
    """Steps until ten chunks have run; the seconds of chunks and of decode passes."""
    share, prefill_s, decode_s, n_chunks = PrefillShare(), 0.0, 0.0, 0
    while True:
        if share.lets(LONG):
            if n_chunks == 10:
                return prefill_s, decode_s
            n_chunks += 1
            prefill_s += chunk_s
            share.spend(chunk_s, n_long, n_decoding)
        decode_s += step_s
        share.decoded(step_s)


@given(chunk_s=seconds, step_s=seconds, n_decoding=st.integers(1, 64))
def test_one_long_prompt_has_a_third_of_the_time(
    chunk_s: float, step_s: float, n_decoding: int
) -> None:
    prefill_s, decode_s = run(chunk_s, step_s, 1, n_decoding)
    assert prefill_s <= SHARE * (prefill_s + decode_s) + 1e-9
    # a chunk waits for whole decode passes: at most one more than are due
    assert decode_s <= 2 * prefill_s + 10 * step_s + 1e-9


@given(n_long=st.integers(1, 64), n_decoding=st.integers(1, 64))
def test_many_long_prompts_have_as_much_as_the_texts(n_long: int, n_decoding: int) -> None:
    prefill_s, decode_s = run(1.0, 0.001, n_long, n_decoding)
    fair = (n_long - 1) / (n_long - 1 + n_decoding)
    assert abs(prefill_s / (prefill_s + decode_s) - max(SHARE, fair)) < 0.01


@given(n_missing=st.integers(1, N_SHORT))
def test_a_short_prompt_never_waits(n_missing: int) -> None:
    share = PrefillShare()
    share.spend(100.0, 1, 1)
    assert share.lets(n_missing)
    assert not share.lets(LONG)


def test_nobody_is_held_up_where_nothing_is_generated() -> None:
    share = PrefillShare()
    share.spend(100.0, 3, 0)
    assert share.lets(LONG)
    share.spend(100.0, 1, 2)
    share.decoded(0.0)
    assert share.lets(LONG)
