"""Engines with a verification rule: rejection is lossless, and a user's own rule is checked."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from chi_square import assert_drawn_from
from pytreellama import Context, Engine, Model, Sampler, SamplingParams, draft
from pytreellama.draft import DrafterSpec
from pytreellama.draft.drawn_growth import draws, tempered
from pytreellama.errors import DraftError, RequestError, SamplerError, TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, match, rejection, typical

TinyModel = Callable[..., Model]

PROMPT = "the cat and the dog and the cat and the"
SIZES: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}


@pytest.fixture
def drawing(tiny_model: TinyModel) -> Iterator[draft.Model]:
    """A draft model that draws; another model than the target."""
    with draft.Model(tiny_model("rope", seed=5), grow=(2, 2, 1), sample=1.0, **SIZES) as made:
        yield made


def exact(
    model: Model, prompt: list[int], params: SamplingParams, n: int
) -> dict[tuple[int, ...], float]:
    """Probability of each output of n tokens, by a pass for each beginning."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    with Context(model, **SIZES) as context:
        for _ in range(n):
            longer: dict[tuple[int, ...], float] = {}
            for path, p_path in found.items():
                context.prefill([*prompt, *path], seq=0, logits=True)
                row = context.outputs.logits_view[0]
                with Sampler(model.vocab, params, gives_distributions=True) as sampler:
                    sampler.accept_prompt([*prompt, *path])
                    p = sampler.distribution(row)
                context.memory.clear()
                for token in np.flatnonzero(p).tolist():
                    output = (*path, token)
                    longer[output] = p_path * float(p[token])
            found = longer
    return found


SAMPLED = {
    "top-k": {"temperature": 1.3, "top_k": 3},
    "penalties": {"temperature": 2.0, "top_k": 3, "repeat_penalty": 1.6, "presence_penalty": 0.5},
}


@pytest.mark.parametrize("kind", SAMPLED)
@pytest.mark.parametrize("drafter", ["drawing", "suffix"])
def test_outputs_are_distributed_as_the_model_has_them(
    drafter: str, kind: str, tiny_model: TinyModel, drawing: draft.Model
) -> None:
    model, n_outputs = tiny_model("rope"), 600
    options: dict[str, Any] = SAMPLED[kind]
    spec: DrafterSpec = drawing if drafter == "drawing" else drafter
    with Engine(
        model, spec, verify=rejection, n_seq_max=30, n_draft=10, n_cached_prefixes=0, n_ctx=2048,
        n_threads=1,
    ) as engine:  # fmt: skip
        prompt = engine.encode_prompt(PROMPT)
        done = engine.generate(
            prompt, n=n_outputs, max_tokens=2, ignore_eos=True, seed=1, **options
        )
    assert not done[0].stats.is_lossy
    p = exact(model, prompt, SamplingParams(**options), 2)
    counts = Counter(one.tokens for one in done)
    assert counts.keys() <= p.keys()
    assert_drawn_from(np.array([counts[one] for one in p]), np.array(list(p.values())))


def test_a_draft_from_the_models_own_distribution_is_accepted(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    usual: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "top_k": 40, "seed": 3}
    rates, texts = {}, []
    with draft.Model(model, grow="chain", n_levels=4, sample=1.0, **SIZES) as same:
        for rule in ("match", rejection):
            with Engine(model, same, verify=rule, n_seq_max=4, **SIZES) as engine:
                done = engine.generate(PROMPT, n=4, ignore_eos=True, **usual)
            stats = done[0].stats
            rates[rule] = stats.n_accepted / stats.n_drafted
            texts = [one.tokens for one in done]
    assert rates[rejection] > 0.99 > 0.8 > rates["match"]
    assert len(set(texts)) == 4, "each seed draws its own"


@pytest.mark.parametrize("drafter", ["none", "suffix+recycling", "auto", "drawing"])
def test_greedy_output_is_that_of_plain_decoding(
    drafter: str, tiny_model: TinyModel, drawing: draft.Model
) -> None:
    model = tiny_model("rope")
    spec: DrafterSpec = drawing if drafter == "drawing" else drafter
    with Engine(model, "none", **SIZES) as plain:
        expected = plain.generate(PROMPT, max_tokens=60)
    with Engine(model, spec, verify=rejection, **SIZES) as engine:
        assert engine.generate(PROMPT, max_tokens=60).tokens == expected.tokens
        constrained = engine.generate(PROMPT, max_tokens=60, regex="(a|b)+c")
    with Engine(model, "none", **SIZES) as plain:
        assert constrained.tokens == plain.generate(PROMPT, max_tokens=60, regex="(a|b)+c").tokens


def test_a_fork_draws_on_by_its_own_stream(tiny_model: TinyModel, drawing: draft.Model) -> None:
    with Engine(tiny_model("rope"), drawing, verify=rejection, n_seq_max=2, **SIZES) as engine:
        story = engine.submit(PROMPT, max_tokens=60, temperature=1.5, seed=1, ignore_eos=True)
        next(story)
        other = story.fork(seed=2)
        assert story.result().tokens != other.result().tokens


# -- a user's own rule


