"""Jinja's sandbox for chat templates, with their work counted and bounded.

Jinja's own sandbox keeps a template from reaching Python, and lets it run for hours or take all
memory. Here whatever a template does spends steps: passes of loops and macros, calls, operators,
comparisons, filters, and the texts that they make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import (
    ImmutableSandboxedEnvironment,
    SandboxedEscapeFormatter,
    SandboxedFormatter,
)
from jinja2.utils import Namespace
from markupsafe import Markup

from pytreellama.chat.counting import GUARDS, BoundedCodeGenerator
from pytreellama.chat.growth import (
    OPERATORS,
    bounded_filter,
    bounded_test,
    spend_method,
    spend_widths,
    to_json,
)
from pytreellama.chat.work import (
    CALL_PASSES,
    N_PASSES,
    N_STEPS,
    allowed,
    allowed_for,
    go_through,
    listed,
    refuse,
    size,
    spend,
    weigh,
)
from pytreellama.errors import ChatTemplateError

SOURCE_MAX = 1 << 17
"""Characters of a template; those of models have some 10,000."""

_MESSAGE_MAX = 1000  # characters that an error repeats of a template's own
_FORMAT_MAX = 1000  # characters of strftime's format


def compiled(source: str) -> Template:
    """A template, read and made ready.

    Raises:
        ChatTemplateError: it is too long, not valid, or nested too deep.
    """
    if len(source) > SOURCE_MAX:
        raise ChatTemplateError(
            f"the chat template has {len(source)} characters; expected at most {SOURCE_MAX}"
        )
    try:
        with allowed(N_PASSES, N_STEPS):
            return _environment().from_string(source)
    except ChatTemplateError:
        raise
    except Exception as error:  # Jinja and Python's compiler fail in many ways
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise ChatTemplateError(
            f"the chat template is not valid{where}: {_told_error(error)}"
        ) from error


def rendered(template: Template, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
    """What a template writes of messages and further variables.

    Raises:
        ChatTemplateError: it refuses its variables, fails, or does too much work for them.
    """
    try:
        with allowed_for(messages, variables):
            return template.render(variables, messages=messages)
    except ChatTemplateError:
        raise
    except Exception as error:  # a template is a program: it may fail in any way
        raise ChatTemplateError(
            f"the chat template failed on these messages: {_told_error(error)}"
        ) from error


def short(message: object) -> str:
    """A message of a template, at most some lines of it."""
    text = str(message)
    return text if len(text) <= _MESSAGE_MAX else f"{text[:_MESSAGE_MAX]}..."


def _told_error(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "RecursionError: it is nested too deep, or calls itself without end"
    if isinstance(error, TemplateSyntaxError):
        return short(error.message)
    return f"{type(error).__name__}: {short(error)}"


@cache
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment()


class GenerationBlocks(Extension):
    """``{% generation %}`` marks text for training, and changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own type

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What stands in the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Fields:
    """The fields of ``str.format``: each spends its width and its value."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        spend_widths(format_spec)
        weigh(value)
        return super().format_field(value, format_spec)  # type: ignore[misc]


class _Formatter(_Fields, SandboxedFormatter):
    pass


class _EscapeFormatter(_Fields, SandboxedEscapeFormatter):
    pass


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """What Hugging Face templates expect, in a sandbox that also bounds their work."""

    code_generator_class = BoundedCodeGenerator
    intercepted_binops = frozenset(OPERATORS)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants that bombs are made of would be folded while compiling
            finalize=_told,
            extensions=["jinja2.ext.loopcontrols", GenerationBlocks],
        )
        self.filters = {name: bounded_filter(name, one) for name, one in self.filters.items()}
        self.filters |= {"tojson": to_json, **GUARDS}
        tests: dict[str, Any] = self.tests
        self.tests = {name: bounded_test(name, one) for name, one in tests.items()}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]  # nonsense of any length
        self.binop_table = dict(OPERATORS)
        self.go_through = go_through

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """The text of all parts, if it may be so long."""
        pieces = list(parts)
        spend(sum(map(len, pieces)) >> 3)  # a character has up to four bytes
        return "".join(pieces)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call something, if its arguments and its result may be so large."""
        go_through(CALL_PASSES)
        if not (isinstance(function, (Macro, LoopContext)) or function is Namespace):
            args = tuple(map(listed, args))
            for value in args:
                weigh(value)
            given = {name: one for name, one in kwargs.items() if name not in _PASSED_BY_JINJA}
            for value in given.values():
                weigh(value)
            if isinstance(getattr(function, "__self__", None), _BUILT_IN):
                spend_method(function, args, given)
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """``str.format``, if its result may be so long."""
        if super().wrap_str_format(value) is None:
            return None
        text: str = value.__self__
        kind = type(text)
        formatter: Any = _Formatter(self)
        if isinstance(text, Markup):
            formatter = _EscapeFormatter(self, escape=text.escape)

        def bounded(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                (kwargs,), args = args, ()
            spend(size(text))
            return kind(formatter.vformat(text, args, kwargs))

        return bounded


_BUILT_IN = (str, bytes, int, list, tuple, dict)
_PASSED_BY_JINJA = frozenset(["_loop_vars", "_block_vars", "caller"])


def _told(value: Any) -> Any:
    """What ``{{ ... }}`` writes, if its text may be so long."""
    if not isinstance(value, str):
        weigh(value)
    return value


def _raise_exception(message: str) -> NoReturn:
    raise ChatTemplateError(f"the chat template refuses these messages: {short(message)}")


def _strftime_now(format: str) -> str:
    if len(format) > _FORMAT_MAX:
        refuse(f"strftime_now has a format of more than {_FORMAT_MAX} characters")
    return datetime.now().strftime(format)
