"""What operators, methods and filters of templates build, counted before they build it.

Most take about what they are given. Named here are those that make much of little, such as
``'%1000000000d'``, ``2 ** (2 ** 30)`` or ``center``, or whose time grows faster than their input.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

from pytreellama.chat.work import Counted, listed, refuse, size, spend, weigh

Function = Callable[..., Any]

_INT_BITS_MAX = 8192
_INDENT_MAX = 64
_PRECISION_MAX = 1000
_STEP_BYTES_LOG2 = 5
_FAST_CODECS = frozenset(["utf-8", "utf8", "ascii", "latin-1", "latin1", "utf-16", "utf-32"])
_WIDTH = re.compile(r"\d+")
_PRINTF_WIDTH = re.compile(r"\d{4,}|\*")  # smaller ones make no text long


def spend_bytes(n_bytes: int) -> None:
    """Spend the steps of a text of so many bytes."""
    spend(max(n_bytes, 0) >> _STEP_BYTES_LOG2)


def spend_widths(spec: str) -> None:
    """Spend the steps of the widths and precisions that a format asks for."""
    digits = _WIDTH.findall(spec)
    if any(len(number) > 10 for number in digits):
        refuse("a format has a width of more than ten digits")
    spend_bytes(sum(map(int, digits)))


#
# operators
#


def _require_small(*values: Any) -> None:
    for value in values:
        if isinstance(value, int) and value.bit_length() > _INT_BITS_MAX:
            refuse(f"a number has more than {_INT_BITS_MAX} bits")


def _arithmetic(operate: Function) -> Function:
    def bounded(left: Any, right: Any) -> Any:
        if isinstance(left, (int, float)):
            _require_small(left, right)
        else:
            weigh(left)
            weigh(right)
        return operate(left, right)

    return bounded


def _add(left: Any, right: Any) -> Any:
    if type(left) is str and type(right) is str:  # what templates do most
        spend((len(left) + len(right)) >> 3)
    elif isinstance(left, (int, float)):
        _require_small(left, right)
    else:
        spend(size(left) + size(right))
    return left + right


def _multiply(left: Any, right: Any) -> Any:
    _require_small(left, right)
    for sequence, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(sequence, (str, bytes, list, tuple)):
            one = sequence.__sizeof__() if isinstance(sequence, (str, bytes)) else 8 * len(sequence)
            spend_bytes(one * times)
    return left * right


def _power(left: Any, right: Any) -> Any:
    _require_small(left, right)
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        n_bits = left.bit_length() * right
        if n_bits > _INT_BITS_MAX:
            refuse(f"a power has more than {_INT_BITS_MAX} bits")
    return left**right


def modulo(left: Any, right: Any) -> Any:
    """``left % right``: the remainder, or a text's printf-style format."""
    if isinstance(left, (str, bytes)):
        spec = left if isinstance(left, str) else left.decode("latin-1")
        _spend_printf(spec, right)
    else:
        _require_small(left, right)
    return left % right


def _spend_printf(spec: str, values: Any) -> None:
    n_values = weigh(values)
    widths = _PRINTF_WIDTH.findall(spec)
    spend_widths(" ".join(widths))
    if "*" in widths:
        given = values if isinstance(values, tuple) else (values,)
        spend_bytes(sum(abs(value) for value in given if isinstance(value, int)))
    # a tuple's values are written once each, a mapping's as often as they are named
    spend(size(spec) + (spec.count("%") * n_values if isinstance(values, Mapping) else 0))


OPERATORS: dict[str, Function] = {
    "+": _add,
    "-": _arithmetic(operator.sub),
    "*": _multiply,
    "/": _arithmetic(operator.truediv),
    "//": _arithmetic(operator.floordiv),
    "%": modulo,
    "**": _power,
}


#
# methods of texts, numbers and containers
#


