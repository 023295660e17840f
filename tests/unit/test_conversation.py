"""A conversation of the chat command: what is shown to the model, taken back, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytreellama.cli.conversation import Conversation
from pytreellama.errors import RequestError


def talked() -> Conversation:
    conversation = Conversation("be brief")
    conversation.ask("one?")
    conversation.answer("1")
    conversation.ask("two?")
    conversation.answer("2")
    return conversation


def said(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages]


def test_messages_are_in_order_and_the_system_is_first() -> None:
    assert said(talked()) == ["be brief", "one?", "1", "two?", "2"]
    assert [m["role"] for m in talked().messages] == ["system", *(["user", "assistant"] * 2)]


def test_undo_takes_a_question_and_its_answer() -> None:
    conversation = talked()
    assert conversation.undo() and said(conversation) == ["be brief", "one?", "1"]
    assert conversation.undo() and said(conversation) == ["be brief"]
    assert not conversation.undo()


def test_a_question_without_an_answer_is_taken_alone() -> None:
    conversation = talked()
    conversation.ask("three?")
    assert conversation.undo() and said(conversation)[-1] == "2"


def test_the_last_question_is_given_back_to_be_asked_again() -> None:
    conversation = talked()
    assert conversation.last_question() == "two?"
    assert said(conversation) == ["be brief", "one?", "1"]
    assert Conversation().last_question() is None


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    talked().save(tmp_path / "talk.json")
    conversation = Conversation("something else")
    conversation.load(tmp_path / "talk.json")
    assert conversation == talked()


@pytest.mark.parametrize(
    "content",
    ["", "5", '{"a": 5}', "[5]", '[{"role": "user"}]', '[{"role": "user", "content": 5}]'],
)
def test_a_file_of_something_else_changes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "talk.json").write_text(content)
    conversation = talked()
    with pytest.raises(RequestError, match=r"talk\.json is no conversation"):
        conversation.load(tmp_path / "talk.json")
    assert conversation == talked()
