"""Chat prompts: messages written out by the Jinja template that a model brings with it.

A template writes plain text, and the text is tokenised as a whole. So a message that contains the
name of a special token, such as ``<|im_end|>``, is read as that token: true of every engine that
renders chat templates. Clean untrusted messages before they come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from pytreellama.chat.content import (
    SYSTEM_PROBE,
    SYSTEM_WORD,
    ContentForm,
    has_user_words,
    is_in,
)
from pytreellama.errors import ChatTemplateError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytreellama.model.model import Model
    from pytreellama.model.vocab import Vocab

Message = Mapping[str, Any]

_N_KNOWN = 16  # templates of models that stay compiled


class ChatTemplate:
    """A model's chat template, run in Jinja's sandbox with what Hugging Face templates expect.

    That is: ``raise_exception``, ``strftime_now``, a ``tojson`` that keeps non-ASCII text as it
    is, ``break`` and ``continue`` in loops, ``generation`` blocks (which mark text for training,
    and change nothing here), ``bos_token`` and ``eos_token``.
    (https://huggingface.co/docs/transformers/chat_templating_writing)

    A template comes with a file that may be hostile. The work of a rendering is bounded: more than
    some ten million steps, and some for what it is given, are an error.

    Args:
        source: the template's text.
        bos_token: what the template may write as beginning of text.
        eos_token: what it may write as end of text.

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
    def of_model(cls, model: Model, *, has_tools: bool = False) -> ChatTemplate:
        """The template in the model's file.

        Args:
            has_tools: take the one that the file names ``tool_use``, if there is such.

        Raises:
            ChatTemplateError: the file has none, or an invalid one.
        """
        named = model.metadata.get("tokenizer.chat_template.tool_use") if has_tools else None
        source = named or model.chat_template
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
        """The prompt of a conversation.

        Args:
            messages: ``{"role": ..., "content": ...}`` in order; content is text, or a list of
                parts. A template that knows parts alone is given texts as a part, one that knows
                text alone is given text parts as one text. Other keys reach it as they are.
            add_generation_prompt: end with the start of the assistant's turn.
            tools: JSON-schema descriptions of functions, for templates that know tools.
            documents: for templates that know documents.
            **extra: further variables of the template, such as ``enable_thinking=False``.

        Raises:
            ChatTemplateError: malformed messages, ones that the template refuses, or a template
                that does not write what users say.
        """
        _check_messages(messages)
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
        """False if the template refuses a system message, or does not write it."""
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
    """``messages`` as the model's own template writes them; ``options`` as for ``render``.

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
    """Tokens of a rendered prompt, in which names of special tokens are those tokens.

    The template writes what belongs to a turn, so EOS is never added. BOS is, where the model's
    file says so and the template did not write it.

    Returns:
        int32, shape (n,).

    Raises:
        VocabError: the model has no tokenizer.
    """
    bos = needs_bos(vocab, prompt)
    return vocab.encode_array(prompt, add_bos=bos, add_eos=False, parse_special=True)


def needs_bos(vocab: Vocab, prompt: str) -> bool:
    """Must BOS be added: does the model want it, and did the template not write it?"""
    bos = _special_text(vocab, vocab.bos)
    return vocab.adds_bos and not (bos and prompt.startswith(bos))


def _special_text(vocab: Vocab, token: int | None) -> str:
    return "" if token is None else vocab.piece(token, special=True).decode("utf-8", "replace")


def _check_messages(messages: Sequence[Message]) -> None:
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