def spend_method(function: Any, values: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Spend what calling a built-in method with these values takes, and its result."""
    owner, name = function.__self__, function.__name__
    given = (*values, *named.values())
    if isinstance(owner, (str, bytes)):
        spend(size(owner))
        _TEXT_GROWTH.get(name, _no_growth)(owner, given)
    elif isinstance(owner, int) and name == "to_bytes":
        _widths(owner, given)
    elif isinstance(owner, (list, tuple)) and name in ("count", "index"):
        weigh(owner)
    elif name == "copy":
        spend(size(owner))


def _no_growth(text: Any, given: tuple[Any, ...]) -> None:
    pass


def _widths(text: Any, given: tuple[Any, ...]) -> None:
    # characters take up to four bytes each
    spend_bytes(4 * sum(value for value in given if isinstance(value, int) and value > 0))


def _tabs(text: Any, given: tuple[Any, ...]) -> None:
    width = sum(value for value in given if isinstance(value, int) and value > 0)
    spend_bytes(text.count(type(text)(b"\t" if isinstance(text, bytes) else "\t")) * width * 4)


def _replaced(text: Any, given: tuple[Any, ...]) -> None:
    kind = bytes if isinstance(text, bytes) else str
    if len(given) >= 2 and isinstance(given[0], kind) and isinstance(given[1], kind):
        n_found = text.count(given[0]) if given[0] else len(text) + 1
        spend_bytes(n_found * given[1].__sizeof__())


def _joined(text: Any, given: tuple[Any, ...]) -> None:
    for values in given:
        if hasattr(values, "__len__"):
            spend_bytes(len(values) * text.__sizeof__())
        if isinstance(values, str):
            spend(len(values))


def _pieces(text: Any, given: tuple[Any, ...]) -> None:
    separator = given[0] if given and isinstance(given[0], (str, bytes)) else None
    n_pieces = len(text) // 2 if separator is None else text.count(separator)
    spend(2 * n_pieces)


def _stripped(text: Any, given: tuple[Any, ...]) -> None:
    # each character is looked for in those that are to be taken off
    if given and isinstance(given[0], (str, bytes)):
        spend(len(text) * len(given[0]) >> 7)


def _searched_backwards(text: Any, given: tuple[Any, ...]) -> None:
    # Python's search is linear only forwards
    if given and isinstance(given[0], (str, bytes)):
        spend(len(text) * len(given[0]) >> 10)


def _split_backwards(text: Any, given: tuple[Any, ...]) -> None:
    _searched_backwards(text, given)
    _pieces(text, given)


def _coded(text: Any, given: tuple[Any, ...]) -> None:
    encoding = str(given[0]).lower() if given else "utf-8"
    if encoding not in _FAST_CODECS:  # some, as punycode, take quadratic time
        spend(len(text) ** 2)
    spend(len(text) if len(given) > 1 else 0)


def _translated(text: Any, given: tuple[Any, ...]) -> None:
    if given and isinstance(given[0], Mapping):
        longest = max((size(value) for value in given[0].values()), default=0)
        spend(len(text) * longest)


_TEXT_GROWTH: dict[str, Callable[[Any, tuple[Any, ...]], None]] = {
    "center": _widths,
    "ljust": _widths,
    "rjust": _widths,
    "zfill": _widths,
    "expandtabs": _tabs,
    "replace": _replaced,
    "join": _joined,
    "split": _pieces,
    "rsplit": _split_backwards,
    "rpartition": _searched_backwards,
    "rfind": _searched_backwards,
    "rindex": _searched_backwards,
    "strip": _stripped,
    "lstrip": _stripped,
    "rstrip": _stripped,
    "encode": _coded,
    "decode": _coded,
    "splitlines": _pieces,
    "translate": _translated,
}


#
# filters
#

_FREE = frozenset(["default", "d", "length", "count", "first", "last", "abs", "random"])
_SHALLOW = frozenset(["attr", "list"])  # what is inside of their value stays as it is
_LAZY = frozenset(
    ["map", "select", "reject", "selectattr", "rejectattr", "batch", "slice", "reverse", "items"]
)
_SORTING = frozenset(["sort", "dictsort", "groupby", "unique", "min", "max"])
_BY_CHARACTER = frozenset(["title", "wordcount", "urlencode", "xmlattr"])
_QUADRATIC = frozenset(["wordwrap", "urlize", "striptags", "pprint"])


def bounded_filter(name: str, function: Function) -> Function:
    """A filter that spends what it takes before it runs."""
    if name in _FREE:
        return function
    if name in _LAZY:
        return _lazy_filter(function)
    grow = _FILTER_GROWTH.get(name)
    n_before = _n_passed(function)

    @functools.wraps(function)
    def bounded(*values: Any, **named: Any) -> Any:
        value = listed(values[n_before])
        rest = values[n_before + 1 :]
        for argument in (*rest, *named.values()):
            weigh(argument)
        if name in _SHALLOW:
            spend(len(value) if isinstance(value, Sized) else 1)
            return function(*values[:n_before], value, *rest, **named)
        n_steps = weigh(value)
        if name in _SORTING:
            spend(4 * max(n_steps, len(value) if isinstance(value, str) else 0))
        elif name in _BY_CHARACTER:
            spend(len(value) if isinstance(value, str) else n_steps)
        elif name in _QUADRATIC:
            _spend_quadratic(value, n_steps)
        if grow is not None:
            grow(value, *rest, **named)
        return function(*values[:n_before], value, *rest, **named)

    return bounded


def _lazy_filter(function: Function) -> Function:
    """A filter that gives an iterator: a step for each element, once it is read."""
    n_before = _n_passed(function)

    @functools.wraps(function)
    def bounded(*values: Any, **named: Any) -> Any:
        for argument in (*values[n_before + 1 :], *named.values()):
            weigh(argument)
            if isinstance(argument, int):
                spend(max(argument, 0))
        source = values[n_before]
        spend(len(source) if isinstance(source, str) else size(source))
        result = function(*values, **named)
        return Counted(result, source) if isinstance(result, Iterator) else result

    return bounded


def _n_passed(function: Function) -> int:
    """Arguments before the value: the environment or the context, if the filter asks for it."""
    return int(hasattr(function, "jinja_pass_arg"))


def _spend_quadratic(value: Any, n_steps: int) -> None:
    n = len(value) if isinstance(value, str) else n_steps
    spend(n + (n * n >> 12))


def _grow_center(value: Any, width: int = 80) -> None:
    _widths(value, (width,))


def _grow_indent(value: Any, width: int | str = 4, *_: Any, **__: Any) -> None:
    one = width if isinstance(width, int) else width.__sizeof__()
    spend_bytes((str(value).count("\n") + 1) * one)


def _grow_wordwrap(
    value: Any, width: int = 79, _long: bool = True, wrapstring: Any = None, *_: Any, **named: Any
) -> None:
    text = str(wrapstring or named.get("wrapstring") or "")
    spend_bytes(len(str(value)) * text.__sizeof__())


def _grow_format(value: Any, *values: Any, **named: Any) -> None:
    _spend_printf(str(value), named or values)


def _grow_replace(value: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    _replaced(str(value), (str(old), str(new)))


def _grow_join(value: Any, d: Any = "", *_: Any, **__: Any) -> None:
    _joined(str(d), (value,))


def _grow_trim(value: Any, chars: Any = None) -> None:
    _stripped(str(value), (chars,))


def _grow_round(value: Any, precision: int = 0, *_: Any, **__: Any) -> None:
    _require_small(value)
    if isinstance(precision, int) and abs(precision) > _PRECISION_MAX:
        refuse(f"round has a precision of more than {_PRECISION_MAX} digits")


def _grow_sum(value: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, (int, float)):  # each of its sums is a new list
        n_steps = weigh(value)
        spend(n_steps * n_steps >> 3)


_FILTER_GROWTH: dict[str, Function] = {
    "center": _grow_center,
    "indent": _grow_indent,
    "wordwrap": _grow_wordwrap,
    "format": _grow_format,
    "replace": _grow_replace,
    "join": _grow_join,
    "trim": _grow_trim,
    "round": _grow_round,
    "sum": _grow_sum,
}


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter ``tojson``: Jinja's own escapes for HTML, which a model was not trained on."""
    weigh(value)
    width = indent if isinstance(indent, int) else len(indent or "")
    if width > _INDENT_MAX or any(len(one) > _INDENT_MAX for one in separators or ()):
        refuse(f"tojson has an indent or a separator of more than {_INDENT_MAX} characters")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None:
        return encoder.encode(value)
    parts: list[str] = []
    for part in encoder.iterencode(value):
        spend_bytes(len(part))
        parts.append(part)
    return "".join(parts)


#
# tests
#

_COMPARING = frozenset(
    [
        *("in", "lower", "upper", "==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan"),
        *(">=", "ge", "<", "lt", "lessthan", "<=", "le"),
    ]
)
_DIVIDING: dict[str, Function] = {
    "even": lambda value: modulo(value, 2) == 0,
    "odd": lambda value: modulo(value, 2) == 1,
    "divisibleby": lambda value, num: modulo(value, num) == 0,
}


def bounded_test(name: str, function: Function) -> Function:
    """A test that spends what it takes before it runs."""
    if name in _DIVIDING:
        return _DIVIDING[name]
    if name not in _COMPARING:
        return function

    @functools.wraps(function)
    def bounded(*values: Any) -> Any:
        for value in values:
            weigh(value)
        return function(*values)

    return bounded
