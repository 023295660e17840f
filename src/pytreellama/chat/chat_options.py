"""ChatRequestOptions: what a request asks for besides messages: tools, a format, a template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytreellama.errors import RequestError, not_one_of, shown

REASONING_FORMATS = ("auto", "deepseek", "none")
"""``auto`` and ``deepseek`` split reasoning from content; ``none`` leaves it there as written."""

_CHOICES = ("auto", "none", "required")
_NAME = re.compile(r"[a-zA-Z0-9_.\-]{1,64}")
_RESERVED = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
_TOOL_FORM = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
_NAMED_FORM = '{"type": "function", "function": {"name": ...}}'
_FORMAT_FORM = '{"type": "json_schema", "json_schema": {"schema": {...}}}'


@dataclass(frozen=True)
class ChatRequestOptions:
    """Checked options of one chat request.

    Attributes:
        tools: functions that the model may call, in OpenAI's form.
        tool_choice: ``auto``, ``none``, ``required``, or OpenAI's form for one of them.
        parallel_tool_calls: several calls in one reply are allowed. By default they are, except
            where a call is required.
        response_format: OpenAI's: ``text``, ``json_object`` or ``json_schema``.
        reasoning_format: one of ``REASONING_FORMATS``.
        chat_template: source of a template to use instead of the model's.
        template_variables: further variables of the template, such as ``enable_thinking``.

    Raises:
        RequestError: an invalid value.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    reasoning_format: str | None = None
    chat_template: str | None = None
    template_variables: Mapping[str, Any] | None = None
    _functions: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._functions.update(map(_function, range(len(self.tools or ())), _tools(self.tools)))
        if self.reasoning_format not in (None, *REASONING_FORMATS):
            message = not_one_of("reasoning_format", self.reasoning_format, REASONING_FORMATS)
            raise RequestError(message, param="reasoning_format")
        if not isinstance(self.chat_template, (str, type(None))):
            raise _invalid("chat_template", self.chat_template, "the source of a Jinja template")
        if not isinstance(self.parallel_tool_calls, (bool, type(None))):
            raise _invalid("parallel_tool_calls", self.parallel_tool_calls, "True, False or None")
        self._check_variables()
        self._check_choice()
        self._check_format()

    @property
    def offered(self) -> list[Mapping[str, Any]]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else list(self.tools or ())

    @property
    def functions(self) -> dict[str, dict[str, Any]]:
        """Schemas of the arguments of the functions that may be called, by name."""
        if self.tool_choice == "none":
            return {}
        named = self._named
        return {n: schema for n, schema in self._functions.items() if named in (None, n)}

    @property
    def must_call(self) -> bool:
        """True if the reply must be a call."""
        return self.tool_choice == "required" or self._named is not None

    @property
    def allows_several(self) -> bool:
        """True if more than one call counts."""
        if self.parallel_tool_calls is None:
            return not self.must_call
        return self.parallel_tool_calls

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of the content; None for any text."""
        format = self.response_format
        if format is None or format["type"] == "text":
            return None
        given = format.get("schema")
        if format["type"] == "json_schema":
            named = format.get("json_schema")
            given = named.get("schema") if isinstance(named, Mapping) else given
        return {"type": "object"} if given is None else dict(given)

    @property
    def splits_reasoning(self) -> bool:
        """True if reasoning is a part of its own."""
        return self.reasoning_format != "none"

    @property
    def _named(self) -> str | None:
        if isinstance(self.tool_choice, Mapping):
            name: str = self.tool_choice["function"]["name"]
            return name
        return None

    def _check_variables(self) -> None:
        given = self.template_variables
        if given is None:
            return
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise _invalid("template_variables", given, "a mapping of names to values")
        if names := sorted(given.keys() & _RESERVED):
            raise RequestError(
                f"invalid template_variables: {', '.join(names)} cannot be replaced",
                param="chat_template_kwargs",
            )

    def _check_choice(self) -> None:
        choice = self.tool_choice
        if isinstance(choice, Mapping):
            function = choice.get("function")
            name = function.get("name") if isinstance(function, Mapping) else None
            if not isinstance(name, str):
                raise _invalid("tool_choice", choice, _NAMED_FORM)
            if name not in self._functions:
                raise RequestError(
                    f"tool_choice names {name}, which is no tool", param="tool_choice"
                )
        elif choice not in (None, *_CHOICES):
            message = not_one_of("tool_choice", choice, _CHOICES)
            raise RequestError(f"{message}; or {_NAMED_FORM}", param="tool_choice")
        if choice == "required" and not self._functions:
            raise RequestError(
                "tool_choice is required, but there are no tools", param="tool_choice"
            )

    def _check_format(self) -> None:
        format = self.response_format
        if format is None:
            return
        kind = format.get("type") if isinstance(format, Mapping) else None
        if kind not in ("text", "json_object", "json_schema"):
            raise _invalid("response_format", format, _FORMAT_FORM)
        try:
            is_schema = isinstance(self.schema, (Mapping, type(None)))
        except (TypeError, ValueError):
            is_schema = False
        if not is_schema:
            raise _invalid("response_format", format, _FORMAT_FORM)
        if self.must_call and self.schema is not None:
            raise RequestError(
                "an answer that must be a call has no response_format", param="response_format"
            )


def _tools(tools: object) -> Sequence[Mapping[str, Any]]:
    if tools is None:
        return ()
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise _invalid("tools", tools, f"a list of {_TOOL_FORM}")
    return tools


def _function(i: int, tool: object) -> tuple[str, dict[str, Any]]:
    """Name and schema of a tool's function."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(f"tools[{i}]", tool, f"{_TOOL_FORM}, the name of letters, digits, _ - .")
    assert isinstance(function, Mapping)
    parameters = function.get("parameters")
    if not isinstance(parameters, (Mapping, type(None))):
        raise _invalid(f"tools[{i}] parameters", parameters, "a JSON schema")
    # with an id of its own, references such as "#/$defs/Place" begin at this schema
    own = {"$id": f"urn:function:{name}"}
    return name, own | dict(parameters or {"type": "object", "properties": {}})


def _invalid(name: str, value: object, expected: str) -> RequestError:
    param = name.partition("[")[0]
    return RequestError(f"invalid {name}={shown(value)}: expected {expected}", param=param)
