"""Writing: a model writes its texts until there are enough; goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytreellama.errors import MedusaError
from pytreellama.model.model import Model
from pytreellama.training.own_texts import OwnTexts, TextOptions
from pytreellama.training.parts import Parts
from pytreellama.training.progress import Progress
from pytreellama.training.target import Target
from pytreellama.training.text import Text


def text_facts(target: Target, options: TextOptions) -> dict[str, Any]:
    """What all texts of a folder have in common."""
    facts = asdict(options)
    prompts = "\0".join(options.prompts)
    facts["prompts"] = hashlib.sha256(prompts.encode()).hexdigest() if prompts else None
    return {"model": target.hash, "model_name": target.name, **facts}


def default_folder(kind: str, facts: Mapping[str, Any]) -> Path:
    """Where texts are kept, in the user's cache.

    Args:
        kind: of heads, the name of the folder above.
    """
    import platformdirs

    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("pytreellama", appauthor=False)) / kind / key


def write_texts(
    model: Model,
    parts: Parts,
    options: TextOptions,
    n_tokens: int,
    add: Callable[[Sequence[Text], float], None],
    report: Callable[[Progress], None],
) -> None:
    """Let a model write until its texts have so many tokens.

    Args:
        add: puts a round of texts into ``parts``, with the seconds that it took to write.

    Raises:
        MedusaError: it writes nothing.
    """
    n_done = n_before = parts.n_tokens
    if n_done >= n_tokens:
        return
    own = OwnTexts(model, options)
    try:
        started_s = round_s = time.perf_counter()
        for texts in own.rounds(parts.n_parts):
            if not texts:
                raise MedusaError(
                    f"{model.path.name} had nothing to say to any of {options.n_round} turns; give "
                    "it --prompts"
                )
            now_s = time.perf_counter()
            add(texts, now_s - round_s)
            round_s = now_s
            n_done += sum(len(text.tokens) for text in texts)
            left_s = (n_tokens - n_done) * (now_s - started_s) / max(n_done - n_before, 1)
            report(Progress("writing", min(n_done, n_tokens), n_tokens, max(left_s, 0.0)))
            if n_done >= n_tokens:
                return
    finally:
        own.close()
