"""The static page in a browser: trees are drawn, keys move, and nothing is asked of anyone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from browser import Opened, browser, opened
from pytreellama.page.document import static_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TEXT = " Paris, the\ncity </script> of light\N{SPARKLES}."


def step(
    number: int,
    texts: list[str],
    parents: list[int],
    path: list[int],
    drawn: str,
    drafters: list[list[str]] | None = None,
) -> dict[str, Any]:
    tokens = [{"text": texts[node], "logp": -0.1} for node in path[1:]]
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    return {
        "number": number,
        "tree": {
            "texts": texts,
            "parents": parents,
            "p": [None, *(0.7**depth for depth in depths[1:])],
            "drafters": drafters,
        },
        "path": path,
        "tokens": [*tokens, {"text": drawn, "logp": math.log(0.5)}],
        "seconds": None if number == 1 else 0.012,
        "plain_s": 0.01,
    }


def long_step(number: int) -> dict[str, Any]:
    """A tree of 64 nodes, 20 deep."""
    parents = [-1, *range(20), *(node % 21 for node in range(43))]
    return step(number, ["␣word"] * 64, parents, list(range(13)), "�")


STEPS = [
    step(1, ["␣is"], [-1], [0], "␣Paris"),
    step(
        2,
        ["␣Paris", ",", "␣the", "␣the", "."],
        [-1, 0, 0, 1, 0],
        [0, 1, 3],
        "\\n",
        [[], ["suffix"], ["recycling"], ["suffix", "recycling"], ["other"]],
    ),
    step(3, ["\\n", "city", "x"], [-1, 0, 0], [0, 1], "␣</script>"),
    step(4, ["␣</script>", "␣of", "␣light"], [-1, 0, 1], [0, 1, 2], "�"),
    step(5, ["�", "�"], [-1, 0], [0, 1], "."),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture
def address(tmp_path: Path) -> str:
    return write(tmp_path, STEPS)


def write(folder: Path, steps: list[dict[str, Any]]) -> str:
    path = folder / "page.html"
    html = static_html(steps, title="T", model="m.gguf", prompt="A <b>", text=TEXT, drafter="auto")
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


def labels(one: Opened, kind: str) -> list[str]:
    return one.page.locator(f".node.{kind} .label").all_text_contents()


def heading(one: Opened) -> str:
    return one.page.locator(".heading strong").inner_text()


def press(one: Opened, key: str, then: str) -> None:
    one.page.keyboard.press(key)
    one.page.locator(".heading strong", has_text=then).wait_for()


def test_keys_go_from_tree_to_tree_and_the_path_is_marked(chromium: Browser, address: str) -> None:
    with opened(chromium, address) as one:
        one.page.locator(".node").first.wait_for()
        assert heading(one) == "Step 1 of 5"
        assert (labels(one, "root"), labels(one, "drawn")) == (["␣is"], ["␣Paris"])
        press(one, "ArrowRight", "Step 2 of 5")
        assert labels(one, "accepted") == [",", "␣the"]
        assert labels(one, "guess") == ["␣the", "."]
        assert labels(one, "drawn") == ["\\n"]
        assert one.page.locator(".edge.accepted").count() == 2
        assert one.page.locator(".node.accepted .letter").all_text_contents() == ["S", "S", "R"]
        assert one.page.locator(".legend li").all_text_contents()[:3] == [
            "Ssuffix",
            "Rrecycling",
            "Tother",  # its O is that of model
        ]
        press(one, "ArrowLeft", "Step 1 of 5")
        assert one.complaints == []


def test_guesses_are_underlined_in_the_text_and_lead_to_their_steps(
    chromium: Browser, address: str
) -> None:
    with opened(chromium, address) as one:
        marked = one.page.locator(".marked")
        assert marked.text_content() == TEXT
        guessed = one.page.locator(".token.guessed").all_text_contents()
        assert guessed == [",", " the", "city", " of", " light", "\N{SPARKLES}"]
        assert one.page.locator("#prompt").text_content() == "A <b>"
        one.page.locator(".token", has_text="city").click()
        one.page.locator(".heading strong", has_text="Step 3 of 5").wait_for()
        assert one.page.locator(".token.current").all_text_contents() == ["city", " </script>"]
        assert one.complaints == []


def test_it_plays_to_the_end_and_can_be_paused(chromium: Browser, address: str) -> None:
    with opened(chromium, address) as one:
        one.page.locator(".node").first.wait_for()
        one.page.clock.install()
        press(one, " ", "Step 1 of 5")
        one.page.clock.run_for(1000)
        one.page.locator(".heading strong", has_text="Step 2 of 5").wait_for()
        one.page.get_by_role("button", name="Pause").click()
        one.page.clock.run_for(5000)
        assert heading(one) == "Step 2 of 5"
        one.page.get_by_role("button", name="Play").click()
        one.page.clock.run_for(5000)
        one.page.locator(".heading strong", has_text="Step 5 of 5").wait_for()
        one.page.get_by_role("button", name="Play").wait_for()
        assert one.complaints == []


def test_arrows_go_through_a_tree_that_has_the_focus(chromium: Browser, address: str) -> None:
    with opened(chromium, address) as one:
        press(one, "ArrowRight", "Step 2 of 5")
        one.page.locator(".node.root").focus()
        tip = one.page.locator(".tip")
        one.page.keyboard.press("ArrowRight")
        assert "proposed by suffix" in tip.inner_text()
        one.page.keyboard.press("ArrowDown")
        assert "drafted, rejected" in tip.inner_text()
        one.page.keyboard.press("End")
        assert "the model gave it 50%" in tip.inner_text()
        one.page.keyboard.press("Escape")
        assert tip.is_hidden()
        assert heading(one) == "Step 2 of 5"


def test_plain_speed_is_said_to_be_calculated(chromium: Browser, address: str) -> None:
    with opened(chromium, address) as one:
        press(one, "ArrowRight", "Step 2 of 5")
        numbers = one.page.locator(".numbers").inner_text().splitlines()
        assert numbers.count("by measured cost") == 1
        assert "over plain, by measured cost" in numbers
        # the first step, of which no time is known, counts for neither rate
        assert one.page.locator(".numbers .rate dd").inner_text() == "250"
        assert one.page.locator(".numbers .plainRate dd").inner_text() == "100"
        assert one.page.locator(".numbers .speedUp dd").inner_text() == "2.50×"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_a_large_tree_stays_legible_and_inside(
    chromium: Browser, tmp_path: Path, scheme: str, width: int
) -> None:
    address = write(tmp_path, [*STEPS, long_step(6)])
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    with opened(chromium, address, reduced_motion="reduce", **options) as one:
        one.page.get_by_role("button", name="Newest step").click()
        one.page.locator(".heading strong", has_text="Step 6 of 6").wait_for()
        assert one.page.locator(".node").count() == 65
        box = one.page.locator(".node.drawn .box").bounding_box()
        room = one.page.locator(".scroller").bounding_box()
        assert box is not None and room is not None
        assert box["height"] >= 19.0
        assert room["x"] <= box["x"] and box["x"] + box["width"] <= room["x"] + room["width"]
        assert room["y"] <= box["y"] and box["y"] + box["height"] <= room["y"] + room["height"]
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width
        assert one.complaints == []


def test_a_text_without_steps_says_so(chromium: Browser, tmp_path: Path) -> None:
    with opened(chromium, write(tmp_path, [])) as one:
        assert one.page.locator(".empty").is_visible()
        assert one.page.locator(".marked").text_content() == TEXT
        assert one.complaints == []
