"""Logits processors and stopping criteria: drafting changes neither what they see nor the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytreellama import Engine, Model, TokenTree
from pytreellama.errors import RequestError

TinyModel = Callable[..., Model]
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

PROMPT = list(range(20, 60))
SIZES: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}
N = 40


class Oracle:
    """Drafts the three tokens that follow in a known text, and a wrong one beside each."""

    name = "oracle"

    def __init__(self, text: tuple[int, ...]) -> None:
        self._text = text
        self._n_seen = -len(PROMPT)

    def observe(self, tokens: Any) -> None:
        self._n_seen += len(tokens)

    def propose(self, n_nodes: int) -> TokenTree:
        right = list(self._text[self._n_seen : self._n_seen + 3])
        paths = [
            [*right[:i], token] for i in range(len(right)) for token in (right[i], right[i] ^ 1)
        ]
        tree = TokenTree.from_paths(paths) if paths else TokenTree.empty()
        return tree.with_p([0.5 ** (depth + 1) for depth in tree.depths])

    def reset(self) -> None:
        self._n_seen = -len(PROMPT)


def only_every_third(tokens: Int32, logits: Float32) -> Float32:
    """Depends on the whole text, so that a wrong one changes the output."""
    banned = (np.arange(len(logits)) + int(tokens.sum())) % 3 != 0
    logits[banned] = -np.inf
    return logits


def texts(model: Model, drafter: Any, **options: Any) -> tuple[tuple[int, ...], int]:
    with Engine(model, drafter, **SIZES) as engine:
        completion = engine.generate(PROMPT, max_tokens=N, ignore_eos=True, **options)
    return completion.tokens, completion.stats.n_steps


SAMPLINGS = [{}, {"temperature": 0.8, "seed": 3}, {"repeat_penalty": 1.3, "top_k": 5}]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_processor_gives_the_same_text_with_any_tree(
    tiny_model: TinyModel, sampling: dict[str, Any]
) -> None:
    model, asked = tiny_model("rope"), {"logits_processors": [only_every_third], **sampling}
    plain, n_plain = texts(model, "none", **asked)
    assert plain != texts(model, "none", **sampling)[0], "the processor changes nothing"
    drafted, n_drafted = texts(model, lambda: Oracle(plain), **asked)
    assert drafted == plain
    assert n_drafted < n_plain / 2, "nothing was accepted, so nothing was tested"


def test_functions_see_each_position_once_in_order(tiny_model: TinyModel) -> None:
    seen: list[tuple[int, ...]] = []

    def look(tokens: Int32, logits: Float32) -> Float32:
        seen.append(tuple(tokens.tolist()))
        return logits

    plain, _ = texts(tiny_model("rope"), "none")
    drafted, _ = texts(tiny_model("rope"), lambda: Oracle(plain), logits_processors=[look])
    assert drafted == plain
    assert seen == [(*PROMPT, *plain[:i]) for i in range(N)]


def test_processors_are_applied_in_order(tiny_model: TinyModel) -> None:
    def to(token: int) -> Callable[[Int32, Float32], Float32]:
        def process(tokens: Int32, logits: Float32) -> Float32:
            row = np.full_like(logits, -1.0)
            row[token] = 1.0
            return row

        return process

    tokens, _ = texts(tiny_model("rope"), "none", logits_processors=[to(33), to(44)])
    assert tokens == (44,) * N


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_criterion_ends_the_output_behind_the_same_token(
    tiny_model: TinyModel, sampling: dict[str, Any]
) -> None:
    model = tiny_model("rope")
    whole, _ = texts(model, "none", **sampling)
    for n_wanted in (1, 2, 3, 7, N - 1):
        asked = {
            **sampling,
            "stopping_criteria": [lambda tokens, _, n=n_wanted: len(tokens) == len(PROMPT) + n],
        }
        assert texts(model, "none", **asked)[0] == whole[:n_wanted]
        assert texts(model, lambda: Oracle(whole), **asked)[0] == whole[:n_wanted]


def test_a_criterion_sees_the_row_that_the_token_was_drawn_from(tiny_model: TinyModel) -> None:
    rows: list[bool] = []

    def look(tokens: Int32, logits: Float32) -> bool:
        rows.append(int(logits.argmax()) == tokens[-1])
        return False

    texts(tiny_model("rope"), "none", stopping_criteria=[look])
    assert rows == [True] * N


def test_a_stopped_output_says_stop(tiny_model: TinyModel) -> None:
    with Engine(tiny_model("rope"), **SIZES) as engine:
        completion = engine.generate(
            PROMPT, max_tokens=N, stopping_criteria=[lambda tokens, logits: True]
        )
    assert (completion.finish_reason, len(completion.tokens)) == ("stop", 1)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returned <class 'NoneType'>"),
        (np.zeros(3, np.float32), r"returned float32 of shape \(3,\)"),
        ([0.0], "returned <class 'list'>"),
    ],
)
def test_a_processor_that_returns_no_row_fails_its_request_alone(
    tiny_model: TinyModel, returned: Any, said: str
) -> None:
    with Engine(tiny_model("rope"), n_seq_max=2, **SIZES) as engine:
        other = engine.submit(PROMPT, max_tokens=N)
        with pytest.raises(RequestError, match=f"a logits processor {said}"):
            engine.generate(PROMPT, logits_processors=[lambda tokens, logits: returned])
        assert other.result().tokens


@pytest.mark.parametrize("name", ["logits_processors", "stopping_criteria"])
def test_what_is_no_list_of_functions(tiny_model: TinyModel, name: str) -> None:
    async def late(tokens: Int32, logits: Float32) -> bool:
        return True

    with Engine(tiny_model("rope"), **SIZES) as engine:
        wrongs: list[Any] = [[5], [None], [late], late, "text"]
        for wrong in wrongs:
            with pytest.raises(RequestError, match=f"invalid (item of )?{name}"):
                engine.generate(PROMPT, **{name: wrong})


def test_the_lossy_rule_takes_none(tiny_model: TinyModel) -> None:
    with (
        Engine(tiny_model("rope"), verify="typical", **SIZES) as engine,
        pytest.raises(RequestError, match="greedy requests alone"),
    ):
        engine.generate(PROMPT, logits_processors=[only_every_third])
