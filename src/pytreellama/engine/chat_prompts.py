"""ChatPrompter: from messages and tools to a prompt, and to what its reply may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.chat.content import Message
from pytreellama.chat.plain_names import PlainNames
from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.markers import REASONING, SPECIALS
from pytreellama.chat.template import ChatTemplate, check_messages
from pytreellama.chat.tool_messages import for_template, knows_tools, with_texts
from pytreellama.constraints.call_syntax import HERMES, syntax_of
from pytreellama.constraints.reply_grammar import ReplyGrammar
from pytreellama.errors import ChatTemplateError
from pytreellama.model.model import Model

_HARMONY_REASONING = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
_HARMONY_FINAL = "<|channel|>final<|message|>"

Check = Callable[[str], object]


@dataclass(frozen=True, eq=False)
class ChatPrompt:
    """A rendered chat, as ``Engine.chat_prompt`` returns it; a prompt like any other.

    Attributes:
        tokens: its token ids, int32, shape (n,).
        text: what was tokenised.
        reply: what its reply may consist of.
        grammar: what its reply must be, if calls or reasoning are part of it.
        schema: the JSON schema of its reply, if it is nothing else.
    """

    tokens: NDArray[np.int32]
    text: str
    reply: ReplyFormat
    grammar: ReplyGrammar | None = None
    schema: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        """Number of its tokens."""
        return len(self.tokens)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class _Rendered:
    """A prompt before it is tokenised, and the template that rendered it."""

    text: str
    names: PlainNames
    source: str
    options: ChatRequestOptions

    @property
    def plain(self) -> str:
        return self.names.plain(self.text)


class ChatPrompter:
    """Renders chats with a model's templates.

    Args:
        model: whose template and vocabulary they are for.
        check: called with a prompt before it is tokenised; raises if it is too long.
    """

    def __init__(self, model: Model, check: Check) -> None:
        self._model = model
        self._vocab = model.vocab
        self._check = check

    def prepare(self, messages: Sequence[Message], options: ChatRequestOptions) -> ChatPrompt:
        """Render and tokenise a chat.

        Raises:
            ChatTemplateError: no template, or one that refuses the messages.
            RequestError: calls in messages that cannot be read, or a prompt that is too long.
        """
        rendered = self._rendered(messages, options)
        text = rendered.plain
        self._check(text)
        reply = ReplyFormat.found(
            rendered.source,
            text,
            options.functions,
            self._marks,
            splits_reasoning=options.splits_reasoning,
            allows_several=options.allows_several,
        )
        tokens = rendered.names.encode(rendered.text)
        grammar = self._grammar(rendered, reply)
        schema = options.schema if grammar is None else None
        return ChatPrompt(tokens, text, reply, grammar, schema)

    def text(self, messages: Sequence[Message], options: ChatRequestOptions) -> str:
        """The prompt before it is tokenised; raises as ``prepare``."""
        text = self._rendered(messages, options).plain
        self._check(text)
        return text

    def _rendered(self, messages: Sequence[Message], options: ChatRequestOptions) -> _Rendered:
        check_messages(messages)
        tools = options.offered
        template = ChatTemplate.of_model(
            self._model, has_tools=bool(tools), source=options.chat_template
        )
        takes_system = template.takes_system if tools else True
        told, given = for_template(template.source, messages, tools, takes_system=takes_system)
        variables = dict(options.template_variables or {})
        if given is not None:
            variables["tools"] = given
        names = PlainNames(self._vocab, told, variables)
        variables = names.marked(variables)
        try:
            text = template.render(names.marked(told), **variables)
        except ChatTemplateError:
            as_text = with_texts(told)
            if as_text is None:
                raise
            text = template.render(names.marked(as_text), **variables)
        return _Rendered(text, names, template.source, options)

    def _grammar(self, rendered: _Rendered, reply: ReplyFormat) -> ReplyGrammar | None:
        """What the reply must be; None if it may be any text, or is JSON alone."""
        options, source = rendered.options, rendered.source
        if not options.must_call and options.schema is None:
            return None
        reasoning = self._reasoning(rendered, reply)
        functions = reply.functions
        if not functions and reasoning is None and not reply.is_harmony:
            return None
        return ReplyGrammar(
            functions,
            syntax_of(source, self._marks) if knows_tools(source) else HERMES,
            allows_several=options.allows_several,
            schema=options.schema,
            text_before=_HARMONY_FINAL if reply.is_harmony else "",
            reasoning=reasoning,
            is_reasoning_open=reply.opened_reasoning is not None,
        )

    def _reasoning(self, rendered: _Rendered, reply: ReplyFormat) -> tuple[str, str] | None:
        """The tags of reasoning that may come first."""
        if reply.is_harmony:
            return _HARMONY_REASONING
        if reply.opened_reasoning is not None:
            return reply.opened_reasoning, dict(REASONING)[reply.opened_reasoning]
        end = rendered.text.rstrip()
        for begin, close in REASONING:
            if begin in rendered.source:
                return None if end.endswith(close) else (begin, close)
        return None

    @cached_property
    def _marks(self) -> dict[str, int]:
        """Ids of the special tokens that are marks in replies, by name."""
        vocab = self._vocab
        marks: dict[str, int] = {}
        for text in sorted(SPECIALS) if vocab.has_text else ():
            tokens = vocab.encode(text, add_special=False, parse_special=True)
            if len(tokens) == 1 and vocab.is_control(tokens[0]):
                marks[text] = tokens[0]
        return marks
