"""ChatPrompts: from a client's messages and tools to the tokens that the model goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytreellama.chat.plain_names import PlainNames
from pytreellama.chat.template import ChatTemplate
from pytreellama.errors import ChatTemplateError
from pytreellama.model.model import Model
from pytreellama.serve import tools as tools_
from pytreellama.serve.calls import OPEN
from pytreellama.serve.errors import APIError
from pytreellama.serve.messages import Message, NamedTool
from pytreellama.serve.requests import ChatRequest
from pytreellama.serve.text_limit import TextLimit


class ChatPrompts:
    """Writes prompts with a model's templates, each of which is read once.

    Args:
        model: whose template and vocabulary they are for.
        text_limit: refuses what is too long.
    """

    def __init__(self, model: Model, text_limit: TextLimit) -> None:
        self._model = model
        self._text_limit = text_limit
        self._templates: dict[bool, ChatTemplate] = {}

    def tokens(self, messages: Sequence[Message], request: ChatRequest | None = None) -> list[int]:
        """The prompt, up to where the answer begins; raises as ``text``."""
        text, names = self._rendered(messages, request)
        ids: list[int] = names.encode(text).tolist()
        self._text_limit.check_tokens(ids)
        return ids

    def text(self, messages: Sequence[Message], request: ChatRequest | None = None) -> str:
        """The prompt before it is tokenised.

        Raises:
            ChatTemplateError: the model has no template, or it refuses these messages.
            APIError: they are too long for the context, or the arguments of a call in them are not
                a JSON object.
        """
        text, names = self._rendered(messages, request)
        return names.plain(text)

    def _rendered(
        self, messages: Sequence[Message], request: ChatRequest | None
    ) -> tuple[str, PlainNames]:
        self._text_limit.check_bytes(*map(_written, messages))
        told = [_told(message) for message in messages]
        tools = [] if request is None else offered_tools(request)
        template = self._template(bool(tools))
        extra: dict[str, Any] = dict((request and request.chat_template_kwargs) or {})
        if extra.keys() & {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}:
            raise ChatTemplateError("chat_template_kwargs cannot replace messages or tools")
        if tools_.knows_tools(template.source):
            told, extra["tools"] = tools_.with_objects(told), tools or None
        else:
            takes_system = template.takes_system if tools else True
            told = tools_.in_words(told, tools, takes_system=takes_system)
        names = PlainNames(self._model.vocab, told, extra)
        text = template.render(names.marked(told), **names.marked(extra))
        if request is not None and must_call(request):
            text += f"{OPEN}\n"
        self._text_limit.check_bytes(names.plain(text))
        return text, names

    def _template(self, has_tools: bool) -> ChatTemplate:
        if has_tools not in self._templates:
            template = ChatTemplate.of_model(self._model, has_tools=has_tools)
            self._templates[has_tools] = template
        return self._templates[has_tools]


def offered_tools(request: ChatRequest) -> list[dict[str, Any]]:
    """The tools that the model may call."""
    if not request.tools or request.tool_choice == "none":
        return []
    return [tool.model_dump(exclude_none=True) for tool in request.tools]


def must_call(request: ChatRequest) -> bool:
    """Must the answer be a call?"""
    return bool(request.tools) and (
        request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool)
    )


def answer_schema(request: ChatRequest) -> dict[str, Any] | None:
    """The JSON schema that the answer must satisfy, if any.

    Raises:
        APIError: a tool is chosen that is not there, or two things constrain the answer.
    """
    choice, chosen = request.tool_choice, None
    if isinstance(choice, NamedTool):
        chosen = choice.function.name
        if chosen not in [tool.function.name for tool in request.tools or []]:
            raise APIError(
                400, f"tool_choice names {chosen}, which is no tool", param="tool_choice"
            )
    if choice == "required" and not request.tools:
        raise APIError(400, "tool_choice is required, but there are no tools", param="tool_choice")
    format = request.response_format
    schema: dict[str, Any] | None = None
    if format is not None and format.type == "json_object":
        schema = {"type": "object"} if format.schema_ is None else dict(format.schema_)
    elif format is not None and format.type == "json_schema":
        given = format.json_schema.schema_
        schema = {"type": "object"} if given is None else dict(given)
    if request.json_schema is not None:
        if schema is not None:
            raise APIError(
                400, "give a response_format or a json_schema, not both", param="json_schema"
            )
        schema = dict(request.json_schema)
    if must_call(request):
        if schema is not None:
            raise APIError(
                400, "an answer that must be a call has no response_format", param="response_format"
            )
        return tools_.tool_schema(offered_tools(request), chosen)
    return schema


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
