"""Chat templates: render messages to a prompt with the model's Jinja template.

``encode_chat`` parses all names of special tokens in a rendered text, such as ``<|im_end|>``, those
of a message too. ``PlainNames``, which the engine and the server use, keeps them as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from pytreellama.chat.content import (
    SYSTEM_PROBE,
    SYSTEM_WORD,
    ContentForm,
    Message,
    has_user_words,
    is_in,
)
from pytreellama.errors import ChatTemplateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytreellama.model.model import Model
    from pytreellama.model.vocab import Vocab


_N_KNOWN = 16  # templates of models that stay compiled


class ChatTemplate:
    """A chat template, rendered in Jinja's sandbox with the variables that Hugging Face defines.

    These are ``raise_exception``, ``strftime_now``, a ``tojson`` that keeps non-ASCII text,
    ``break`` and ``continue`` in loops, ``generation`` blocks (no effect here), ``bos_token`` and
    ``eos_token``. (https://huggingface.co/docs/transformers/chat_templating_writing)

    A template comes from a file that may be hostile, so its work is bounded: a rendering of more
    than some ten million steps, and some for its input, is an error.

    Example:
        template = ChatTemplate.of_model(model)
        prompt = template.render([{"role": "user", "content": "Hi!"}])

    Args:
        source: text of the template.
        bos_token: value of the variable ``bos_token``.
        eos_token: value of the variable ``eos_token``.

    Raises:
        ChatTemplateError: the source is not a valid template.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        from pytreellama.chat.sandbox import compiled

        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self._template = compiled(source)

    @classmethod
    def of_model(
        cls, model: Model, *, has_tools: bool = False, source: str | None = None
    ) -> ChatTemplate:
        """Return the template of a model's file.

        Args:
            model: the model.
            has_tools: prefer the template that the file names ``tool_use``, if there is one.
            source: a template to use instead, with the model's BOS and EOS.

        Raises:
            ChatTemplateError: the file has none, or an invalid one.
        """
        named = model.metadata.get("tokenizer.chat_template.tool_use") if has_tools else None
        source = source or named or model.chat_template
        if not source:
            raise ChatTemplateError(
                f"{model.path.name} has no chat template (it may be a base model): give plain "
                "text as the prompt, or make a ChatTemplate(source) of your own"
            )
        vocab = model.vocab
        return _known(source, _special_text(vocab, vocab.bos), _special_text(vocab, vocab.eos))

    def render(
        self,
        /,  # a template may have a variable of any name
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """Render a conversation to a prompt.

        Args:
            messages: ``{"role": ..., "content": ...}`` in order. Content is text or a list of
                parts; it is converted if the template supports only one of them. Other keys are
                passed as they are.
            add_generation_prompt: end with the start of the assistant's turn.
            tools: JSON-schema descriptions of functions, for templates that support tools.
            documents: for templates that support documents.
            **extra: further variables of the template, such as ``enable_thinking=False``.

        Returns:
            The prompt as text; tokenise it with ``encode_chat``.

        Raises:
            ChatTemplateError: malformed messages, messages that the template refuses, or a template
                that drops the user's text.
        """
        check_messages(messages)
        if self._content.is_dropped and any(map(has_user_words, messages)):
            raise ChatTemplateError(
                "the chat template does not write what a user says, neither from text nor from "
                "parts of type 'text'; use a ChatTemplate(source) of your own"
            )
        return self._rendered(
            [self._content.fitted(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=[dict(tool) for tool in tools] if tools is not None else None,
            documents=documents,
            **extra,
        )

    @cached_property
    def takes_system(self) -> bool:
        """False if the template refuses or drops a system message."""
        messages = [self._content.fitted(one) for one in SYSTEM_PROBE]
        try:
            return is_in(self._rendered(messages), SYSTEM_WORD)
        except ChatTemplateError:
            return False

    @cached_property
    def _content(self) -> ContentForm:
        return ContentForm.found(lambda message: self._rendered([message]))

    def _rendered(self, /, messages: Sequence[Message], **variables: Any) -> str:
        from pytreellama.chat.sandbox import rendered

        always = {"add_generation_prompt": True, "tools": None, "documents": None}
        own = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        return rendered(self._template, messages, {**always, **own, **variables})


@lru_cache(_N_KNOWN)
def _known(source: str, bos_token: str, eos_token: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token, eos_token)


def chat_prompt(model: Model, messages: Sequence[Message], **options: Any) -> str:
    """Render messages with the model's own template.

    Args:
        model: the model.
        messages: as for ``ChatTemplate.render``.
        **options: as for ``ChatTemplate.render``.

    Raises:
        ChatTemplateError: no template, or one that refuses the messages.
    """
    template = ChatTemplate.of_model(model, has_tools=bool(options.get("tools")))
    return template.render(messages, **options)


def encode_chat(vocab: Vocab, prompt: str) -> list[int]:
    """As ``encode_chat_array``, but the ids are a list."""
    ids: list[int] = encode_chat_array(vocab, prompt).tolist()
    return ids


def encode_chat_array(vocab: Vocab, prompt: str) -> NDArray[np.int32]:
    """Tokenise a rendered prompt; names of special tokens become these tokens.

    EOS is never added. BOS is added if the metadata asks for it and the template did not write it.

    Returns:
        int32, shape (n,).

    Raises:
        VocabError: the model has no tokenizer.
    """
    bos = needs_bos(vocab, prompt)
    return vocab.encode_array(prompt, add_bos=bos, add_eos=False, parse_special=True)


def needs_bos(vocab: Vocab, prompt: str) -> bool:
    """True if the model expects BOS and the template did not write it."""
    bos = _special_text(vocab, vocab.bos)
    return vocab.adds_bos and not (bos and prompt.startswith(bos))


def _special_text(vocab: Vocab, token: int | None) -> str:
    return "" if token is None else vocab.piece(token, special=True).decode("utf-8", "replace")


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ChatTemplateError for messages that no template can render."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ChatTemplateError(
            "messages must be a list of mappings with role and content, "
            f"not {type(messages).__name__}"
        )
    if not messages:
        raise ChatTemplateError(
            'there are no messages; give at least one, like {"role": "user", "content": "Hi"}'
        )
    for i, message in enumerate(messages):
        _check_message(i, message)


def _check_message(i: int, message: Message) -> None:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"message {i} must be a mapping, not {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ChatTemplateError(
            f"message {i} needs a role such as 'system', 'user' or 'assistant', not {role!r}"
        )
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return
    if not isinstance(content, (str, list)):
        raise ChatTemplateError(
            f"message {i} needs content: text or a list of parts, not {content!r}"
        )
