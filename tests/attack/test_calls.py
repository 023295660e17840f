"""Answers that are nearly calls: whatever a model is made to write is read in linear time."""

from __future__ import annotations

import pytest

from alone import survives

_READ = """
import sys
from pytreellama.serve.calls import CallWatch, find_calls
functions = {"f": {"type": "object", "properties": {"a": {"type": "string"}}}}
text = eval(sys.argv[1])
for is_cut in (False, True):
    find_calls(text, functions, is_cut=is_cut)
    watch = CallWatch(functions)
    for start in range(0, len(text), 7):
        watch.push(text[start : start + 7])
    watch.finish(is_cut=is_cut)
"""

TEXTS = [
    r"'<function=f>' + '\n' * 200_000 + '</function>'",
    r"'<function=f>' + ('\n' + ' ' * 80) * 5_000 + '</function>'",
    "'<function=' * 50_000",
    "'<function=f>' * 50_000",
    "'<function=f>' + '<parameter=' * 50_000 + '</function>'",
    "'<function=f>' + '<parameter=a>' * 50_000 + '</function>'",
    "'<function=f>x</function>' * 20_000",
    "'<function=f></function>' + ' ' * 200_000 + 'x'",
    "'<tool_call>' * 50_000",
    "'<tool_call>' + '<function=f></function> ' * 20_000 + '</tool_call>'",
    "'<tool_call><function=f>' * 20_000 + '</tool_call>'",
    "'{\"name\"' + ' ' * 200_000",
    '\'{"name": "f", "arguments": {"a":\' + \'[\' * 200_000',
    "'{\"name\": \"f\", \"arguments\": ' + '[' * 900 + ']' * 900 + '}'",
    "' ' * 200_000",
    "'<' * 200_000",
]


@pytest.mark.parametrize(
    "text", [*TEXTS[:4], *(pytest.param(one, marks=pytest.mark.long) for one in TEXTS[4:])]
)
def test_an_answer_is_read_in_one_pass(text: str) -> None:
    survives(_READ, text, limit_s=60.0)
