"""ContentForm: whether a chat template knows the content of messages as text or as parts.

Templates of models that also see often go through parts, ``{"type": "text", "text": ...}``, and
write nothing of a content that is one text. Which form a template takes is seen from what it
writes of one word, as llama.cpp does (``common/chat.cpp``), not from its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytreellama.errors import ChatTemplateError, TemplateWorkError

Message = Mapping[str, Any]

SYSTEM_WORD = "marmalade"
_WORD = "pineapple"  # no template has these words of its own

SYSTEM_PROBE: tuple[Message, ...] = (
    {"role": "system", "content": SYSTEM_WORD},
    {"role": "user", "content": _WORD},
)
"""A conversation with a system message."""

_WRITTEN_PART = re.compile(r"""["']type["']\s*:\s*["']text""")


@dataclass(frozen=True)
class ContentForm:
    """What a template makes of the content of messages.

    Attributes:
        takes_text, takes_parts: it writes the words of content in this form.
        is_dropped: it writes them in neither.
    """

    takes_text: bool
    takes_parts: bool
    is_dropped: bool

    @classmethod
    def found(cls, render: Callable[[Message], str]) -> ContentForm:
        """The form that a template takes, which ``render`` renders a message with.

        Raises:
            TemplateWorkError: the template does too much work.
        """
        of_text = _rendered(render, _WORD)
        of_parts = _rendered(render, _as_parts(_WORD))
        takes_text = of_text is not None and is_in(of_text, _WORD)
        takes_parts = of_parts is not None and is_in(of_parts, _WORD)
        if of_parts is not None and _WRITTEN_PART.search(of_parts):
            takes_parts = False  # it writes any value, as Python or JSON does
        is_refused = of_text is None and of_parts is None  # which may be for another reason
        return cls(takes_text, takes_parts, not (takes_text or takes_parts or is_refused))

    def fitted(self, message: Message) -> dict[str, Any]:
        """A copy of a message whose content has the form that the template takes."""
        content = message.get("content")
        if isinstance(content, str) and self.takes_parts and not self.takes_text:
            return {**message, "content": _as_parts(content)}
        if isinstance(content, list) and self.takes_text and not self.takes_parts:
            texts = [text for part in content if (text := _text_of(part)) is not None]
            if len(texts) == len(content):
                return {**message, "content": "".join(texts)}
        return dict(message)


def has_user_words(message: Message) -> bool:
    """Does a user say anything in it?"""
    if message["role"] != "user":
        return False
    content = message["content"]
    texts = [content] if isinstance(content, str) else map(_text_of, content)
    return any(text is not None and text.strip() for text in texts)


def is_in(text: str, word: str) -> bool:
    """Does a template write a word, in capitals or not?"""
    return word in text.lower()


def _rendered(render: Callable[[Message], str], content: Any) -> str | None:

    try:
        return render({"role": "user", "content": content})
    except TemplateWorkError:
        raise
    except ChatTemplateError:
        return None


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _text_of(part: Any) -> str | None:
    """The text of a part of type text; None for any other."""
    if not isinstance(part, Mapping) or part.get("type") != "text":
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None
