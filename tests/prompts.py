"""The prompts that the suite generates from: our own, one a task that trees do well or badly at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "data" / "prompts.jsonl"


def load_prompts() -> list[dict[str, Any]]:
    """Each with a category and chat messages."""
    return [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
