"""Drafters that read the target's hidden states in an engine: MTP and EAGLE-3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carried_drafts import CARRIED_KINDS, EAGLE3_KINDS, EAGLE3_TARGET, Float32, agreeing
from pytreellama import Completion, Context, Engine, Model
from pytreellama.context.draft_context import DraftContext, Piece
from pytreellama.draft import MTP, Auto, Eagle3, Merge, Recycling, Suffix
from pytreellama.draft.conditioned import ConditionedDrafter, ConditionedFactory
from pytreellama.engine.generation import Generation
from pytreellama.errors import DraftError, PyTreeLlamaError

Paths = Callable[..., Path]
Drafted = Callable[..., ConditionedFactory]

PROMPTS = [[1, *(261 + i * k % 59 for i in range(8 + 5 * k))] for k in range(1, 17)]
N_TOKENS = 32
SOME_KINDS = ("deepseek2-mtp", "qwen35-mtp", "eagle3")


@pytest.fixture(scope="module")
def agreeing_path(tiny_model_path: Paths, model_directory: Path) -> Paths:
    """NextN layers that are right at about half of the steps: so paths end everywhere."""

    def write(kind: str) -> Path:
        to = model_directory / f"{kind}-agreeing.gguf"
        return to if to.exists() else agreeing(tiny_model_path(kind), to, gain=0.2)

    return write


@pytest.fixture
def target(
    request: pytest.FixtureRequest, tiny_model_path: Paths, agreeing_path: Paths
) -> Iterator[tuple[Model, Drafted]]:
    """A target, and what makes factories of its drafters."""
    kind = request.param
    if kind not in EAGLE3_KINDS:
        with Model(agreeing_path(kind), load_mtp=True) as model:
            yield model, MTP
        return
    head = tiny_model_path(kind)
    with Model(tiny_model_path(EAGLE3_TARGET)) as model:
        yield model, lambda **options: Eagle3(head, **options)


# an indexer chooses cells by what is in the pass: such texts are exact in distribution alone
THINNED_KINDS = ("deepseek32-mtp", "glm-dsa-mtp")
EXACT_KINDS = [kind for kind in CARRIED_KINDS if kind not in THINNED_KINDS]

exact_kinds = pytest.mark.parametrize("target", EXACT_KINDS, indirect=True)
thinned_kinds = pytest.mark.parametrize("target", THINNED_KINDS, indirect=True)
some_kinds = pytest.mark.parametrize("target", SOME_KINDS, indirect=True)
mtp = pytest.mark.parametrize("target", ["deepseek2-mtp"], indirect=True)


def run(
    model: Model, drafter: Any, prompts: Any = None, *, max_tokens: int = N_TOKENS, **options: Any
) -> list[Completion]:
    sizes = {"n_ctx": 2048, "n_threads": 1, "n_seq_max": 4, **options}
    with Engine(model, drafter, **sizes) as engine:
        return engine.generate(prompts or PROMPTS[:4], max_tokens=max_tokens, ignore_eos=True)


def texts(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


def n_accepted(completions: list[Completion]) -> int:
    return sum(completion.stats.n_accepted for completion in completions)


# -- exact


@exact_kinds
def test_text_is_plain_decodings(target: tuple[Model, Drafted]) -> None:
    model, drafted = target
    plain = texts(run(model, "none"))
    for n_seq_max in (1, 4):
        completions = run(model, drafted(min_p=0.0), n_seq_max=n_seq_max, n_draft=12)
        assert texts(completions) == plain
        assert n_accepted(completions) > 0
        assert all(completion.stats.n_drafted > 100 for completion in completions)


@thinned_kinds
def test_models_with_an_indexer_accept_drafts(target: tuple[Model, Drafted]) -> None:
    model, drafted = target
    completions = run(model, drafted(min_p=0.0))
    assert n_accepted(completions) > len(completions) * N_TOKENS // 4


@some_kinds
def test_text_is_plain_decodings_merged_and_planned(target: tuple[Model, Drafted]) -> None:
    model, drafted = target
    plain = texts(run(model, "none"))
    assert texts(run(model, Merge(Suffix(), Recycling(), drafted(min_p=0.0)))) == plain
    assert texts(run(model, Auto(Suffix(), Recycling(), drafted()))) == plain
    assert texts(run(model, Auto(drafted(min_p=0.0)), n_seq_max=1)) == plain


@some_kinds
@pytest.mark.parametrize("n_shared", [0, 200])
def test_sixteen_requests_at_once_are_plain_decodings(
    target: tuple[Model, Drafted], n_shared: int
) -> None:
    model, drafted = target
    prompts = [[1, *([270] * n_shared), *prompt] for prompt in PROMPTS]
    plain = texts(run(model, "none", prompts, n_seq_max=16, n_ctx=8192))
    for n_cached in (0, 2):
        sizes = {"n_seq_max": 16, "n_ctx": 8192, "n_cached_prefixes": n_cached}
        completions = run(model, drafted(min_p=0.0), prompts, **sizes)
        assert texts(completions) == plain
        assert n_accepted(completions) > 0


@some_kinds
def test_samples_are_plain_decodings(target: tuple[Model, Drafted]) -> None:
    model, drafted = target

    def drawn(drafter: Any) -> tuple[int, ...]:
        with Engine(model, drafter, n_ctx=512, n_threads=1) as engine:
            answer = engine.submit(PROMPTS[0], max_tokens=N_TOKENS, temperature=1.0, seed=3)
            return answer.result().tokens

    assert drawn(drafted(min_p=0.0)) == drawn("none")


@some_kinds
@pytest.mark.parametrize("max_swap_bytes", [0, 1 << 30])
def test_a_request_that_was_preempted_goes_on_as_before(
    target: tuple[Model, Drafted], max_swap_bytes: int
) -> None:
    model, drafted = target
    options: dict[str, Any] = {"max_tokens": 120, "prompts": PROMPTS[:3], "n_seq_max": 3}
    plain = texts(run(model, "none", **options))
    completions = run(
        model, drafted(min_p=0.0), n_ctx=256, max_swap_bytes=max_swap_bytes, **options
    )
    assert texts(completions) == plain
    assert sum(completion.stats.n_preempted for completion in completions) > 0
    assert n_accepted(completions) > 0


@some_kinds
def test_forks_go_on_as_plain_decoding(target: tuple[Model, Drafted]) -> None:
    model, drafted = target

    def forked(drafter: Any) -> list[tuple[int, ...]]:
        with Engine(model, drafter, n_ctx=1024, n_seq_max=4, n_threads=1) as engine:
            parent = engine.submit(PROMPTS[0], max_tokens=60, ignore_eos=True)
            forks: list[Generation] = []
            for _chunk in parent:
                if not forks:
                    forks = [parent.fork() for _ in range(2)]
            return [parent.result().tokens, *(fork.result().tokens for fork in forks)]

    assert forked(drafted(min_p=0.0)) == forked("none")


@mtp
def test_a_text_that_was_shifted_goes_on_as_plain_decoding(
    target: tuple[Model, Drafted],
) -> None:
    model, drafted = target

    def shifted(drafter: Any) -> tuple[int, ...]:
        with Engine(model, drafter, n_ctx=96, n_threads=1) as engine:
            answer = engine.submit(
                PROMPTS[3], max_tokens=150, ignore_eos=True, context_shift=True, n_keep=4
            )
            return answer.result().tokens

    assert shifted(drafted(min_p=0.0)) == shifted("none")


# -- what is read


class Recording(ConditionedFactory):
    """Another factory's drafters, which keep the last token that the draft has read."""

    def __init__(self, inner: ConditionedFactory) -> None:
        limits = {"top": 4, "width": 4, "n_levels": 4}
        super().__init__("mtp", grow="best", min_p=0.0, calibrate=False, **limits)
        self._inner = inner
        self.roots: list[tuple[list[int], int, Float32]] = []

    def prepare(self, model: Model) -> None:
        self._inner.prepare(model)

    def _attached(self, context: Context) -> Any:
        return self._inner._attached(context)

    def __call__(self) -> ConditionedDrafter:
        drafter = super().__call__()
        grow = drafter._cache.grow

        def recorded(ask: Any) -> Any:
            tree = grow(ask)
            text = ask.text
            if text.root is not None:
                self.roots.append((list(text.tokens), text.start, text.root.state))
            return tree

        drafter._cache.grow = recorded  # type: ignore[method-assign]
        return drafter


