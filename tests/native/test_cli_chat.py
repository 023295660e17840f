"""The chat command: piped conversations, its commands, and a terminal with its keys."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pytreellama import Engine, Model
from pytreellama.cli import app
from pytreellama.cli.chat import ChatOptions
from pytreellama.cli.marked_text import MarkedText
from tiny_models import IM_END

PathOf = Callable[..., Path]


def chat(model: Path, text: str, *arguments: str) -> Result:
    command = ["chat", "-m", str(model), "-n", "12", "--temp", "0", *arguments]
    result = CliRunner().invoke(app, command, input=text)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def test_answers_are_those_of_the_engine_to_the_whole_conversation(
    tiny_model: Callable[..., Model], tiny_model_path: PathOf
) -> None:
    with Engine(tiny_model("rope")) as engine:
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        first = engine.generate(messages, max_tokens=12, temperature=0).text
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "and"}]
        second = engine.generate(messages, max_tokens=12, temperature=0).text
    result = chat(tiny_model_path("rope"), "hi\nand\n", "--system", "be brief")
    assert result.stdout == f"{first}\n{second}\n"


def test_the_next_turn_reads_what_is_new_alone(tiny_model_path: PathOf) -> None:
    result = chat(tiny_model_path("rope"), "a long question of many words\n/stats\nhi\n/stats\n")
    said = [line for line in result.stderr.splitlines() if "of prompt" in line]
    known = [int(line.split(" of them known")[0].split()[-1]) for line in said]
    assert known[0] == 0 and known[1] > 20


def test_commands(tiny_model_path: PathOf, tmp_path: Path) -> None:
    path, kept = tiny_model_path("rope"), tmp_path / "talk.json"
    lines = [
        "/stats", "/retry", "/undo", "hi", "/retry", "/undo", f"/save {kept}", "/save",
        f"/load {tmp_path / 'none'}", "/sytem x", "/system be brief", f"/save {kept}", "/clear",
        "/help", "/exit", "never asked",
    ]  # fmt: skip
    result = chat(path, "\n".join(lines))
    assert result.stdout.count("\n") == 2, "hi, and hi once more"
    for text in (
        "error: there is no answer yet",
        "error: there is no question yet",
        "(taken back)",
        "error: /save needs the path of a file",
        "cannot be read",
        "error: unknown command /sytem; /help lists them; did you mean '/system'?",
        "(a new conversation)",
        "/retry",
    ):
        assert text in result.stderr
    assert '"be brief"' in kept.read_text()


def test_a_system_message_is_shown_and_taken_away_without_a_slip(tiny_model_path: PathOf) -> None:
    lines = ["/system", "hi", "/system be brief", "/system", '/system ""', "/system", "/bye", "hi"]
    said = chat(tiny_model_path("rope"), "\n".join(lines)).stderr.splitlines()
    shown = [line for line in said if line.startswith("(system") or "new" in line]
    none = "(system message: none; /system TEXT sets one)"
    new = "(a new conversation)"
    assert shown == [none, new, "(system message: be brief)", new, none]


def test_a_text_in_triple_quotes_has_several_lines(tiny_model_path: PathOf, tmp_path: Path) -> None:
    kept = tmp_path / "talk.json"
    chat(tiny_model_path("rope"), f'"""one\ntwo\n"""\n"""three"""\n/save {kept}\n')
    assert r'"one\ntwo"' in kept.read_text() and '"three"' in kept.read_text()


def test_a_pipe_that_ends_within_quotes_is_answered(tiny_model_path: PathOf) -> None:
    path = tiny_model_path("rope")
    assert chat(path, '"""\none\ntwo').stdout == chat(path, '"""\none\ntwo\n"""\n').stdout != ""
    assert chat(path, '"""\n').stdout == ""


def test_a_cut_answer_says_what_cut_it(tiny_model_path: PathOf) -> None:
    limited = chat(tiny_model_path("rope"), "hi\n", "--logit-bias", f"{IM_END}=-inf")
    assert "(cut after 12 tokens; -n sets another limit)" in limited.stderr
    arguments = ("-c", "256", "-n", "400", "--logit-bias", f"{IM_END}=-inf")
    full = chat(tiny_model_path("rope"), "hi\n", *arguments)
    assert "(cut: the context is full; /clear begins anew, -c sets its size)" in full.stderr


