"""Replies that are nearly calls: whatever a model is made to write is read in linear time."""

from __future__ import annotations

import pytest

from alone import survives

_READ = """
import sys
from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.markers import MARKERS
from pytreellama.chat.reply.reader import ReplyReader
functions = {"f": {"type": "object", "properties": {"a": {"type": "string"}}}}
text = eval(sys.argv[1])
for is_harmony in (False, True):
    for step in (7, len(text)):
        reader = ReplyReader(ReplyFormat(functions, MARKERS, is_harmony=is_harmony))
        for start in range(0, len(text), step):
            reader.push(text[start : start + step])
        reader.finish()
"""

TEXTS = [
    r"'<function=f>' + '\n' * 200_000 + '</function>'",
    r"'<function=f>' + ('\n' + ' ' * 80) * 5_000 + '</function>'",
    "'<function=' * 50_000",
    "'<function=f>' * 50_000",
    "'<function=f>' + '<parameter=' * 50_000 + '</function>'",
    "'<function=f>' + '<parameter=a>' * 50_000 + '</function>'",
    "'<function=f><parameter=a>' + '</parameter' * 50_000",
    "'<function=f>x</function>' * 20_000",
    "'<function=f></function>' + ' ' * 200_000 + 'x'",
    "'<tool_call>' * 50_000",
    "'<tool_call>' + '<function=f></function> ' * 20_000 + '</tool_call>'",
    "'<tool_call><function=f>' * 20_000 + '</tool_call>'",
    "'{\"name\"' + ' ' * 200_000",
    '\'{"arguments": {"a": "\' + \'x\' * 200_000 + \'"}, "name": "f"}\'',
    "'{\"arguments\": [' * 20_000",
    "'{' * 200_000",
    '\'{"name": "f", "arguments": {"a":\' + \'[\' * 200_000',
    "'{\"name\": \"f\", \"arguments\": ' + '[' * 900 + ']' * 900 + '}'",
    '\'{"name": "f", "arguments": {"a": "\' + chr(92) * 200_000',
    "'```' * 50_000",
    r"'```\n' * 50_000",
    r"'\n{' * 50_000",
    "'<think>' * 50_000",
    "'<|channel|>' * 50_000",
    "'<|channel|>final<|message|>' * 20_000",
    "'<|tool_call>call:f{a:' + '[' * 200_000",
    "'<|tool_call>call:f{' + 'a:' * 50_000",
    "'[f(a=' + '[' * 200_000",
    "'[f(a=' + '1,a=' * 50_000",
    "'[f(a=\\'' + chr(92) * 200_000",
    "'[f(a=' + '-' * 200_000 + '1)]'",
    "' ' * 200_000",
    "'<' * 200_000",
]


@pytest.mark.parametrize(
    "text", [*TEXTS[:4], *(pytest.param(one, marks=pytest.mark.long) for one in TEXTS[4:])]
)
def test_a_reply_is_read_in_one_pass(text: str) -> None:
    survives(_READ, text, limit_s=60.0)
