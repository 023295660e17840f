"""Conversation: the messages of a chat, and what its commands do to them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pytreellama.errors import RequestError
from pytreellama.files import replaced_file
from pytreellama.text_files import read_text

Message = dict[str, str]


@dataclass(slots=True)
class Conversation:
    """Messages in order; a system message is first, if there is one.

    Attributes:
        messages: what the model is shown.
    """

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + self.turns

    def ask(self, text: str) -> None:
        """Append what the user says."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Append what the model wrote."""
        self.turns.append({"role": "assistant", "content": text})

    def clear(self) -> None:
        """Forget all but the system message."""
        self.turns.clear()

    def undo(self) -> bool:
        """Take back the last question and its answer; False if there is none."""
        while self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        if not self.turns:
            return False
        self.turns.pop()
        return True

    def last_question(self) -> str | None:
        """What the user said last, taken back with its answer, to be asked again."""
        questions = [turn["content"] for turn in self.turns if turn["role"] == "user"]
        if not questions:
            return None
        self.undo()
        return questions[-1]

    def save(self, path: Path) -> None:
        """Write the messages as JSON, a list of role and content.

        Raises:
            OSError: the file cannot be written.
        """
        with replaced_file(path) as file:
            file.write(json.dumps(self.messages, ensure_ascii=False, indent=1).encode())

    def load(self, path: Path) -> None:
        """Continue a conversation that ``save`` wrote.

        Raises:
            RequestError: the file holds no such messages.
        """
        text = read_text(path, "the conversation")
        try:
            messages = json.loads(text)
            found = [{"role": one["role"], "content": one["content"]} for one in messages]
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{path} is no conversation: expected a JSON list of messages with role and content"
            ) from error
        if not all(isinstance(value, str) for one in found for value in one.values()):
            raise RequestError(f"{path} is no conversation: role and content must be texts")
        self.system = None
        if found and found[0]["role"] == "system":
            self.system = found.pop(0)["content"]
        self.turns = found
