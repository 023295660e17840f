"""The attack corpus: hostile inputs, each in a process of its own.

All of it runs with ``pytest -m attack``; without that, what is marked ``long`` is left out.
"""

from __future__ import annotations

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
