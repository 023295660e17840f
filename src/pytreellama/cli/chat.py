"""``pytreellama chat``: a conversation with a model on the terminal."""

from __future__ import annotations

import contextlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytreellama.cli.conversation import Conversation
from pytreellama.cli.failures import as_one_line
from pytreellama.cli.line_input import LineInput
from pytreellama.cli.marked_text import LEGEND, MarkedText, is_coloured
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import EngineFlags
from pytreellama.errors import PyTreeLlamaError, RequestError, did_you_mean

if TYPE_CHECKING:
    from pytreellama.engine import Engine, Stats
    from pytreellama.model.model import Model

_COMMANDS = {
    "/help": "this list",
    "/clear": "forget the conversation, but not the system message",
    "/retry": "ask the last question again",
    "/undo": "take the last question and its answer back",
    "/system TEXT": "set the system message, and begin a new conversation; without TEXT, show it",
    "/stats": "what the last answer cost",
    "/save FILE": "write the conversation to a JSON file",
    "/load FILE": "continue a conversation that /save wrote",
    "/exit": "leave, as Ctrl-D and /bye do",
}
_LEAVE = ("/exit", "/bye", "/quit")


@dataclass(frozen=True, slots=True)
class ChatOptions(EngineFlags):
    """As ``generate`` has them."""

    max_tokens: Annotated[
        int | None,
        option(
            "--max-tokens",
            "-n",
            help="Maximum number of tokens of an answer. Default: what the context holds.",
            min=1,
        ),
    ] = None
    system: Annotated[str | None, option("--system", help="System message.")] = None

    def sampled(self, model: Model) -> dict[str, Any]:
        """Options of requests; without a seed, each answer draws its own."""
        from pytreellama.cli.session import as_keywords

        return {**as_keywords(self.sampling(model.metadata, is_chat=True)), "seed": self.seed}


@unpacked(ChatOptions)
def chat(
    options: ChatOptions,
    plain: Annotated[
        bool, option("--plain", help="Do not colour the tokens of accepted drafts.")
    ] = False,
) -> None:
    """Talk with a model.

    Ctrl-C stops an answer, Ctrl-D leaves. /help lists the commands. Text between two lines of
    triple quotes may have several lines.
    """
    from pytreellama.cli import session

    session.check_drafter(options.drafter_spec)
    with (
        session.load_model(options.model, options, options.drafter_spec) as model,
        session.open_engine(model, options, n_cached_prefixes=1) as engine,
        LineInput("chat") as lines,
    ):
        marked = MarkedText(model.vocab, in_colour=is_coloured(plain=plain))
        sampling = options.sampled(model)
        talk = Talk(engine, Conversation(options.system), marked, options.max_tokens, sampling)
        if lines.is_terminal:
            legend = f" ({LEGEND})" if marked.in_colour else ""
            typer.echo(f"{model.name}: /help lists commands, Ctrl-D leaves{legend}", err=True)
        talk.run(lines)


class Talk:
    """Reads lines, and answers or obeys.

    Args:
        engine: writes the answers.
        conversation: what has been said.
        marked: writes them to the terminal.
        max_tokens: of an answer; None for what the context holds.
        sampling: options of requests.
    """

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        marked: MarkedText,
        max_tokens: int | None,
        sampling: dict[str, Any],
    ) -> None:
        self._engine = engine
        self._conversation = conversation
        self._marked = marked
        self._options = {**sampling, "max_tokens": max_tokens}
        self._stats: Stats | None = None

    def run(self, lines: LineInput) -> None:
        """Go on until the input ends, or /exit."""
        for line in lines:
            text = line.strip()
            if not text:
                continue
            if text.split()[0] in _LEAVE:
                return
            try:
                if text.startswith("/"):
                    self._obey(text)
                else:
                    self._answer(text)
            except (PyTreeLlamaError, OSError) as error:
                typer.echo(f"error: {as_one_line(error)}", err=True)

    # -- answers

    def _answer(self, question: str) -> None:
        self._conversation.ask(question)
        try:
            text = self._written()
        except BaseException:
            self._conversation.undo()
            raise
        self._conversation.answer(text)

    def _written(self) -> str:
        """The answer, as far as it came; Ctrl-C stops it."""
        texts: list[str] = []
        messages = self._conversation.messages
        stream = self._engine.stream(messages, on_step=self._marked.on_step, **self._options)
        reason = None
        with closing(stream), contextlib.suppress(KeyboardInterrupt):
            for chunk in stream:
                texts.append(chunk.text)
                self._marked.write(chunk.text)
                if chunk.finish_reason is not None:
                    reason, self._stats = chunk.finish_reason, chunk.stats
        self._marked.reset()
        typer.echo("")
        if reason is None:
            typer.echo("(stopped)", err=True)
        elif reason == "length":
            limit = self._options["max_tokens"]
            typer.echo(f"(cut after {limit} tokens; -n sets another limit)", err=True)
        elif reason == "context":
            typer.echo("(cut: the context is full; /clear begins anew, -c sets its size)", err=True)
        return "".join(texts)

    # -- commands

    def _obey(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        known = [*(command.split()[0] for command in _COMMANDS), *_LEAVE]
        if name not in known:
            raise RequestError(
                f"unknown command {name}; /help lists them{did_you_mean(name, known)}"
            )
        if name in ("/save", "/load") and not argument:
            raise RequestError(f"{name} needs the path of a file")
        obey = {
            "/help": self._help,
            "/clear": self._clear,
            "/retry": self._retry,
            "/undo": self._undo,
            "/system": self._system,
            "/stats": self._show_stats,
            "/save": self._save,
            "/load": self._load,
        }
        obey[name](argument)

    def _help(self, _: str) -> None:
        width = max(map(len, _COMMANDS))
        for command, meaning in _COMMANDS.items():
            typer.echo(f"{command:<{width}}  {meaning}", err=True)

    def _clear(self, _: str) -> None:
        self._conversation.clear()
        typer.echo("(a new conversation)", err=True)

    def _retry(self, _: str) -> None:
        question = self._conversation.last_question()
        if question is None:
            raise RequestError("there is no question yet")
        self._answer(question)

    def _undo(self, _: str) -> None:
        if not self._conversation.undo():
            raise RequestError("there is no question yet")
        typer.echo("(taken back)", err=True)

    def _system(self, text: str) -> None:
        if not text:
            system = self._conversation.system
            shown = "none; /system TEXT sets one" if system is None else system
            typer.echo(f"(system message: {shown})", err=True)
            return
        self._conversation.system = None if text == '""' else text
        self._clear("")

    def _show_stats(self, _: str) -> None:
        stats = self._stats
        if stats is None:
            raise RequestError("there is no answer yet")
        typer.echo(
            f"{stats.n_prompt} tokens of prompt, {stats.n_shared} of them known; {stats.n_tokens} "
            f"tokens in {stats.decode_s:.2f} s ({stats.tokens_per_s:.1f} a second, "
            f"{stats.tokens_per_step:.2f} a pass)",
            err=True,
        )

    def _save(self, path: str) -> None:
        self._conversation.save(Path(path).expanduser())
        typer.echo(f"(saved to {path})", err=True)

    def _load(self, path: str) -> None:
        self._conversation.load(Path(path).expanduser())
        typer.echo(f"({len(self._conversation.turns)} messages)", err=True)
