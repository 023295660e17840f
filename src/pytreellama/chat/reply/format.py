"""ReplyFormat: what a reader looks for in the replies to one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytreellama.chat.reply.functions import Functions
from pytreellama.chat.reply.markers import REASONING, Marker, markers_of

_HARMONY = "<|channel|>"


@dataclass(frozen=True)
class ReplyFormat:
    """What replies to a request may consist of.

    Attributes:
        functions: that may be called, with the schemas of their arguments.
        markers: that begin calls.
        is_harmony: the model writes in gpt-oss's channels.
        opened_reasoning: the tag that the prompt ends with: the reply begins with reasoning.
        splits_reasoning: reasoning is a part of its own, not of the content.
        allows_several: more calls than one count.
        shown_tokens: special tokens that belong to the text, for they are marks.
    """

    functions: Functions = field(default_factory=dict)
    markers: tuple[Marker, ...] = field(default_factory=lambda: markers_of(()))
    is_harmony: bool = False
    opened_reasoning: str | None = None
    splits_reasoning: bool = True
    allows_several: bool = True
    shown_tokens: frozenset[int] = frozenset()

    @classmethod
    def found(
        cls,
        template: str,
        prompt: str,
        functions: Functions,
        special_names: Mapping[str, int],
        **options: Any,
    ) -> ReplyFormat:
        """The format of replies to a prompt.

        Args:
            template: source of the chat template.
            prompt: as it was rendered.
            functions: that may be called.
            special_names: ids of those of the vocabulary's special tokens that readers know.
            options: other attributes.
        """
        known = [template, *special_names]
        return cls(
            functions,
            markers_of(known),
            is_harmony=_HARMONY in template,
            opened_reasoning=_opened(prompt),
            shown_tokens=frozenset(special_names.values()),
            **options,
        )


def _opened(prompt: str) -> str | None:
    """The tag of reasoning that a prompt ends with."""
    end = prompt.rstrip()
    return next((begin for begin, _ in REASONING if end.endswith(begin)), None)
