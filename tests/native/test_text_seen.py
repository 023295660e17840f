"""What text costs in theory, and how much of it nodes see, for models of several shapes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.engine.text_seen import TextSeen
from pytreellama.plan import AttentionShare


def text_of(n_swa: int = 0, pattern: str | None = None, **changes: Any) -> TextSeen:
    """Of a context of SmolLM2-135M in Q4_1, but for some changes."""
    shape: dict[str, Any] = {
        "n_layer": 30,
        "n_embd": 576,
        "n_head": 9,
        "n_head_kv": 3,
        "n_params": 134_515_008,
    }
    metadata = {} if pattern is None else {"one.attention.sliding_window_pattern": pattern}
    model: dict[str, Any] = {
        "size": 93_000_000,
        "architecture": "one",
        "n_swa": n_swa,
        "metadata": metadata,
    }
    params: dict[str, Any] = {"type_k": "f16", "type_v": "f16"}
    for name in changes.keys() & params.keys():
        params[name] = changes.pop(name)
    whole = {**shape, **model, **changes}
    context: Any = SimpleNamespace(model=SimpleNamespace(**whole), params=SimpleNamespace(**params))
    return TextSeen(context)


@given(st.integers(0, 100_000))
def test_without_a_window_all_text_is_seen(n_past: int) -> None:
    assert text_of().cells(n_past) == n_past


@given(st.integers(0, 100_000), st.integers(1, 5000), st.sampled_from(["1", "2", "6", "[x]", None]))
def test_a_window_hides_text_from_some_layers(n_past: int, n_swa: int, pattern: str | None) -> None:
    text = text_of(n_swa, pattern)
    cells = text.cells(n_past)
    assert min(n_past, n_swa) <= cells <= n_past
    assert text.cells(n_past + 1) >= cells
    if n_past > n_swa and pattern in ("1", "2", "6"):
        full = {"1": 1.0, "2": 0.5, "6": 1 / 6}[pattern]
        assert cells == pytest.approx(n_swa + full * (n_past - n_swa), abs=1)


def test_a_cell_is_worth_its_bytes_and_products() -> None:
    share = text_of().share()
    assert share.read == pytest.approx(30 * 192 * 2 * 2 / 93_000_000)
    assert share.attend == pytest.approx(30 * 576 * 2 / 134_515_008)
    assert text_of(type_k="q8_0", type_v="q8_0").share().read == pytest.approx(
        share.read * 1.0625 / 2
    )


@pytest.mark.parametrize("changes", [{"size": 0}, {"n_params": 0}, {"n_layer": 0}, {"n_head": 0}])
def test_odd_shapes_have_shares_all_the_same(changes: dict[str, Any]) -> None:
    share = text_of(**changes).share()
    assert share.read > 0.0 and share.attend > 0.0
    if changes != {"n_head": 0}:
        assert share == AttentionShare()