def test_a_rule_sees_the_distributions_and_decides(tiny_model: TinyModel) -> None:
    seen: list[tuple[int, float]] = []

    def likeliest(
        tree: TokenTree, target: Any, draft: Any, chance: Any, stop: Any = None
    ) -> Verdict:
        def choose(node: int) -> int:
            p = target(node)
            seen.append((len(tree), float(p.sum())))
            assert draft(node).sum() == 1.0
            return int(p.argmax())

        return match(tree, choose, stop)

    model = tiny_model("rope")
    with Engine(model, "suffix", verify=likeliest, **SIZES) as engine:
        done = engine.generate(PROMPT, max_tokens=40, temperature=1.5)
    with Engine(model, "none", **SIZES) as plain:
        assert done.tokens == plain.generate(PROMPT, max_tokens=40).tokens
    assert done.stats.is_lossy and done.stats.n_accepted > 0
    assert all(total == pytest.approx(1.0) for _, total in seen)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (None, "returned NoneType; it must return a Verdict"),
        (Verdict((), ()), "a path begins with node 0"),
        (Verdict((0,), (1, 2)), "2 tokens"),
        (Verdict((0, 1), (1, 2)), "the child of node 0 with that token is None"),
    ],
)
def test_a_verdict_that_does_not_fit_fails_the_request_alone(
    verdict: Any, said: str, tiny_model: TinyModel
) -> None:
    answers = itertools.chain([verdict], itertools.repeat(None))

    def rule(tree: TokenTree, target: Any, draft: Any, chance: Any, stop: Any = None) -> Any:
        one = next(answers)
        return match(tree, lambda node: chance.draw(target(node)), stop) if broken else one

    broken = False
    with Engine(tiny_model("rope"), "none", verify=rule, **SIZES) as engine:
        with pytest.raises(TreeError, match=said):
            engine.generate(PROMPT, max_tokens=4)
        broken = True
        assert len(engine.generate(PROMPT, max_tokens=4, ignore_eos=True).tokens) == 4


def test_functions_of_the_named_rules_are_the_named_rules(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with Engine(model, verify=match, **SIZES) as engine:  # type: ignore[arg-type]
        assert not engine.generate(PROMPT, max_tokens=4).stats.is_lossy
    lossy = Engine(model, verify=typical, **SIZES)  # type: ignore[arg-type]
    with lossy as engine, pytest.raises(RequestError, match="greedy requests alone"):
        engine.generate(PROMPT, temperature=1.0)


def test_what_a_rule_cannot_be_given_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with pytest.raises(RequestError, match="or give a function, such as pytreellama"):
        Engine(model, verify="rejection", **SIZES)  # type: ignore[arg-type]
    with Engine(model, verify=rejection, **SIZES) as engine:
        with pytest.raises(SamplerError, match="mirostat has no distribution"):
            engine.generate(PROMPT, temperature=1.0, mirostat=2)
        with pytest.raises(SamplerError, match="xtc_probability has no distribution"):
            engine.generate(PROMPT, temperature=1.0, xtc_probability=0.5)
        with pytest.raises(RequestError, match="takes no logits_processors"):
            engine.generate(PROMPT, logits_processors=[lambda tokens, row: row])


# -- distributions, and draws from them


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 1.0, "top_k": 20, "regex": "[a-f]+"},
        {"temperature": 1.0, "typical_p": 0.5, "logit_bias": {7: 3.0}},
        {"temperature": 0.0},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_distribution_is_what_the_sampler_draws_from(
    options: dict[str, Any], tiny_model: TinyModel
) -> None:
    vocab = tiny_model("rope").vocab
    row = np.random.default_rng(2).normal(0, 2.5, vocab.n_tokens).astype(np.float32)
    params = SamplingParams(**options)
    with Sampler(vocab, params, gives_distributions=True) as sampler:
        p = sampler.distribution(row)
    assert p.sum() == pytest.approx(1.0)
    counts = np.zeros(vocab.n_tokens)
    for seed in range(1500):
        with Sampler(vocab, SamplingParams(**options, seed=seed)) as drawn:
            counts[drawn.sample_row(row)] += 1
    if options["temperature"] == 0.0:
        assert counts.argmax() == p.argmax() and p.max() == 1.0
    else:
        assert_drawn_from(counts, p)


def test_draws_are_without_replacement_and_never_of_what_is_impossible() -> None:
    from random import Random

    row = tempered(([5, 6, 7, 8], [0.5, 0.3, 0.2, 0.0]), 0.5)
    assert row[0] == [5, 6, 7] and sum(row[1]) == pytest.approx(1.0)
    assert row[1][0] / row[1][2] == pytest.approx((0.5 / 0.2) ** 2)
    random, first = Random(1), Counter[int]()
    for _ in range(2000):
        drawn = [token for token, _ in draws(row, 5, random)]
        assert sorted(drawn) == [5, 6, 7]
        first[drawn[0]] += 1
    assert_drawn_from(np.array([first[token] for token in row[0]]), np.array(row[1]))
    assert tempered(([1], [0.0]), 1.0) == ([], [])


@pytest.mark.parametrize(
    ("options", "said"),
    [({"sample": 0.0}, "0.01 to 100"), ({"sample": 1.0}, "grow='best' keeps the likeliest")],
)
def test_options_of_drawing_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DraftError, match=said):
        draft.Model("nothing.gguf", **options)
