"""Chat prompts: messages written out by the Jinja template that a model brings with it.

A template writes plain text, and the text is tokenised as a whole. So a message that contains the
name of a special token, such as ``<|im_end|>``, is read as that token: true of every engine that
renders chat templates. Clean untrusted messages before they come here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from pytreellama.errors import ChatTemplateError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from pytreellama.core.model import Model
    from pytreellama.core.vocab import Vocab

Message = Mapping[str, Any]


class ChatTemplate:
    """A model's chat template, run in Jinja's sandbox with what Hugging Face templates expect.

    That is: ``raise_exception``, ``strftime_now``, a ``tojson`` that keeps non-ASCII text as it
    is, ``break`` and ``continue`` in loops, ``generation`` blocks (which mark text for training,
    and change nothing here), ``bos_token`` and ``eos_token``.
    (https://huggingface.co/docs/transformers/chat_templating_writing)

    Args:
        source: the template's text.
        bos_token: what the template may write as beginning of text.
        eos_token: what it may write as end of text.

    Raises:
        ChatTemplateError: the source is not a valid template.
    """

    def __init__(self, source: str, bos_token: str = "", eos_token: str = "") -> None:
        from jinja2 import TemplateError

        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            raise ChatTemplateError(f"the chat template is not valid{where}: {error}") from error

    @classmethod
    def of_model(cls, model: Model) -> ChatTemplate:
        """The template in the model's file.

        Raises:
            ChatTemplateError: the file has none, or an invalid one.
        """
        source = model.chat_template
        if not source:
            raise ChatTemplateError(
                f"{model.path.name} has no chat template (it may be a base model): give plain "
                "text as the prompt, or make a ChatTemplate(source) of your own"
            )
        vocab = model.vocab
        return cls(source, _special_text(vocab, vocab.bos), _special_text(vocab, vocab.eos))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt of a conversation.

        Args:
            messages: ``{"role": ..., "content": ...}`` in order; content is text, or a list of
                parts if the template takes such. Other keys reach the template as they are.
            add_generation_prompt: end with the start of the assistant's turn.
            tools: JSON-schema descriptions of functions, for templates that know tools.
            **extra: further variables of the template, such as ``enable_thinking=False``.

        Raises:
            ChatTemplateError: malformed messages, or ones that the template refuses.
        """
        _check_messages(messages)
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=[dict(tool) for tool in tools] if tools is not None else None,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
                **extra,
            )
        except ChatTemplateError:
            raise
        except Exception as error:  # a template is a program: it may fail in any way
            raise ChatTemplateError(
                f"the chat template failed on these messages: {type(error).__name__}: {error}"
            ) from error


def chat_prompt(model: Model, messages: Sequence[Message], **options: Any) -> str:
    """``messages`` as the model's own template writes them; ``options`` as for ``render``.

    Raises:
        ChatTemplateError: no template, or one that refuses the messages.
    """
    return ChatTemplate.of_model(model).render(messages, **options)


def encode_chat(vocab: Vocab, prompt: str) -> list[int]:
    """Tokens of a rendered prompt, in which names of special tokens are those tokens.

    The template writes what belongs to a turn, so EOS is never added. BOS is, where the model's
    file says so and the template did not write it.

    Raises:
        VocabError: the model has no tokenizer.
    """
    bos = needs_bos(vocab, prompt)
    return vocab.encode(prompt, add_bos=bos, add_eos=False, parse_special=True)


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


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own type

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", GenerationBlocks],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes characters for HTML, which a model was not trained on
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise ChatTemplateError(f"the chat template refuses these messages: {message}")


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
