"""The live page in a browser: a chat with a real server, and the trees that it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

import httpx

from browser import Opened, browser, opened
from pytreellama.model.default_model import default_model_path
from served import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAME = "small"
KEY = "open-sesame"
QUESTION = "Count from one to twelve in words."
ANSWER_MS = 60_000.0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(default_model_path(), folder, "--alias", NAME, "--n-ctx", "2048") as one:
        yield one


def say(one: Opened, text: str) -> None:
    one.page.locator("#message").fill(text)
    one.page.locator("#send").click()


def wait_for_status(one: Opened, text: str) -> None:
    from playwright.sync_api import expect

    expect(one.page.locator("#status")).to_contain_text(text, timeout=ANSWER_MS)


def wait_for_model(one: Opened) -> None:
    from playwright.sync_api import expect

    expect(one.page.locator("#model")).to_have_text(NAME)


def answers(one: Opened) -> list[str]:
    return one.page.locator(".turn .marked").all_text_contents()


def api_answer(one: Served, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 256}
    answer = httpx.post(f"{one.url}/v1/chat/completions", json=body, timeout=60.0)
    content: str = answer.raise_for_status().json()["choices"][0]["message"]["content"]
    return content


def test_an_answer_comes_with_the_trees_it_was_made_of(chromium: Browser, server: Served) -> None:
    with opened(chromium, server.url) as one:
        wait_for_model(one)
        say(one, QUESTION)
        wait_for_status(one, "The model's answer, ")
        assert answers(one) == [api_answer(server, QUESTION)]
        one.page.locator("#steps .heading").wait_for()
        one.page.locator(".token.guessed").first.click()
        one.page.locator(".node.accepted").first.wait_for()
        assert one.page.locator(".node.drawn").count() == 1
        assert "passes" in one.page.locator(".about").inner_text()
        assert one.page.screenshot().startswith(b"\x89PNG")
        assert len(one.page.locator("#steps").screenshot()) > 10_000
        assert one.complaints == []


def test_a_chat_goes_on_and_a_new_one_begins(chromium: Browser, server: Served) -> None:
    with opened(chromium, server.url) as one:
        wait_for_model(one)
        for number in (1, 2):
            say(one, "Say hello.")
            one.page.locator(".turn .about").nth(number - 1).wait_for(timeout=ANSWER_MS)
            wait_for_status(one, "The model's answer, ")
        assert len(answers(one)) == 2
        one.page.locator("#new-chat").click()
        wait_for_status(one, "New chat")
        assert answers(one) == []
        assert one.page.locator("#welcome").is_visible()
        assert one.complaints == []


def test_an_answer_can_be_stopped_and_its_text_stays(chromium: Browser, server: Served) -> None:
    with opened(chromium, server.url) as one:
        wait_for_model(one)
        say(one, "Tell a very long story about the sea, with many chapters.")
        one.page.locator(".node").first.wait_for(timeout=ANSWER_MS)
        one.page.locator("#stop").click()
        wait_for_status(one, "The model's answer, stopped: ")
        assert answers(one)[0]
        assert one.page.locator("#stop").is_disabled()
        assert one.page.locator("#send").is_enabled()
        assert one.complaints == []


def test_a_page_whose_server_wants_a_key_asks_for_it(chromium: Browser, folder: Path) -> None:
    options = ("--alias", NAME, "--n-ctx", "2048", "--api-key", KEY)
    with (
        served(default_model_path(), folder, *options) as locked,
        opened(chromium, locked.url) as one,
    ):
        one.page.locator("#key-hint", has_text="API key").wait_for()
        assert one.page.locator("#alarm").is_hidden()
        one.page.locator("#key").fill("open-barley")
        one.page.locator("#key").press("Tab")
        one.page.locator("#alarm", has_text="does not know this API key").wait_for()
        assert one.page.locator("#key-hint").is_hidden()
        one.page.locator("#key").fill(KEY)
        one.page.locator("#key").press("Tab")
        wait_for_model(one)
        assert one.page.locator("#alarm").is_hidden()
        say(one, "Say hello.")
        wait_for_status(one, "The model's answer, ")
        assert answers(one)[0]
        # the browser's own words for the questions that had no key and a wrong one
        assert ["401" in complaint for complaint in one.complaints] == [True] * 2, one.complaints


def test_a_server_that_is_gone_is_said_to_be(chromium: Browser, folder: Path) -> None:
    options = ("--alias", NAME, "--n-ctx", "2048")
    with (
        served(default_model_path(), folder, *options) as leaving,
        opened(chromium, leaving.url) as one,
    ):
        wait_for_model(one)
        leaving.stop()
        say(one, "Are you there?")
        one.page.locator("#alarm", has_text="cannot be reached").wait_for()
        wait_for_status(one, "No answer")
        assert one.page.locator("#message").input_value() == "Are you there?"
