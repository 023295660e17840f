"""The page's files and what it is told: complete, harmless, and in need of nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from pytreellama.cli import app
from pytreellama.engine import Step
from pytreellama.engine.completion import TokenLogp
from pytreellama.model.vocab import Vocab
from pytreellama.page.document import CONTENT_TYPES, asset, script_json, static_html
from pytreellama.page.steps import step_dict
from pytreellama.plan import Plan
from pytreellama.plan.choice import Choice
from pytreellama.tree import TokenTree
from pytreellama.tree.guesses import Guesses

PIECES = [b" is", b" Paris", b",", b" the", b"\n", b"\xf0\x9f", b"</script>"]
NASTY = "</script><script>alert(1)</script><!-- ]]> & \u2028 \ud800 \\ \"'"
NAMESPACES = {"http://www.w3.org/2000/svg"}


class Pieces:
    """A vocabulary of a few tokens."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        assert special
        return PIECES[token]


VOCAB = cast(Vocab, Pieces())


class Elements(HTMLParser):
    """What a page's elements load, and what scripts hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        of = dict(attrs)
        self.loads += [value for name in ("src", "href") if (value := of.get(name))]
        if tag == "style" or (tag == "script" and "src" not in of):
            self.inline.append(tag)
        self.inline += [name for name in of if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            self.scripts.append(data)


def step(**fields: Any) -> Step:
    tree = TokenTree([0, 1, 3, 2], [-1, 0, 0, 1], [1.0, 0.6, 0.25, 0.5])
    return Step(0, tree, (0, 1), (1, 4), **fields)


def planned() -> Plan:
    trees = [
        TokenTree([1, 3, 2], [-1, -1, 0], [0.6, 0.2, 0.5]),
        TokenTree([3], [-1], [0.25]),
    ]
    guesses = Guesses.of(trees, ["suffix", "recycling"])
    guesses.p = [0.6, 0.25, 0.5]
    return Plan(guesses, (0, 2, 1), Choice((3,), 2.0, 0.01, 100.0))


def page(steps: Sequence[dict[str, Any]] = (), **texts: str) -> str:
    given = {"title": "Trees", "model": "m.gguf", "prompt": "Paris", "text": ", the"} | texts
    return static_html(steps, **given)


def addresses(text: str) -> set[str]:
    return set(re.findall(r"(?:https?:|\bwss?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'`)]*", text))


# -- steps


def test_a_step_that_was_not_planned() -> None:
    told = step_dict(3, step(), VOCAB)
    assert told == {
        "number": 3,
        "tree": {
            "texts": ["␣is", "␣Paris", "␣the", ","],
            "parents": [-1, 0, 0, 1],
            "p": [None, 0.6, 0.25, 0.5],
            "drafters": None,
        },
        "path": [0, 1],
        "tokens": [{"text": "␣Paris", "logp": None}, {"text": "\\n", "logp": None}],
        "seconds": None,
        "plain_s": None,
    }


def test_a_planned_step_tells_who_proposed_what() -> None:
    told = step_dict(1, step(plan=planned()), VOCAB, seconds=0.0123, plain_s=0.0041)
    assert told["tree"]["drafters"] == [[], ["suffix"], ["suffix", "recycling"], ["suffix"]]
    assert (told["seconds"], told["plain_s"]) == (0.0123, 0.0041)


def test_logarithms_are_those_of_the_tokens_and_never_infinite() -> None:
    logprobs = (TokenLogp(1, -0.123456), TokenLogp(4, float("-inf")))
    told = step_dict(1, step(logprobs=logprobs), VOCAB)
    assert [token["logp"] for token in told["tokens"]] == [-0.1235, None]


def test_a_tree_without_probabilities_and_with_halves_of_characters() -> None:
    told = step_dict(1, Step(0, TokenTree([0, 5], [-1, 0]), (0,), (6,)), VOCAB)
    assert told["tree"]["p"] is None
    assert told["tree"]["texts"] == ["␣is", "\N{REPLACEMENT CHARACTER}"]
    assert told["tokens"] == [{"text": "</script>", "logp": None}]


def test_a_step_is_json_without_numpys_numbers() -> None:
    told = step_dict(1, step(plan=planned()), VOCAB)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


# -- files


@pytest.mark.parametrize("name", CONTENT_TYPES)
def test_no_file_names_an_address_outside(name: str) -> None:
    assert addresses(asset(name).decode("utf-8")) <= NAMESPACES


def test_the_live_page_has_nothing_inline_and_loads_what_there_is() -> None:
    elements = Elements(asset("index.html").decode("utf-8"))
    assert elements.inline == []
    local = [load for load in elements.loads if not load.startswith("#")]
    assert {load.removeprefix("assets/") for load in local} <= set(CONTENT_TYPES)
    assert all(load.startswith("assets/") for load in local)


@pytest.mark.parametrize("name", ["static.html", "../document.py", ""])
def test_nothing_else_is_an_asset(name: str) -> None:
    with pytest.raises(KeyError):
        asset(name)


# -- the static page


def test_the_static_page_needs_nothing_else() -> None:
    whole = page([step_dict(1, step(), VOCAB)])
    assert addresses(whole) <= NAMESPACES
    loads = [load for load in Elements(whole).loads if not load.startswith("#")]
    assert loads and all(load.startswith("data:") for load in loads)
    assert "import " not in whole.split('type="module"')[1].split("// --")[0]


def test_no_text_breaks_out_of_the_static_page() -> None:
    bad = step_dict(1, step(), VOCAB)
    bad["tree"]["texts"][1] = NASTY
    plain = Elements(page([step_dict(1, step(), VOCAB)]))
    nasty = page([bad], title=NASTY, model=NASTY, prompt=NASTY, text=NASTY, drafter="d" + NASTY)
    elements = Elements(nasty)
    assert elements.tags.count("script") == plain.tags.count("script") == 2
    assert "<!--" not in nasty
    nasty.encode("utf-8")
    data = json.loads(elements.scripts[0])
    assert data["text"] == data["prompt"] == data["steps"][0]["tree"]["texts"][1] == NASTY


def test_json_in_a_script_says_the_same() -> None:
    written = script_json({NASTY: [NASTY, 1.5, None]})
    assert not set("<>&") & set(written) and written.isascii()
    assert json.loads(written) == {NASTY: [NASTY, 1.5, None]}


# -- the command


def tree_command(path: Path, model: Path, *arguments: str) -> Any:
    command = ["tree", "the cat and the cat and the", "-m", str(model), "-n", "12", "--ignore-eos"]
    return CliRunner().invoke(app, [*command, "--html", str(path), *arguments])


def test_tree_writes_all_steps_as_one_page(
    tiny_model_path: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    result = tree_command(path, tiny_model_path("rope"), "-d", "suffix", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    data = json.loads(Elements(path.read_text(encoding="utf-8")).scripts[0])
    assert (data["prompt"], data["text"]) == ("the cat and the cat and the", told["text"])
    assert [one["number"] for one in data["steps"]] == [one["step"] for one in told["steps"]]
    assert [one["path"] for one in data["steps"]] == [one["path"] for one in told["steps"]]
    assert data["steps"][0]["seconds"] is None
    assert all(one["seconds"] > 0 for one in data["steps"][1:])
    assert all(one["plain_s"] is None for one in data["steps"])
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_planned_steps_say_what_plain_decoding_would_take(
    tiny_model_path: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    result = tree_command(path, tiny_model_path("rope"), "-d", "auto")
    assert result.exit_code == 0, result.stderr
    data = json.loads(Elements(path.read_text(encoding="utf-8")).scripts[0])
    assert all(one["plain_s"] > 0 for one in data["steps"])


def test_a_page_that_cannot_be_written_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    for path, why in [(tmp_path, "is a directory"), (tmp_path / "no" / "p.html", "no directory")]:
        result = tree_command(path, tmp_path / "no.gguf")
        assert result.exit_code == 1 and why in result.stderr
