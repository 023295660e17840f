"""Exceptions of the package: one base for whoever wants to catch them all."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import pytreellama
from pytreellama.draft import Recycling
from pytreellama.errors import DraftError, PyTreeLlamaError

ANSWERS = {"APIError"}  # what a server answers, which never leaves it


def test_every_exception_is_under_one_base_and_in_one_module() -> None:
    found: set[type] = set()
    for module in pkgutil.walk_packages(pytreellama.__path__, "pytreellama."):
        if module.name.rpartition(".")[2] == "__main__":
            continue
        try:
            imported = importlib.import_module(module.name)
        except ImportError:
            continue  # an extra that is not installed
        for name, one in inspect.getmembers(imported, inspect.isclass):
            is_ours = one.__module__.startswith("pytreellama") and not name.startswith("_")
            if is_ours and issubclass(one, BaseException) and name not in ANSWERS:
                found.add(one)
    assert len(found) > 15
    assert {one.__module__ for one in found} == {"pytreellama.errors"}
    assert all(issubclass(one, PyTreeLlamaError) for one in found)


def test_options_of_drafters_name_what_was_typed_and_what_is_expected() -> None:
    with pytest.raises(DraftError, match="invalid n_top=0: expected 1 to 64"):
        Recycling(n_top=0)
