"""Prompts of a benchmark: what a file may hold, and what is said of one that holds other things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.bench.prompts import BenchPrompt, limited, own_prompts, read_prompts
from pytreellama.errors import RequestError


def written(tmp_path: Path, text: str | bytes, name: str = "prompts.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def test_our_own_prompts_are_of_eight_kinds() -> None:
    prompts = own_prompts()
    assert len(prompts) == len({prompt.category for prompt in prompts}) == 8
    assert all(prompt.text.strip() and not isinstance(prompt.content, str) for prompt in prompts)


def test_lines_as_spec_bench_keeps_them_give_the_first_turn(tmp_path: Path) -> None:
    line = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "x": [1]}
    (prompt,) = read_prompts(written(tmp_path, json.dumps(line) + "\n"))
    assert prompt == BenchPrompt(user("Write."), "writing", 1)


def test_messages_and_texts_and_tasks_are_taken(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    lines = [
        json.dumps({"messages": [system, *user("Hi")], "task": "greeting"}),
        "",
        json.dumps({"prompt": "Once upon", "category": None}),
    ]
    first, second = read_prompts(written(tmp_path, "\n".join(lines)))
    assert first == BenchPrompt((system, *user("Hi")), "greeting", 1)
    assert first.text == "Be brief.\n\nHi"
    assert second == BenchPrompt("Once upon", "", 3)


def test_separators_of_lines_within_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c"
    line = json.dumps({"prompt": text}, ensure_ascii=False)
    assert read_prompts(written(tmp_path, line))[0].content == text


def test_a_byte_order_mark_and_carriage_returns_are_no_matter(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [prompt.content for prompt in read_prompts(path)] == ["a", "b"]


def test_an_object_in_the_first_line_means_json_whatever_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "a"}', "questions")
    assert read_prompts(path)[0].content == "a"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "is not JSON"),
        ('{"prompt": "a"} x', "at character 17"),
        ("[" * 100_000, "nested too deeply"),
        ('["a"]', "is a list, not an object"),
        ("3", "is a number, not an object"),
        ("true", "is true or false, not an object"),
        ('{"text": "a", "id": 1}', "its keys are: id, text"),
        ("{}", "its keys are: none"),
        ('{"prompt": "a", "turns": ["b"]}', "has 'turns' and 'prompt'"),
        ('{"prompt": 3}', 'has a number as "prompt"'),
        ('{"prompt": "  "}', 'has an empty text as "prompt"'),
        ('{"turns": []}', 'has an empty list as "turns"'),
        ('{"turns": "a"}', 'has a text as "turns"'),
        ('{"turns": [["a"]]}', 'has a list as the first of "turns"'),
        ('{"messages": {"role": "user"}}', 'has an object as "messages"'),
        ('{"messages": ["a"]}', 'has a text among its "messages"'),
        ('{"messages": [{"role": "user"}]}', 'has nothing as a message\'s "content"'),
        ('{"messages": [{"content": "a"}]}', 'has nothing as a message\'s "role"'),
        ('{"prompt": "a", "category": 3}', 'has a number as "category"'),
        ('{"prompt": "\\ud800"}', "half a character, \\ud800"),
    ],
)
def test_a_malformed_line_is_told_with_its_number_and_what_is_allowed(
    line: str, found: str, tmp_path: Path
) -> None:
    path = written(tmp_path, '{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(RequestError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert f"{path}, line 3 " in message
    assert found in message
    assert '"messages", "turns"' in message


def test_paragraphs_of_a_text_are_prompts(tmp_path: Path) -> None:
    path = written(tmp_path, "\n  One,\ntwo.\n \t\n\nThree.\n", "prompts.txt")
    one, three = read_prompts(path)
    assert one == BenchPrompt("One,\ntwo.", "", 2)
    assert three == BenchPrompt("Three.", "", 6)


def test_lines_of_a_text_without_blank_lines_are_prompts(tmp_path: Path) -> None:
    path = written(tmp_path, "One.\nTwo.\n\n", "prompts.txt")
    assert read_prompts(path) == [BenchPrompt("One.", "", 1), BenchPrompt("Two.", "", 2)]


@given(st.lists(st.text("ab {}[]\"'\\", min_size=1).filter(str.strip), min_size=2))
def test_texts_come_back_as_paragraphs(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = written(tmp_path_factory.mktemp("texts"), "\n\n".join(["First.", *texts]), "a.txt")
    assert [prompt.content for prompt in read_prompts(path)] == [
        "First.",
        *(text.strip() for text in texts),
    ]


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.txt"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_prompts_is_told(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no prompts"):
        read_prompts(written(tmp_path, text, name))


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--prompts .*missing.* No such file"):
        read_prompts(tmp_path / "missing.jsonl")
    with pytest.raises(RequestError, match="--prompts"):
        read_prompts(tmp_path)
    with pytest.raises(RequestError, match="not UTF-8"):
        read_prompts(written(tmp_path, b"\xff\xfe"))


def test_a_limit_is_of_each_category() -> None:
    prompts = [BenchPrompt(text, text[0]) for text in ("a1", "b1", "a2", "a3", "b2")]
    assert [prompt.content for prompt in limited(prompts, 1)] == ["a1", "b1"]
    assert [prompt.content for prompt in limited(prompts, 2)] == ["a1", "b1", "a2", "b2"]
    assert limited(prompts, None) == prompts


def test_a_text_becomes_a_users_message_and_messages_stay() -> None:
    assert BenchPrompt("Hi", "a", 3).as_chat() == BenchPrompt(user("Hi"), "a", 3)
    chat = BenchPrompt(user("Hi"))
    assert chat.as_chat() is chat


def test_an_excerpt_is_one_short_line() -> None:
    assert BenchPrompt("a\n  b").excerpt == "a b"
    long = BenchPrompt("word " * 100).excerpt
    assert len(long) == 72 and long.endswith("…")
