"""Markers: the texts that begin reasoning and calls, whatever model writes them.

Those with ``is_common`` are looked for in every model's text; many models write them that were
never taught to. The others are those of a family, looked for where its template or vocabulary has
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pytreellama.chat.reply.harmony import MARKS

Kind = Literal[
    "tool_call", "function", "json", "mistral", "deepseek", "kimi", "gemma", "invoke", "dsml",
    "section",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Marker:
    """A text that begins a call.

    Attributes:
        kind: the form of what follows.
        is_common: any model may write it.
        quote: of texts, in Gemma's forms.
        sign: shows that the family may be meant; by default the text.
    """

    text: str
    kind: Kind
    is_common: bool = False
    quote: str = ""
    sign: str = ""


_DSML = "｜DSML｜"  # DeepSeek from V3.2 on
MARKERS = (
    Marker("<tool_call>", "tool_call", is_common=True),
    Marker("<function=", "function", is_common=True),
    Marker("<|python_tag|>", "json"),
    Marker("<|tool_call|>", "json"),  # Granite 3, Phi 4
    Marker("[TOOL_CALLS]", "mistral"),
    Marker("<｜tool▁calls▁begin｜>", "section"),
    Marker("<｜tool▁call▁begin｜>", "deepseek"),
    Marker("<|tool_calls_section_begin|>", "section"),
    Marker("<|tool_call_begin|>", "kimi"),
    Marker("<|tool_call>", "gemma", quote='<|"|>'),
    Marker("<start_function_call>", "gemma", quote="<escape>"),
    Marker("<minimax:tool_call>", "section"),
    Marker('<invoke name="', "invoke"),
    Marker("<｜DSML｜function_calls>", "section", sign=_DSML),
    Marker("<｜DSML｜tool_calls>", "section", sign=_DSML),
    Marker('<｜DSML｜invoke name="', "dsml", sign=_DSML),
    Marker("<TOOLCALL>", "json"),  # Nemotron 2
    Marker("<tool_calls>", "json"),  # Apriel
    Marker("<|tool_call_start|>", "json"),  # LFM2
    Marker("<|function_call|>", "json"),  # GigaChat 3.1
)
"""In the order in which a reader tries them."""

CLOSINGS = (
    "</tool_call>",
    "</function>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<|/tool_call|>",
    "<tool_call|>",
    "<end_function_call>",
    "</minimax:tool_call>",
    "</｜DSML｜function_calls>",
    "</｜DSML｜tool_calls>",
    "</TOOLCALL>",
    "</tool_calls>",
    "[/TOOL_CALLS]",
)
"""What may stand behind a call, and says nothing more."""

REASONING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<seed:think>", "</seed:think>"),
)
"""What stands before and after reasoning."""

_WITHIN = (
    "[ARGS]",
    "[CALL_ID]",
    "<｜tool▁sep｜>",
    "<|tool_call_argument_begin|>",
    '<|"|>',
    "<escape>",
    "<|channel>",
    _DSML,
)

SPECIALS = frozenset(
    (
        *(marker.text for marker in MARKERS),
        *(tag for tags in REASONING for tag in tags),
        *CLOSINGS,
        *MARKS,
        *_WITHIN,
    )
)
"""Tokens that a reader must see, though they are special ones in some vocabularies."""


def markers_of(known: Iterable[str]) -> tuple[Marker, ...]:
    """The markers to look for.

    Args:
        known: texts that a template or the names of special tokens consist of.
    """
    texts = list(known)
    return tuple(
        marker
        for marker in MARKERS
        if marker.is_common or any((marker.sign or marker.text) in text for text in texts)
    )
