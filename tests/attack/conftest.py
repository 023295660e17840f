"""The attack corpus: hostile inputs, each in a process of its own.

All of it runs with ``pytest -m attack``; without that, what is marked ``long`` is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = "attack" in (config.option.markexpr or "")
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.attack)
        if item.get_closest_marker("long") and not asked:
            item.add_marker(pytest.mark.skip(reason="a long attack: run pytest -m attack"))


@pytest.fixture(scope="package", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Children keep what passes cost in a folder of their own, and find the default model."""
    from pytreellama.model.default_model import ENVIRONMENT_VARIABLE, default_model_path

    model = default_model_path(quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT_VARIABLE, str(model))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
