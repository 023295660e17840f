"""Trees as text and as SVG."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree

SVG = "{http://www.w3.org/2000/svg}"
BUSH = TokenTree([11, 20, 12, 14, 13], [-1, -1, 0, 0, 2], [0.6, 0.3, 0.5, 0.1, 0.4])
NASTY = ["<|im_end|>", "\n", "\"quoted\" & 'single'", "\x00\x1b[31m", "\udcff]]>\\"]


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """x, y, width and height of each node, in the tree's order."""
    rects = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    x_y_w_h = [[float(rect.attrib[k]) for k in ("x", "y", "width", "height")] for rect in rects]
    return [(x, y, w, h) for x, y, w, h in x_y_w_h]


def shown_texts(svg: str) -> list[str]:
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return [text.text or "" for text in texts if text.get("class") != "p"]


# --- text -----------------------------------------------------------------------------------


def test_text_draws_a_line_a_node_depth_first() -> None:
    assert BUSH.with_p(None).to_text() == (
        "trunk\n"
        "├─ 11\n"
        "│  ├─ 12\n"
        "│  │  └─ 13\n"
        "│  └─ 14\n"
        "└─ 20"
    )  # fmt: skip


def test_text_shows_probabilities_and_marks_the_accepted_path() -> None:
    lines = BUSH.to_text(labels=["a", "b", "c", "d", "e"], accepted=BUSH.path(2)).split("\n")
    assert lines[1:4] == ["├─ a  p=0.6  ✓", "│  ├─ c  p=0.5  ✓", "│  │  └─ e  p=0.4"]


def test_text_takes_labels_from_a_function_of_the_token() -> None:
    text = BUSH.to_text(labels={11: " the", 12: "a\tb", 13: "", 14: "é", 20: "\\"}.__getitem__)
    assert re.findall(r"─ (.*?)  p", text) == ["␣the", r"a\tb", "(empty)", "é", r"\\"]


def test_text_has_no_colour_unless_asked_for() -> None:
    assert "\x1b" not in BUSH.to_text(accepted=[0])
    coloured = BUSH.to_text(accepted=[0], colour=True)
    assert coloured.count("\x1b[1;32m") == coloured.count("\x1b[0m") == 1
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == BUSH.to_text(accepted=[0])


def test_text_keeps_every_label_on_its_line_and_printable() -> None:
    text = BUSH.to_text(labels=NASTY)
    assert len(text.split("\n")) == 6
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert r"\n" in text and r"\x1b[31m" in text and r"\udcff" in text
    text.encode("utf-8")


def test_text_of_a_long_chain_needs_no_recursion() -> None:
    assert TokenTree.chain(range(2000)).to_text().endswith("└─ 1999")


def test_text_of_the_empty_tree_says_so() -> None:
    assert TokenTree.empty().to_text() == "trunk (no nodes)"


# --- what both refuse -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "accepted", "message"),
    [
        (["a"], (), "5 nodes but 1 labels"),
        ("abcde", (), "labels is one string"),
        ([1, 2, 3, 4, 5], (), "the label of node 0 is 1; a label is a string"),
        (lambda token: None, (), "the label of node 0 is None"),
        (None, [0, 5], r"accepted\[1\] is 5; allowed is 0\.\.4"),
        (None, [-1], r"accepted\[0\] is -1"),
        (None, [True], "accepted has dtype bool"),
    ],
)
def test_labels_and_accepted_nodes_must_fit_the_tree(
    labels: Any, accepted: Any, message: str
) -> None:
    for draw in (BUSH.to_text, BUSH.to_svg):
        with pytest.raises(TreeError, match=message):
            draw(labels, accepted)


# --- SVG ------------------------------------------------------------------------------------


def test_svg_is_well_formed_whatever_the_labels() -> None:
    svg = BUSH.to_svg(labels=NASTY, accepted=[0, 2])
    svg.encode("utf-8")
    assert shown_texts(svg) == [
        "<|im_end|> ✓",
        r"\n",
        "\"quoted\" & 'single' ✓",
        r"\x00\x1b[31m",
        r"\udcff]]>\\",
    ]


def test_svg_has_a_box_a_node_and_an_edge_to_each() -> None:
    root = ElementTree.fromstring(BUSH.to_svg())
    assert root.tag == f"{SVG}svg"
    assert len(list(root.iter(f"{SVG}rect"))) == len(list(root.iter(f"{SVG}path"))) == 5


def test_svg_names_itself_and_its_nodes_for_screen_readers() -> None:
    root = ElementTree.fromstring(BUSH.to_svg(labels=["x" * 40, *"bcde"], accepted=[0]))
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == "Token tree: 5 nodes, 3 leaves, 1 accepted"
    hover = [group.findtext(f"{SVG}title") for group in root.iter(f"{SVG}g")]
    assert hover[0] == "x" * 40 + ", node 0, token 11, depth 0, path probability 0.6, accepted"
    assert ElementTree.fromstring(BUSH.to_svg(title="<mine>"))[0].text == "<mine>"


def test_svg_highlights_the_accepted_path_alone() -> None:
    root = ElementTree.fromstring(BUSH.to_svg(accepted=BUSH.path(4)))
    groups = [group.get("class") for group in root.iter(f"{SVG}g")]
    assert groups == ["node accepted", "node", "node accepted", "node", "node accepted"]
    edges = [edge.get("class") for edge in root.iter(f"{SVG}path")]
    assert edges == ["accepted", None, "accepted", None, "accepted"]


def test_svg_follows_the_readers_theme_and_styles_nothing_else_on_the_page() -> None:
    style = ElementTree.fromstring(BUSH.to_svg()).findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    selectors = re.findall(r"([^{}]+)\{", style)
    assert all(".ptl-tree" in s or s.strip().startswith("@media") for s in selectors)


def test_svg_puts_children_right_of_their_parent_and_depths_in_columns() -> None:
    placed = boxes(BUSH.to_svg())
    for node, parent in enumerate(BUSH.parents.tolist()):
        if parent >= 0:
            assert placed[node][0] > placed[parent][0] + placed[parent][2]
    assert placed[0][0] == placed[1][0] and placed[2][0] == placed[3][0]


def test_svg_cuts_a_long_label_to_its_box() -> None:
    assert shown_texts(TokenTree.chain([1]).to_svg(labels=["x" * 60])) == ["x" * 23 + "…"]


def test_svg_gives_wide_characters_twice_the_room() -> None:
    narrow, wide = (
        boxes(TokenTree.chain([1]).to_svg([text]))[0][2] for text in ("abcd", "漢字漢字")
    )
    assert wide > narrow * 1.5


def test_svg_of_the_empty_tree_is_a_trunk_alone() -> None:
    root = ElementTree.fromstring(TokenTree.empty().to_svg())
    assert len(list(root.iter(f"{SVG}circle"))) == 1 and not list(root.iter(f"{SVG}rect"))


def test_notebooks_show_the_svg() -> None:
    assert BUSH._repr_svg_() == BUSH.to_svg()
