"""Names that the engine had before work for one more release, and warn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytreellama import Engine, Model

TinyModel = Callable[..., Model]
SIZES: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}


def test_old_options_set_the_new_ones(tiny_model: TinyModel) -> None:
    with (
        pytest.warns(DeprecationWarning, match="n_cached_prefixes") as kept,
        pytest.warns(DeprecationWarning, match="max_swap_bytes"),
        Engine(tiny_model("rope"), n_kept=2, max_saved_bytes=10, **SIZES) as engine,
    ):
        engine.generate([5, 6, 7], max_tokens=1)
        assert engine.load.n_cached_prefixes == 1
    assert {warning.filename for warning in kept} == {__file__}


def test_old_methods_are_the_new_ones(tiny_model: TinyModel, tmp_path: Path) -> None:
    renamed = {
        "save_kept": "save_prefix_cache",
        "load_kept": "load_prefix_cache",
        "scoring": "score_job",
        "embedding": "embed_job",
        "submit_evaluation": "submit_job",
    }
    with Engine(tiny_model("rope"), n_cached_prefixes=1, **SIZES) as engine:
        for old, new in renamed.items():
            with pytest.warns(DeprecationWarning, match=f"Engine.{old} is deprecated.*{new}"):
                assert getattr(engine, old) == getattr(engine, new)
        engine.generate([5, 6, 7], max_tokens=1)
        with pytest.warns(DeprecationWarning, match="save_prefix_cache"):
            assert engine.save_kept(tmp_path / "prefixes") == 1
        with pytest.warns(DeprecationWarning, match="Load.n_kept"):
            assert engine.load.n_kept == 1


def test_unknown_options_are_still_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(Exception, match="n_kepd"):
        Engine(tiny_model("rope"), n_kepd=2, **SIZES)