def root_state(
    model: Model, tokens: list[int], *, head: Model | None, unknown: int | None = None
) -> Float32:
    """The draft's state of a text's last token where everything is decoded one by one.

    Args:
        head: the EAGLE-3 model, if the draft is one.
        unknown: index of a token whose state counts as zeros.
    """
    ids = np.array(tokens, np.int32)
    with Context(model, n_ctx=2048, n_threads=1) as context:
        layers = [model.n_layer] if head is None else head.target_layers
        context.outputs.keep_features(layers)
        rows = []
        for token in tokens[:-1]:
            context.decode(token, seq=0)
            rows.append(context.outputs.features([0], layers))
        whose = model if head is None else head
        with DraftContext(whose, context, n_seq_max=1, is_mtp=head is None) as draft:
            states = np.concatenate(rows)
            if head is None:
                states = np.concatenate([np.zeros_like(states[:1]), states])
            else:
                ids, states = ids[1:], draft.encode(states)
            if unknown is not None:
                states[unknown] = 0.0
            for i in range(len(ids)):
                draft.decode([Piece(0, ids[i : i + 1], states[i : i + 1])])
            return draft.states()[0]


@exact_kinds
def test_the_draft_has_read_the_text_as_sequential_decoding_leaves_it(
    target: tuple[Model, Drafted],
) -> None:
    """After trees of which parts were accepted, bit for bit, whatever else was in the passes."""
    model, drafted = target
    factory = Recording(drafted(min_p=0.0))
    run(model, factory, [[270 + i, *prompt] for i, prompt in enumerate(PROMPTS[:3])], max_tokens=16)
    assert len(factory.roots) >= 9
    head = Model(drafted()._path) if drafted is not MTP else None  # type: ignore[attr-defined]
    for tokens, start, state in factory.roots[-3:]:
        assert start == (0 if head is None else 1)
        assert np.array_equal(state, root_state(model, tokens, head=head))
    if head is not None:
        head.close()


