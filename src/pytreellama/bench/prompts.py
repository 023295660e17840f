"""The prompts of a benchmark: our own, or those of a user's file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from pytreellama.errors import FileError, RequestError
from pytreellama.files import parse_json
from pytreellama.text_files import read_text

TextMessage = Mapping[str, str]

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_KEYS = ("messages", "turns", "prompt")
_CATEGORY_KEYS = ("category", "task")
_ALLOWED = (
    'one JSON object a line is expected, with "messages", "turns" (of which the first is asked) '
    'or "prompt", and "category" or "task" if you like'
)
_EXCERPT = 72


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """One prompt.

    Attributes:
        content: a text to continue, or the messages of a chat.
        category: the kind of task; empty if none is given.
        line: where it begins in its file, from 1.
    """

    content: str | tuple[TextMessage, ...]
    category: str = ""
    line: int = 0

    @property
    def text(self) -> str:
        """The text, or all messages' texts, a blank line between them."""
        if isinstance(self.content, str):
            return self.content
        return "\n\n".join(message["content"] for message in self.content)

    @property
    def excerpt(self) -> str:
        """Its beginning, on one line."""
        words = " ".join(self.text.split())
        return words if len(words) <= _EXCERPT else words[: _EXCERPT - 1] + "…"

    def as_chat(self) -> BenchPrompt:
        """The same, a text taken as a user's message."""
        if not isinstance(self.content, str):
            return self
        message = {"role": "user", "content": self.content}
        return BenchPrompt((message,), self.category, self.line)


def own_prompts() -> list[BenchPrompt]:
    """The prompts that come with the package: eight tasks, a few lines each."""
    data = files("pytreellama.bench") / "data" / "bench_prompts.jsonl"
    return _from_json_lines(data.read_text(encoding="utf-8"), "bench_prompts.jsonl")


def read_prompts(path: Path) -> list[BenchPrompt]:
    """The prompts of a file.

    JSON lines, if its name ends so (.jsonl, .ndjson, .json) or its first line is an object: one
    object a line with the ``messages`` of a chat, or ``turns`` as Spec-Bench has them (the first
    is a user's message), or ``prompt`` (a text to continue); and with ``category`` or ``task``.

    Anything else is text: its paragraphs are the prompts, blank lines between them; where there is
    one paragraph alone, each of its lines is a prompt.

    Raises:
        RequestError: it cannot be read, holds no prompts, or a line is not what it should be.
    """
    text = read_text(path, "--prompts")
    is_json = path.suffix.lower() in _JSON_SUFFIXES or _begins_with_an_object(text)
    prompts = _from_json_lines(text, str(path)) if is_json else list(_from_text(text))
    if not prompts:
        raise RequestError(
            f"--prompts {path} holds no prompts: {_ALLOWED}; or plain text, one prompt a paragraph"
        )
    return prompts


def limited(prompts: Iterable[BenchPrompt], n_each: int | None) -> list[BenchPrompt]:
    """The first so many prompts of each category, in their order; all of them if None."""
    kept: list[BenchPrompt] = []
    n_kept: dict[str, int] = defaultdict(int)
    for prompt in prompts:
        if n_each is None or n_kept[prompt.category] < n_each:
            kept.append(prompt)
            n_kept[prompt.category] += 1
    return kept


# -- plain text


def _from_text(text: str) -> Iterator[BenchPrompt]:
    numbered = enumerate(text.split("\n"), start=1)
    groups = groupby(numbered, key=lambda pair: bool(pair[1].strip()))
    paragraphs = [list(lines) for is_filled, lines in groups if is_filled]
    if len(paragraphs) == 1:
        paragraphs = [[line] for line in paragraphs[0]]
    for paragraph in paragraphs:
        yield BenchPrompt("\n".join(line for _, line in paragraph).strip(), line=paragraph[0][0])


# -- JSON lines


def _begins_with_an_object(text: str) -> bool:
    first = text.lstrip().split("\n", 1)[0]
    try:
        return isinstance(parse_json(first, ""), dict)
    except FileError:
        return False


def _from_json_lines(text: str, name: str) -> list[BenchPrompt]:
    lines = enumerate(text.split("\n"), start=1)
    return [_prompt_of(line, number, name) for number, line in lines if line.strip()]


def _prompt_of(line: str, number: int, name: str) -> BenchPrompt:
    try:
        fields = _object_of(line)
        content, category = _content_of(fields), _category_of(fields)
        _require_utf8(category, *_texts_of(content))
    except _MalformedLineError as error:
        raise RequestError(f"{name}, line {number} {error}; {_ALLOWED}") from None
    return BenchPrompt(content, category, number)


class _MalformedLineError(Exception):
    """What is wrong with a line, as the rest of a sentence that begins with its number."""


def _object_of(line: str) -> dict[str, Any]:
    try:
        fields = parse_json(line, "")
    except FileError as error:
        raise _MalformedLineError(str(error).strip()) from None
    if not isinstance(fields, dict):
        raise _MalformedLineError(f"is {_kind_of(fields)}, not an object")
    return fields


def _content_of(fields: Mapping[str, Any]) -> str | tuple[TextMessage, ...]:
    given = [key for key in _KEYS if key in fields]
    if len(given) != 1:
        found = " and ".join(map(repr, given)) or "none of " + ", ".join(map(repr, _KEYS))
        keys = ", ".join(sorted(fields)[:8]) or "none"
        raise _MalformedLineError(f"has {found}, where one was expected (its keys are: {keys})")
    value = fields[given[0]]
    if given[0] == "messages":
        return tuple(map(_message_of, _filled_list(value, "messages")))
    if given[0] == "turns":
        turn = _filled_text(_filled_list(value, "turns")[0], 'the first of "turns"')
        return ({"role": "user", "content": turn},)
    return _filled_text(value, '"prompt"')


def _message_of(value: Any) -> TextMessage:
    if not isinstance(value, dict):
        raise _MalformedLineError(f'has {_kind_of(value)} among its "messages", not an object')
    role = _filled_text(value.get("role"), 'a message\'s "role"')
    content = _filled_text(value.get("content"), 'a message\'s "content"')
    return {"role": role, "content": content}


def _category_of(fields: Mapping[str, Any]) -> str:
    for key in _CATEGORY_KEYS:
        if fields.get(key) is not None:
            return _filled_text(fields[key], f'"{key}"')
    return ""


def _filled_list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else _kind_of(value)
        raise _MalformedLineError(f'has {what} as "{key}", not a list of one or more')
    return value


def _filled_text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = "an empty text" if isinstance(value, str) else _kind_of(value)
        raise _MalformedLineError(f"has {found} as {what}, not a text")
    return value


def _texts_of(content: str | tuple[TextMessage, ...]) -> tuple[str, ...]:
    if isinstance(content, str):
        return (content,)
    return tuple(text for message in content for text in message.values())


def _require_utf8(*texts: str) -> None:
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise _MalformedLineError(f"has half a character, {half}, that stands alone") from None


def _kind_of(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names[type(value)]
