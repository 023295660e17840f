"""A headless browser for tests of pages: what it is made of, and what a page complained about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Opened:
    """A page in the browser, and all that it complained about since it was opened.

    Where a page forbids ``eval`` by its content security policy, playwright's ``wait_for_function``
    does not work: wait for elements, or use ``playwright.sync_api.expect``.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium; skips the test where there is none, and says how to get it."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'pytreellama[test]'"
    )
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield launched
        finally:
            launched.close()


@contextmanager
def opened(of: Browser, address: str, **options: Any) -> Iterator[Opened]:
    """A page in a context of its own.

    Args:
        options: of the context, such as color_scheme, reduced_motion and viewport.
    """
    context = of.new_context(**options)
    try:
        page = context.new_page()
        one = Opened(page)
        page.on("pageerror", lambda error: one.complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: _note_failure(one, request))
        page.on("console", lambda message: _note(one, message))
        page.goto(address)
        yield one
    finally:
        context.close()


def _note(one: Opened, message: Any) -> None:
    if message.type in ("error", "warning"):
        one.complaints.append(f"{message.type}: {message.text}")


def _note_failure(one: Opened, request: Any) -> None:
    if request.failure != "net::ERR_ABORTED":  # the page itself let go of it
        one.complaints.append(f"{request.failure}: {request.url}")
