"""A sheet to draw on: SVG elements that take their colours from the page they stand in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from xml.etree import ElementTree

Point = tuple[float, float]

CHARACTER_WIDTH = 6.6
"""Pixels that a character of a label takes, about."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_N_TICKS = 5


class Sheet:
    """One drawing. The y axis points down; sizes are pixels at the drawing's own width.

    What an element looks like is said by its class (``kind``), which the page's style sheet knows.

    Args:
        title: what it shows, in a few words.
        description: what there is to see, for those who do not see it.
    """

    def __init__(self, width: float, height: float, title: str, description: str) -> None:
        self._root = ElementTree.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "class": "plot",
                "role": "img",
                "aria-label": clean(f"{title}. {description}"),
                "viewBox": f"0 0 {number(width)} {number(height)}",
            },
        )
        ElementTree.SubElement(self._root, "title").text = clean(title)
        ElementTree.SubElement(self._root, "desc").text = clean(description)

    def line(self, start: Point, end: Point, kind: str) -> None:
        """A straight line."""
        (x1, y1), (x2, y2) = start, end
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def rectangle(
        self, corner: Point, width: float, height: float, kind: str, hover: str = ""
    ) -> None:
        """A filled rectangle, of no width if that is negative; ``hover`` shows under a pointer."""
        (x, y), width = corner, max(width, 0.0)
        _explain(self._add("rect", kind, x=x, y=y, width=width, height=height), hover)

    def circle(self, centre: Point, radius: float, kind: str, hover: str = "") -> None:
        """A filled circle."""
        _explain(self._add("circle", kind, cx=centre[0], cy=centre[1], r=radius), hover)

    def curve(self, points: Iterable[Point], kind: str) -> None:
        """Straight lines from point to point."""
        self._add("polyline", kind).set("points", _listed(points))

    def area(self, points: Iterable[Point], kind: str) -> None:
        """What a closed line encloses."""
        self._add("polygon", kind).set("points", _listed(points))

    def text(self, at: Point, text: str, kind: str, anchor: str = "start") -> None:
        """A label, its ``anchor`` (start, middle or end) at a point."""
        element = self._add("text", kind, x=at[0], y=at[1])
        element.set("text-anchor", anchor)
        element.text = clean(text)

    def to_text(self) -> str:
        """The drawing as one ``<svg>`` element."""
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, kind: str, **numbers: float) -> ElementTree.Element:
        attributes = {name: number(value) for name, value in numbers.items()}
        return ElementTree.SubElement(self._root, tag, {"class": kind, **attributes})


def clean(text: str) -> str:
    """A text without the characters that XML and HTML files cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def number(value: float) -> str:
    """A number as SVG writes it, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(top: float) -> list[float]:
    """Round values from 0 to at least ``top``, about five of them, evenly spaced."""
    if not (math.isfinite(top) and top > 0.0):
        return [0.0, 1.0]
    rough = top / _N_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= 0.999 * rough)
    n_steps = math.ceil(0.999 * top / step)
    return [i * step for i in range(n_steps + 1)]


def _listed(points: Iterable[Point]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)


def _explain(element: ElementTree.Element, hover: str) -> None:
    if hover:
        ElementTree.SubElement(element, "title").text = clean(hover)
