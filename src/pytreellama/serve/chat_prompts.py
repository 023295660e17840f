"""ChatPrompts: from a client's messages and tools to the prompt that the model continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.engine import ChatPrompt
from pytreellama.engine.chat_prompts import ChatPrompter
from pytreellama.errors import ChatTemplateError
from pytreellama.model.model import Model
from pytreellama.serve.errors import APIError
from pytreellama.serve.messages import Message
from pytreellama.serve.requests import ChatRequest
from pytreellama.serve.text_limit import TextLimit


class ChatPrompts:
    """Renders prompts within the limits of a server.

    Args:
        model: whose template and vocabulary they are for.
        text_limit: refuses what is too long.
    """

    def __init__(self, model: Model, text_limit: TextLimit) -> None:
        self._prompter = ChatPrompter(model, text_limit.check_bytes)
        self._text_limit = text_limit

    def prompt(self, messages: Sequence[Message], request: ChatRequest | None = None) -> ChatPrompt:
        """The prompt up to the reply, and what the reply may be; raises as ``text``."""
        options = chat_options(request)
        prompt = self._prompter.prepare(self._checked(messages), options)
        self._text_limit.check_tokens(prompt.tokens)  # type: ignore[arg-type]
        return prompt

    def tokens(self, messages: Sequence[Message], request: ChatRequest | None = None) -> list[int]:
        """The token ids of the prompt; raises as ``text``."""
        ids: list[int] = self.prompt(messages, request).tokens.tolist()
        return ids

    def text(self, messages: Sequence[Message], request: ChatRequest | None = None) -> str:
        """The prompt before it is tokenised.

        Raises:
            ChatTemplateError: the model has no template, or it refuses these messages.
            APIError: they are too long for the context.
            RequestError: an invalid option, or calls in messages that cannot be read.
        """
        options = chat_options(request)
        return self._prompter.text(self._checked(messages), options)

    def _checked(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        self._text_limit.check_bytes(*map(_written, messages))
        return [_told(message) for message in messages]


def chat_options(request: ChatRequest | None) -> ChatRequestOptions:
    """What a request asks for besides messages.

    Raises:
        RequestError: a tool is chosen that is not there, or two things constrain the reply.
        APIError: the same.
    """
    if request is None:
        return ChatRequestOptions()
    choice = request.tool_choice
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or []]
    variables = dict(request.chat_template_kwargs or {})
    if request.enable_thinking is not None:
        variables.setdefault("enable_thinking", request.enable_thinking)
    if request.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", request.reasoning_effort)
    if request.reasoning_effort == "none":
        variables.setdefault("enable_thinking", False)
    texts = (request.grammar, request.regex, request.lark)  # they hold from the first token on
    is_constrained = any(text is not None for text in texts)
    return ChatRequestOptions(
        tools=tools,
        tool_choice=choice if choice is None or isinstance(choice, str) else choice.model_dump(),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_response_format(request),
        reasoning_format=request.reasoning_format or ("none" if is_constrained else None),
        template_variables=variables,
    )


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    format = request.response_format
    given = None if format is None else format.model_dump(by_alias=True, exclude_none=True)
    if request.json_schema is None:
        return given
    if given is not None and given["type"] != "text":
        raise APIError(
            400, "give a response_format or a json_schema, not both", param="json_schema"
        )
    return {"type": "json_object", "schema": request.json_schema}


def _written(message: Message) -> str:
    """What every template writes of a message, at least; some leave parts of answers out."""
    return "" if message.role == "assistant" else _content(message)


def _content(message: Message) -> str:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content)
    return message.content or ""


def _told(message: Message) -> dict[str, Any]:
    """A message as templates know them: its content in one piece, OpenAI's newest role in words."""
    told = message.model_dump(exclude_none=True)
    if message.reasoning is not None:
        told.setdefault("reasoning_content", message.reasoning)
    if isinstance(message.content, list):
        told["content"] = _content(message)
    if message.role == "developer":
        told["role"] = "system"
    if message.role == "assistant" and not message.tool_calls:
        told.setdefault("content", message.refusal or "")
    if "content" not in told and not message.tool_calls:
        raise ChatTemplateError(f"a message of the role {message.role} has no content")
    return told