def test_a_failed_answer_leaves_the_conversation_as_it_was(tiny_model_path: PathOf) -> None:
    long = "word " * 3000
    result = chat(tiny_model_path("rope"), f"hi\n{long}\nhi\n", "-c", "256")
    assert "error: " in result.stderr
    assert result.stdout.count("\n") == 2


def test_marks_colour_the_accepted_tokens_and_change_no_text(
    tiny_model: Callable[..., Model], capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("rope")
    marked = MarkedText(model.vocab, in_colour=True)
    with Engine(model, "suffix") as engine:
        stream = engine.stream(
            "the cat and the dog and the cat and", max_tokens=60, on_step=marked.on_step,
            ignore_eos=True,
        )  # fmt: skip
        texts, stats = [], None
        for chunk in stream:
            texts.append(chunk.text)
            marked.write(chunk.text)
            stats = chunk.stats
    written = capsys.readouterr().out
    coloured = written.count("\x1b[32m")
    plain = written.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert plain == "".join(texts)
    assert stats is not None and stats.n_accepted > 0
    assert 0 < coloured <= stats.n_accepted


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_an_answer_can_be_stopped_and_the_chat_goes_on(
    tiny_model_path: PathOf, tmp_path: Path
) -> None:
    import pty

    model = str(tiny_model_path("rope"))
    chat_on_terminal = [sys.executable, "-c", _TAKE_TERMINAL, "chat", "-m", model, "-c", "4096"]
    master, slave = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    process = subprocess.Popen(
        [*chat_on_terminal, "--logit-bias", "2=-inf", "--logit-bias", "260=-inf"],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        screen = _Screen(master, process)
        screen.wait_for("> ")
        os.write(master, b"hi\n")
        time.sleep(1.5)  # it writes
        os.write(master, b"\x03")
        screen.wait_for("(stopped)")
        screen.wait_for("> ")
        os.write(master, b"/exit\n")
        assert process.wait(20) == 0
        assert "hi" in (tmp_path / "pytreellama" / "chat_history").read_text()
    finally:
        process.kill()
        process.wait()
        os.close(master)


_TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-X", "faulthandler", "-m", "pytreellama", *sys.argv[1:]])
"""
"""Runs the command in the session of its terminal, so that Ctrl-C reaches it."""


class _Screen:
    """Waits for texts in what a command writes to its terminal, one after the other."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master, self._process, self._unread = master, process, ""

    def wait_for(self, text: str) -> None:
        end_s = time.monotonic() + 90.0
        while text not in self._unread:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end_s - time.monotonic()))
            if not ready:
                self._process.send_signal(signal.SIGABRT)  # it says where it is
                time.sleep(2.0)
                self._unread += os.read(self._master, 8192).decode("utf-8", "replace")
                pytest.fail(f"{text!r} did not come; this did: {self._unread}")
            self._unread += os.read(self._master, 4096).decode("utf-8", "replace")
        self._unread = self._unread.partition(text)[2]


def test_sampling_is_what_was_given_or_what_the_file_recommends(
    tiny_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("rope")
    usual = ChatOptions().sampled(model)
    assert (usual["temperature"], usual["top_k"], usual["seed"]) == (0.8, 40, None)
    recommended = {"general.sampling.temp": "0.3", "general.sampling.penalty_repeat": "1.1"}
    monkeypatch.setitem(model.__dict__, "metadata", {**model.metadata, **recommended})
    sampled = ChatOptions(top_k=7).sampled(model)
    assert (sampled["temperature"], sampled["repeat_penalty"], sampled["top_k"]) == (0.3, 1.1, 7)
    given = ChatOptions(temperature=0.0, repeat_penalty=1.3, seed=5).sampled(model)
    assert (given["temperature"], given["repeat_penalty"], given["seed"]) == (0.0, 1.3, 5)
