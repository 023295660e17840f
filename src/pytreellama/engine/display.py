"""How results look in a notebook: small HTML tables, with what users wrote escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytreellama.engine.completion import Completion, Stats

_TEXT_STYLE = "white-space: pre-wrap; max-width: 50em; text-align: left"


def stats_facts(stats: Stats) -> dict[str, str]:
    """What a request cost, in words."""
    shared = f", {stats.n_shared} of them from the prefix cache" if stats.n_shared else ""
    facts = {
        "prompt": f"{stats.n_prompt} tokens{shared}, {stats.prefill_s:.2f} s",
        "output": f"{stats.n_tokens} tokens in {stats.decode_s:.2f} s "
        f"({stats.tokens_per_s:.1f} tokens/s)",
        "steps": f"{stats.n_steps}, {stats.tokens_per_step:.2f} tokens a step",
    }
    if stats.n_drafted:
        share = stats.n_accepted / stats.n_drafted
        facts["draft nodes"] = f"{stats.n_drafted}, {stats.n_accepted} accepted ({share:.0%})"
    return facts


def stats_html(stats: Stats) -> str:
    """A table of ``stats_facts``."""
    return _table(stats_facts(stats))


def completion_html(completion: Completion) -> str:
    """The text, and a table of what it cost."""
    facts = {"ended by": completion.finish_reason, "seed": str(completion.seed)}
    text = f'<div style="{_TEXT_STYLE}">{escape(completion.text)}</div>'
    return text + _table({**stats_facts(completion.stats), **facts})


def _table(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th style='text-align: left'>{escape(name)}</th>"
        f"<td style='text-align: left'>{escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>"
