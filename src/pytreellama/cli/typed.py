"""What was typed: options that the parser would misread, and names that other tools have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from pytreellama.errors import did_you_mean

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Of click, or of the copy of it that newer typers have."""

# of llama.cpp, Ollama and transformers, where no letters suggest ours
_ELSEWHERE = {
    "-cnv": "`pytreellama chat` is a conversation",
    "-no-cnv": "leave it out: `pytreellama generate` continues text, `pytreellama chat` talks",
    "-i": "`pytreellama chat` is a conversation",
    "-hf": "write -m hf:owner/name",
    "--hf-repo": "write -m hf:owner/name",
    "-fa": "leave it out: flash attention is used where the model allows it",
    "--flash-attn": "leave it out: flash attention is used where the model allows it",
    "-sys": "write --system",
    "--system-prompt": "write --system",
    "-np": "write --parallel (of `pytreellama serve`)",
    "-co": "leave it out: accepted tokens are coloured on a terminal",
    "--max-new-tokens": "write --max-tokens",
    "--repeat-last-n": "write --penalty-last-n",
    "--repetition-penalty": "write --repeat-penalty",
    "--draft-max": "write --n-draft",
    "--stream": "leave it out: text is always streamed",
}

_JOINED = re.compile(r"-[A-Za-z]{2}")


def require_readable(command: Any, arguments: Sequence[str]) -> None:
    """Refuse options that a command does not have, with advice where there is some.

    The parser reads ``-no-cnv`` as ``-n o-cnv``, and ``-mg 0`` as the model ``g`` with the prompt
    ``0``. Here a letter and its value are joined only where the value is a number, as in ``-n64``.

    Args:
        command: what the arguments are given to, as click sees it.
        arguments: those after the command's name.

    Raises:
        UsageError: an unknown option.
    """
    takes_value = _options(command)
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if name in takes_value:
            if takes_value[name] and "=" not in argument:
                next(left, None)
        elif name in _ELSEWHERE:
            raise UsageError(f"No such option: {name}; {_ELSEWHERE[name]}")
        elif _JOINED.match(argument):
            meant = did_you_mean(name, takes_value)
            advice = meant or _written_apart(name, takes_value)
            raise UsageError(f"No such option: {name}{advice}")


def _options(command: Any) -> dict[str, bool]:
    """Names of a command's options; whether a value follows them."""
    found = {"--help": False, "-h": False}
    for parameter in command.params:
        takes_value = not getattr(parameter, "is_flag", False)
        if parameter.param_type_name == "option":
            found |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), takes_value)
    return found


def _written_apart(name: str, options: dict[str, bool]) -> str:
    letter = name[:2]
    if options.get(letter):
        return f"; the value of {letter} is written after a space"
    return "; --help lists the options"


def with_advice(error: Exception) -> None:
    """Add what to do to a usage error that does not say it."""
    message = getattr(error, "message", "")
    if message.startswith("Got unexpected extra argument"):
        error.message = f"{message}; put a text of several words in quotes"  # type: ignore[attr-defined]