@mtp
@pytest.mark.parametrize("n_cached_prefixes", [0, 2])
def test_a_shared_prefix_is_read_from_the_text_that_it_was_shared_with(
    target: tuple[Model, Drafted], n_cached_prefixes: int
) -> None:
    """All but the first token after it, whose state nobody computed again."""
    model, drafted = target
    factory = Recording(drafted(min_p=0.0))
    shared = PROMPTS[3][:20]
    prompts = [[*shared, 280, 281, 282], [*shared, 290, 291, 292]]
    with Engine(
        model,
        factory,
        n_ctx=1024,
        n_threads=1,
        n_seq_max=2 + n_cached_prefixes,
        n_cached_prefixes=n_cached_prefixes,
    ) as engine:
        if n_cached_prefixes:
            for prompt in prompts:
                answer = engine.generate(prompt, max_tokens=8, ignore_eos=True)
        else:
            answer = engine.generate(prompts, max_tokens=8, ignore_eos=True)[1]
    assert answer.stats.n_shared == len(shared)
    tokens, start, state = factory.roots[-1]
    assert tokens[: len(prompts[1])] == prompts[1]
    assert start == 0
    expected = root_state(model, tokens, head=None, unknown=len(shared))
    assert np.array_equal(state, expected)


@mtp
def test_a_fork_begins_with_what_was_read_of_its_parent(target: tuple[Model, Drafted]) -> None:
    model, drafted = target
    factory = Recording(drafted(min_p=0.0))
    with Engine(model, factory, n_ctx=1024, n_seq_max=4, n_threads=1) as engine:
        parent = engine.submit(PROMPTS[3], max_tokens=24, ignore_eos=True)
        fork = None
        for _chunk in parent:
            fork = fork or parent.fork(seed=7, temperature=2.0)
        assert fork is not None
        fork.result()
    # the first root of each text: the fork's is one token after the parent's prefix
    texts_read = {tuple(root[0][:30]): root for root in factory.roots}
    assert len(texts_read) >= 2
    for tokens, start, state in texts_read.values():
        assert start == 0
        assert np.array_equal(state, root_state(model, tokens, head=None))


