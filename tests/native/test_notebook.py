"""How results look where they are the last line of a notebook's cell."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

from pytreellama import Completion, Engine, Model, Stats, Step

PROMPT = "the cat and the dog and the cat and the dog"


def generated(engine: Engine) -> tuple[Completion, list[Step]]:
    steps: list[Step] = []
    return engine.generate(PROMPT, max_tokens=40, on_step=steps.append), steps


def test_a_step_is_a_picture_with_words(tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), "suffix", n_ctx=512, n_threads=1) as engine:
        _, steps = generated(engine)
        step = max(steps, key=lambda step: len(step.tree))
        svg = step._repr_svg_()
    ElementTree.fromstring(svg)
    assert f"{len(step.path) - 1} of {len(step.tree) - 1} draft nodes accepted" in svg
    assert "plan=" not in repr(step)
    numbers = step._repr_svg_()  # the vocabulary is closed
    ElementTree.fromstring(numbers)
    assert numbers != svg


def test_a_completion_is_its_text_and_a_table(tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), "suffix", n_ctx=512, n_threads=1) as engine:
        completion, _ = generated(engine)
    assert str(completion) == completion.text
    html = completion._repr_html_()
    assert "tokens a step" in html and f"<td style='text-align: left'>{completion.seed}" in html


def test_what_a_model_writes_is_escaped() -> None:
    completion = Completion("<script>alert(1)</script>", (), "stop", 1, Stats())
    assert "<script>" not in completion._repr_html_()
    assert "&lt;script&gt;" in completion._repr_html_()


def test_a_completion_is_one_short_line(tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), n_ctx=512) as engine:
        done = engine.generate(PROMPT, max_tokens=100, ignore_eos=True)
    assert len(repr(done)) < 400 and "\n" not in repr(done)
    assert f"100 tokens, ended by length, {done.stats.tokens_per_step:.2f} tokens per step" in repr(
        done
    )
    assert "tree_sizes" not in repr(done.stats)


def test_an_engine_says_what_it_is(tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), n_ctx=512, n_seq_max=3) as engine:
        assert "3 requests at once in a context of 512 tokens" in repr(engine)
    assert repr(engine).endswith(": closed>")
    with Engine(tiny_model("rope"), n_ctx=512) as engine:
        assert "1 request at once" in repr(engine)


def test_a_generation_says_whether_it_is_done(tiny_model: Callable[..., Model]) -> None:
    with Engine(tiny_model("rope"), n_ctx=512, n_threads=1) as engine:
        generation = engine.submit(PROMPT, max_tokens=400, ignore_eos=True)
        assert repr(generation) == "<Generation: not done>"
        generation.cancel()
        generation.result()
        assert repr(generation) == "<Generation: done>"
