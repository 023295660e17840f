"""A tree as a standalone SVG: trunk at the left, one column a depth, one row a leaf."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from pytreellama.tree.arrays import Float32Array, Int32Array
from pytreellama.tree.draw_text import ACCEPTED_MARK
from pytreellama.tree.labels import Labels, accepted_nodes, node_labels, probability_text, shorten
from pytreellama.tree.layout import depths, is_leaf
from pytreellama.tree.mask import leaves

_CHARACTER_WIDTH = 7.3
_BOX_HEIGHT = 24.0
_ROW_HEIGHT = 34.0
_COLUMN_GAP = 36.0
_PADDING = 8.0
_MARGIN = 12.0
_TRUNK_RADIUS = 5.0
_LONGEST_LABEL = 24

# Every rule hangs on the class of the svg element: inlined in a notebook, a style sheet would
# otherwise reach the whole page. Backgrounds stay transparent, so only ink has to follow the theme.
# Colours are spelt out, because renderers outside browsers know no CSS variables.
_STYLE = """
.ptl-tree text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328;
  dominant-baseline: central; white-space: pre; }
.ptl-tree .p { font-size: 10px; fill: #59636e; }
.ptl-tree rect { fill: #f6f8fa; stroke: #8c959f; }
.ptl-tree path { fill: none; stroke: #8c959f; }
.ptl-tree circle { fill: #1f2328; }
.ptl-tree .accepted rect { fill: #dafbe1; stroke: #1a7f37; stroke-width: 2; }
.ptl-tree path.accepted { stroke: #1a7f37; stroke-width: 2.5; }
@media (prefers-color-scheme: dark) {
  .ptl-tree text { fill: #e6edf3; }
  .ptl-tree .p { fill: #9198a1; }
  .ptl-tree rect { fill: #161b22; stroke: #6e7681; }
  .ptl-tree path { stroke: #6e7681; }
  .ptl-tree circle { fill: #e6edf3; }
  .ptl-tree .accepted rect { fill: #12361f; stroke: #3fb950; }
  .ptl-tree path.accepted { stroke: #3fb950; }
}
"""


@dataclass(frozen=True, slots=True)
class _Box:
    """One node on the sheet; x is its left edge, y its middle, in pixels."""

    node: int
    x: float
    y: float
    width: float
    label: str
    p: str
    accepted: bool


def draw_svg(
    tokens: Int32Array,
    parents: Int32Array,
    p: Float32Array | None = None,
    *,
    labels: Labels = None,
    accepted: Iterable[int] = (),
    title: str | None = None,
) -> str:
    """The tree as one self-contained `<svg>` element, readable on light and dark pages.

    Arrays are those of a valid TokenTree (parents before children). `labels` is a function from
    token id to text or a sequence of one text a node; `accepted` lists nodes to highlight; `title`
    names the drawing for screen readers. A node shows its full label, token id, depth and path
    probability on hover. Raises TreeError where labels or accepted nodes do not fit the tree.
    """
    texts = node_labels(tokens, labels)
    marked = accepted_nodes(accepted, len(tokens))
    levels = depths(parents)
    boxes = _place(texts, parents, levels, p, marked)
    rows = _rows(parents)
    width = max((box.x + box.width for box in boxes), default=_trunk_x()) + _MARGIN + _TRUNK_RADIUS
    height = 2 * _MARGIN + _ROW_HEIGHT * max(1, int(is_leaf(parents).sum()))
    svg = _sheet(width, height, title or _default_title(parents, marked))
    trunk_y = _y(float(rows[parents < 0].mean())) if boxes else height / 2
    for box in boxes:
        parent = int(parents[box.node])
        start = (_trunk_x(), trunk_y) if parent < 0 else _right_end(boxes[parent])
        _add_edge(svg, start, box)
    _add(svg, "circle", cx=_trunk_x(), cy=trunk_y, r=_TRUNK_RADIUS)
    for box in boxes:
        hover = _hover_text(box, texts[box.node], int(tokens[box.node]), int(levels[box.node]))
        _add_box(svg, box, hover)
    return ElementTree.tostring(svg, encoding="unicode")


def _place(
    texts: list[str],
    parents: Int32Array,
    levels: Int32Array,
    p: Float32Array | None,
    marked: frozenset[int],
) -> list[_Box]:
    """A box a node: columns as wide as their widest label, rows from `_rows`."""
    shown = [
        shorten(text, _LONGEST_LABEL) + (f" {ACCEPTED_MARK}" if node in marked else "")
        for node, text in enumerate(texts)
    ]
    chances = [""] * len(texts) if p is None else list(map(probability_text, p.tolist()))
    widths = np.array(
        [
            2 * _PADDING + _CHARACTER_WIDTH * (_n_cells(label) + (len(chance) + 1 if chance else 0))
            for label, chance in zip(shown, chances, strict=True)
        ],
        dtype=np.float64,
    )
    column_widths = np.zeros(int(levels.max(initial=-1)) + 1)
    np.maximum.at(column_widths, levels, widths)
    lefts = np.cumsum(column_widths + _COLUMN_GAP) - column_widths + _trunk_x()
    rows = _rows(parents)
    return [
        _Box(
            node=node,
            x=float(lefts[levels[node]]),
            y=_y(float(rows[node])),
            width=float(widths[node]),
            label=shown[node],
            p=chances[node],
            accepted=node in marked,
        )
        for node in range(len(texts))
    ]


def _rows(parents: Int32Array) -> npt.NDArray[np.float64]:
    """Row of each node: leaves take a row each, a parent stands midway between its outer children.

    Leaves of different subtrees never interleave, so boxes of one column never overlap.
    """
    rows = np.zeros(len(parents))
    leaf_nodes = leaves(parents)
    rows[leaf_nodes] = np.arange(len(leaf_nodes))
    highest = np.where(is_leaf(parents), rows, np.inf)
    lowest = np.where(is_leaf(parents), rows, -np.inf)
    for node in range(len(parents) - 1, -1, -1):
        rows[node] = (highest[node] + lowest[node]) / 2
        parent = parents[node]
        if parent >= 0:
            highest[parent] = min(highest[parent], rows[node])
            lowest[parent] = max(lowest[parent], rows[node])
    return rows


def _sheet(width: float, height: float, title: str) -> ElementTree.Element:
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "ptl-tree",
            "role": "img",
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "width": _number(width),
            "height": _number(height),
        },
    )
    ElementTree.SubElement(svg, "title").text = title
    ElementTree.SubElement(svg, "style").text = _STYLE
    return svg


def _add_edge(svg: ElementTree.Element, start: tuple[float, float], box: _Box) -> None:
    (x0, y0), (x1, y1) = start, (box.x, box.y)
    middle = _number((x0 + x1) / 2)
    curve = f"M{_number(x0)} {_number(y0)}C{middle} {_number(y0)} {middle} {_number(y1)} "
    edge = ElementTree.SubElement(svg, "path", {"d": f"{curve}{_number(x1)} {_number(y1)}"})
    if box.accepted:
        edge.set("class", "accepted")


def _add_box(svg: ElementTree.Element, box: _Box, hover: str) -> None:
    group = ElementTree.SubElement(svg, "g", {"class": "node accepted" if box.accepted else "node"})
    ElementTree.SubElement(group, "title").text = hover
    top = box.y - _BOX_HEIGHT / 2
    _add(group, "rect", x=box.x, y=top, width=box.width, height=_BOX_HEIGHT, rx=5.0)
    _add(group, "text", x=box.x + _PADDING, y=box.y).text = box.label
    if box.p:
        right = _add(group, "text", x=box.x + box.width - _PADDING, y=box.y)
        right.set("class", "p")
        right.set("text-anchor", "end")
        right.text = box.p


def _add(parent: ElementTree.Element, tag: str, **numbers: float) -> ElementTree.Element:
    return ElementTree.SubElement(
        parent, tag, {name: _number(value) for name, value in numbers.items()}
    )


def _hover_text(box: _Box, label: str, token: int, depth: int) -> str:
    parts = [label, f"node {box.node}", f"token {token}", f"depth {depth}"]
    if box.p:
        parts.append(f"path probability {box.p}")
    if box.accepted:
        parts.append("accepted")
    return ", ".join(parts)


def _default_title(parents: Int32Array, marked: frozenset[int]) -> str:
    title = f"Token tree: {len(parents)} nodes, {int(is_leaf(parents).sum())} leaves"
    return f"{title}, {len(marked)} accepted" if marked else title


def _trunk_x() -> float:
    return _MARGIN + _TRUNK_RADIUS


def _y(row: float) -> float:
    return _MARGIN + _ROW_HEIGHT * (row + 0.5)


def _right_end(box: _Box) -> tuple[float, float]:
    return box.x + box.width, box.y


def _n_cells(text: str) -> int:
    """Columns that a monospace font needs: two for wide (CJK, emoji) characters."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
