"""The files of the page: as a server sends them, and as one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

CONTENT_TYPES: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "tree.js": "text/javascript; charset=utf-8",
    "chat.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""What the live page is made of: ``index.html`` is the page, all others lie in its ``assets/``."""

# none of these characters is needed in JSON outside of strings
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def asset(name: str) -> bytes:
    """One of the files of ``CONTENT_TYPES``, or KeyError."""
    if name not in CONTENT_TYPES:
        raise KeyError(name)
    return _bytes(name)


def static_html(
    steps: Sequence[Mapping[str, Any]],
    *,
    title: str,
    model: str,
    prompt: str,
    text: str,
    drafter: str = "",
) -> str:
    """All steps of one text as one HTML file, which loads nothing and may be kept or sent.

    Args:
        steps: as ``steps.step_dict`` makes them.
        model: its name.
        prompt: what the text continues.
        text: what the model wrote.
        drafter: what guessed.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    template = Environment(autoescape=True).from_string(_text("static.html"))
    data = {"steps": list(steps), "prompt": prompt, "text": text}
    return template.render(
        title=_encodable(title),
        model=_encodable(model),
        drafter=_encodable(drafter),
        icon=quote(_text("icon.svg"), safe=""),
        style=Markup(_text("style.css")),
        script=Markup(_text("tree.js")),
        data=Markup(script_json(data)),
    )


def script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in, nor begin a comment there."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def _encodable(text: str) -> str:
    """The text without lone surrogates, which command lines may hold and files may not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(name: str) -> str:
    return _bytes(name).decode("utf-8")


def _bytes(name: str) -> bytes:
    return (files("pytreellama.page") / "assets" / name).read_bytes()
