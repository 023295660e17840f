"""Names of classes stand for one thing each."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/pytreellama"

_READ_WITH_ITS_PACKAGE = {"Model"}  # `draft.Model` makes drafters, `ptl.Model` is a model


def test_a_public_class_name_exists_once_in_the_package() -> None:
    files = defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(str(path.relative_to(SOURCE)))
    assert len(files) > 200  # the search still finds them
    shared = {name: where for name, where in files.items() if len(where) > 1}
    assert shared.keys() <= _READ_WITH_ITS_PACKAGE, shared