@mtp
def test_running_requests_draft_in_the_same_passes(
    target: tuple[Model, Drafted], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, drafted = target
    passes: list[int] = []
    decode = DraftContext.decode

    def counted(self: DraftContext, pieces: Any, **options: Any) -> Any:
        passes.append(len(pieces))
        return decode(self, pieces, **options)

    monkeypatch.setattr(DraftContext, "decode", counted)
    prompts = [[270 + i, *PROMPTS[0]] for i in range(4)]
    completions = run(model, drafted(n_levels=3, min_p=0.0), prompts, max_tokens=20)
    n_steps = max(completion.stats.n_steps for completion in completions)
    assert sum(n == 4 for n in passes) >= 3 * (n_steps - 8)
    assert len(passes) <= 3 * n_steps + 4


@mtp
def test_proposing_changes_nothing(target: tuple[Model, Drafted]) -> None:
    model, _ = target
    proposals: list[tuple[list[int], list[int]]] = []

    class Twice(MTP):
        def __call__(self) -> ConditionedDrafter:
            drafter = super().__call__()
            propose = drafter.propose

            def twice(n_nodes: int) -> Any:
                first, other, again = propose(n_nodes), propose(n_nodes - 1), propose(n_nodes)
                proposals.append((first.tokens.tolist(), again.tokens.tolist()))
                assert len(other) < len(first)
                return first

            drafter.propose = twice  # type: ignore[method-assign]
            return drafter

    assert texts(run(model, Twice(min_p=0.0), n_seq_max=1)) == texts(run(model, "none"))
    assert all(first == again for first, again in proposals)
    assert proposals


@some_kinds
def test_a_factory_serves_one_engine_at_a_time(target: tuple[Model, Drafted]) -> None:
    model, drafted = target
    factory = drafted(min_p=0.0)
    with pytest.raises(PyTreeLlamaError, match="make an engine with"):
        factory()
    with Engine(model, factory, n_ctx=256, n_threads=1) as first:
        with pytest.raises(DraftError, match="for another engine"):
            Engine(model, factory, n_ctx=256, n_threads=1)
        plain = first.generate(PROMPTS[0], max_tokens=8, ignore_eos=True).tokens
    with Engine(model, factory, n_ctx=256, n_threads=1) as second:
        first.close()
        assert second.generate(PROMPTS[0], max_tokens=8, ignore_eos=True).tokens == plain


@some_kinds
def test_levels_that_tokens_are_not_worth_are_left_out(target: tuple[Model, Drafted]) -> None:
    model, drafted = target
    depths: list[int] = []

    class Priced(ConditionedDrafter):
        token_s = 1e6

        def propose(self, n_nodes: int) -> Any:
            self.announce(n_nodes, 0.0, self.token_s)
            tree = super().grow_likely(n_nodes, 0.0).tree()
            depths.append(int(tree.depths.max(initial=-1)))
            return tree

    def priced(self: ConditionedFactory) -> ConditionedDrafter:
        assert self._target is not None and self._cache is not None
        return Priced(self._name, self._target, self._layers, self._cache, self._growth)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConditionedFactory, "__call__", priced)
        with Engine(model, drafted(min_p=0.0), n_ctx=512, n_threads=1, n_draft=8) as engine:
            engine.generate(PROMPTS[0], max_tokens=12, ignore_eos=True)
            assert max(depths) > 0
            depths.clear()
            patch.setattr(Priced, "token_s", 0.0)
            engine.generate(PROMPTS[1], max_tokens=12, ignore_eos=True)
    assert max(depths) == 0
