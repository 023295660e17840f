"""Engines that plan their trees: the text stays the model's, and nothing breaks for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from exactness import needs_exact
from pytreellama import Engine, Model, Step, TokenTree
from pytreellama.context.context import Context
from pytreellama.draft import Auto, DrafterSpec, Recycling, Suffix
from pytreellama.engine import drafting, known_costs
from pytreellama.engine.calibration import measured_curve
from pytreellama.errors import DraftError
from pytreellama.plan import KNOTS, AttentionShare, CostCurve, PassCost, TextCost

TinyModel = Callable[..., Model]
Believe = Callable[[float], None]

PROMPT = "the cat and the dog and the cat and the"
SIZES: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}
NEVER_WRITTEN = 0  # <unk>
# passes that take so long that drafting takes no time beside them, and that real ones teach little
PLAIN_S = 1000.0


@pytest.fixture
def believe(monkeypatch: pytest.MonkeyPatch) -> Believe:
    """Lets engines believe that a node more costs so many plain steps, instead of measuring."""

    def set_price(price: float) -> None:
        knot_s = [PLAIN_S * (1.0 + price * (knot - 1)) for knot in KNOTS]
        text = TextCost(0.0, 0.0, 0.0, 0.0)
        monkeypatch.setattr(drafting, "load_curve", lambda _: CostCurve(knot_s, text))

    return set_price


@pytest.fixture
def costs_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where engines keep what passes cost, for this test alone; not made yet."""
    folder = tmp_path / "cache" / "costs"
    monkeypatch.setattr(known_costs, "_folder", lambda: folder)
    return folder


def plain(model: Model, prompt: str | list[int], **options: Any) -> tuple[int, ...]:
    with Engine(model, "none", **SIZES) as engine:
        return engine.generate(prompt, **options).tokens


def cache_is_empty(engine: Engine) -> bool:
    engine.clear_prefix_cache()
    seqs = range(engine.context.n_seq_max)
    return all(engine.context.memory.pos_max(seq) == -1 for seq in seqs)


class Scripted:
    """Proposes what a script says, however the text goes; `name` is its own."""

    def __init__(self, propose: Callable[[int], TokenTree], name: str = "scripted") -> None:
        self.name = name
        self.propose = propose

    def observe(self, tokens: Sequence[int]) -> None: ...
    def reset(self) -> None: ...


def always(token: int, p: float) -> Callable[[], Any]:
    """Makes drafters that propose one token again and again, always as sure of it."""

    def propose(n_nodes: int) -> TokenTree:
        return TokenTree.chain(
            [token] * min(n_nodes, 4), [p ** (i + 1) for i in range(4)][:n_nodes]
        )

    return lambda: Scripted(propose)


# -- the text


@needs_exact
@pytest.mark.parametrize("price", [None, 0.0, 2.0], ids=["measured", "free", "dear"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0, "seed": 5, "top_k": 20, "repeat_penalty": 1.1},
        {"temperature": 0.7, "seed": 1, "grammar": 'root ::= ("ab" | "cd")+'},
    ],
    ids=["greedy", "sampled", "grammar"],
)
def test_the_text_is_plain_decodings(
    tiny_model: TinyModel, believe: Believe, price: float | None, options: dict[str, Any]
) -> None:
    model = tiny_model("rope")
    if price is not None:
        believe(price)
    with Engine(model, **SIZES) as engine:
        done = [engine.generate(PROMPT, max_tokens=n, **options) for n in (60, 1, 2, 60)]
        assert cache_is_empty(engine)
    for completion, n in zip(done, (60, 1, 2, 60), strict=True):
        assert completion.tokens == plain(model, PROMPT, max_tokens=n, **options)
    n_drafted = sum(completion.stats.n_drafted for completion in done)
    assert price is None or (n_drafted > 0) is (price == 0.0)


@needs_exact
@pytest.mark.parametrize("price", [0.0, 0.2])
def test_many_sequences_share_a_plan(tiny_model: TinyModel, believe: Believe, price: float) -> None:
    model = tiny_model("rope")
    believe(price)
    prompts = [PROMPT[i:] for i in range(0, 24, 3)]
    with Engine(model, n_ctx=1024, n_threads=1, n_seq_max=4) as engine:
        done = engine.generate(prompts, max_tokens=40)
        assert cache_is_empty(engine)
    for prompt, completion in zip(prompts, done, strict=True):
        assert completion.tokens == plain(model, prompt, max_tokens=40)
    assert sum(completion.stats.n_drafted for completion in done) > 0


@needs_exact
def test_a_fork_goes_on_with_a_drafter_of_its_own(tiny_model: TinyModel, believe: Believe) -> None:
    believe(0.0)
    options: dict[str, Any] = {"temperature": 1.0, "seed": 3, "ignore_eos": True, "max_tokens": 150}
    with Engine(tiny_model("rope"), n_ctx=1024, n_threads=1, n_seq_max=2) as engine:
        parent = engine.submit(PROMPT, **options)
        next(parent)
        child = parent.fork()
        assert parent.result().tokens == child.result().tokens


# -- trees are as large as pays, and no larger than there is room


def sizes_of(engine: Engine, **options: Any) -> list[int]:
    """Guesses that were verified at each step."""
    sizes: list[int] = []
    engine.generate(PROMPT, on_step=lambda step: sizes.append(len(step.tree) - 1), **options)
    return sizes


@pytest.mark.parametrize("n_draft", [0, 1, 5])
def test_no_tree_is_larger_than_was_asked_for(
    tiny_model: TinyModel, believe: Believe, n_draft: int
) -> None:
    believe(0.0)
    drafters = Auto(always(7, 1.0), always(8, 1.0), always(9, 1.0))
    with Engine(tiny_model("rope"), drafters, n_draft=n_draft, **SIZES) as engine:
        assert max(sizes_of(engine, max_tokens=8)) == n_draft


def test_trees_end_where_the_context_does(tiny_model: TinyModel, believe: Believe) -> None:
    """Each drafter fills the room that is left, and together they propose more than it."""
    believe(0.0)
    model = tiny_model("rope")

    def hopeful(first: int) -> Callable[[], Any]:
        return lambda: Scripted(lambda n: TokenTree.chain(range(first, first + n), [1.0] * n))

    drafters = Auto(hopeful(5), hopeful(80), hopeful(155))
    with Engine(model, drafters, n_ctx=256, n_threads=1) as engine:
        n_prompt = len(engine.encode_prompt(PROMPT))
        done = engine.generate(PROMPT, max_tokens=1000, ignore_eos=True)
        assert done.finish_reason == "context"
        assert len(done.tokens) == 256 - n_prompt + 1
        assert max(done.stats.tree_sizes) > 32
        assert cache_is_empty(engine)


def test_guesses_that_cannot_pay_are_never_verified(
    tiny_model: TinyModel, believe: Believe
) -> None:
    believe(0.3)
    with Engine(tiny_model("rope"), Auto(always(NEVER_WRITTEN, 0.02)), **SIZES) as engine:
        assert sizes_of(engine, max_tokens=60, ignore_eos=True) == [0] * 60


def test_a_boaster_is_soon_found_out(tiny_model: TinyModel, believe: Believe) -> None:
    believe(0.3)
    with Engine(tiny_model("rope"), Auto(always(NEVER_WRITTEN, 0.9)), **SIZES) as engine:
        sizes = sizes_of(engine, max_tokens=80, ignore_eos=True)
        assert max(sizes[:5]) > 0
        assert sizes[40:] == [0] * 40
        assert sizes_of(engine, max_tokens=20, ignore_eos=True) == [0] * 20, "it was forgotten"


# -- statistics


def test_statistics_add_up(tiny_model: TinyModel, believe: Believe) -> None:
    believe(0.0)
    steps: list[Step] = []
    with Engine(tiny_model("rope"), Auto(Suffix(min_p=0.001)), **SIZES) as engine:
        done = engine.generate(PROMPT, max_tokens=80, on_step=steps.append)
    stats = done.stats
    assert stats.n_drafted == sum(len(step.tree) - 1 for step in steps) > 0
    assert stats.n_accepted == sum(len(step.path) - 1 for step in steps) > 0
    planned = [step for step in steps if len(step.tree) > 1]
    expected = [step.plan.n_expected for step in planned if step.plan is not None]
    assert len(expected) == len(planned)
    assert stats.n_expected == pytest.approx(sum(expected))
    assert 0.0 < stats.n_expected <= stats.n_drafted
    assert stats.drafters.keys() == {"suffix"}
    assert stats.drafters["suffix"].n_drafted == stats.n_drafted
    assert stats.drafters["suffix"].n_accepted == stats.n_accepted
    assert stats.plan_s > 0.0
    parts = stats.prefill_s + stats.draft_s + stats.plan_s + stats.target_s + stats.verify_s
    assert parts + stats.overhead_s == pytest.approx(stats.total_s)
    told = json.loads(json.dumps(stats.to_dict()))
    assert told["drafters"]["suffix"]["n_drafted"] == stats.n_drafted


def test_a_drafter_without_a_plan_is_counted_too(tiny_model: TinyModel) -> None:
    with Engine(tiny_model("rope"), "suffix", **SIZES) as engine:
        stats = engine.generate(PROMPT, max_tokens=60).stats
    ((name, counted),) = stats.drafters.items()
    assert (name, counted.n_drafted, counted.n_accepted) == (
        "suffix",
        stats.n_drafted,
        stats.n_accepted,
    )
    assert stats.n_drafted > 0


def test_a_guess_of_two_drafters_counts_for_both(tiny_model: TinyModel, believe: Believe) -> None:
    believe(0.0)
    drafters = Auto(Suffix(min_p=0.001), lambda: cast(Any, Renamed(Suffix(min_p=0.001)())))
    with Engine(tiny_model("rope"), drafters, **SIZES) as engine:
        stats = engine.generate(PROMPT, max_tokens=60).stats
    assert stats.n_drafted > 0
    assert stats.drafters["suffix"] == stats.drafters["twin"]
    assert stats.drafters["twin"].n_drafted == stats.n_drafted


class Renamed:
    """Another drafter under a name of its own."""

    name = "twin"

    def __init__(self, drafter: object) -> None:
        self._drafter = drafter

    def __getattr__(self, name: str) -> object:
        return getattr(self._drafter, name)


def test_plans_say_why_a_tree_is_as_it_is(tiny_model: TinyModel, believe: Believe) -> None:
    believe(0.0)
    steps: list[Step] = []
    with Engine(tiny_model("rope"), Auto(Suffix(min_p=0.001), Recycling()), **SIZES) as engine:
        engine.generate(PROMPT, max_tokens=40, on_step=steps.append)
    for step in steps:
        if step.plan is None:
            assert len(step.tree) == 1
            continue
        told = json.loads(json.dumps(step.plan.to_dict()))
        assert sum(candidate["taken"] for candidate in told["guesses"]) == len(step.tree) - 1
        assert sum(told["choice"]["sizes"]) == len(step.tree) - 1
        assert told["choice"]["gain"] >= 1.0
        proposers = step.plan.proposers(step.tree)
        assert proposers[0] == ()
        assert all(set(names) <= {"suffix", "recycling"} and names for names in proposers[1:])


# -- drafters of one's own, and faulty ones


@needs_exact
def test_a_drafter_of_ones_own_joins_in(tiny_model: TinyModel, believe: Believe) -> None:
    believe(0.0)
    model = tiny_model("rope")
    expected = plain(model, PROMPT, max_tokens=40)
    likely = max(set(expected), key=expected.count)
    with Engine(model, Auto(Suffix(), always(likely, 0.5)), **SIZES) as engine:
        done = engine.generate(PROMPT, max_tokens=40)
    assert done.tokens == expected
    assert done.stats.drafters["scripted"].n_drafted > 0
    assert done.stats.drafters["scripted"].n_accepted > 0


MARK = 300  # a token that only the faulty drafter's text has


class Faulty(Scripted):
    """Fails in one of its methods, once it has seen the mark."""

    n_top = 2

    def __init__(self, where: str, fault: Callable[[], object]) -> None:
        super().__init__(self._propose, "faulty")
        self._where, self._fault, self._is_bad = where, fault, False

    def _act(self, where: str, otherwise: object) -> object:
        return self._fault() if self._is_bad and where == self._where else otherwise

    def observe(self, tokens: Sequence[int]) -> None:
        self._act("observe", None)
        self._is_bad |= MARK in list(tokens)

    def observe_pass(self, *rows: object) -> None:
        self._act("observe_pass", None)

    def _propose(self, n_nodes: int) -> TokenTree:
        return self._act("propose", TokenTree.chain([7][:n_nodes], [0.9][:n_nodes]))  # type: ignore

    def reset(self) -> None:
        self._act("reset", None)


def _raise() -> object:
    raise RuntimeError("no idea")


@needs_exact
@pytest.mark.parametrize(
    ("where", "fault", "error", "message"),
    [
        ("propose", _raise, RuntimeError, "no idea"),
        ("observe", _raise, RuntimeError, "no idea"),
        ("observe_pass", _raise, RuntimeError, "no idea"),
        ("propose", lambda: TokenTree.chain([7, 8]), DraftError, "'faulty' proposed 2 nodes"),
        ("propose", lambda: TokenTree.chain([99999], [1.0]), DraftError, "token 99999"),
        ("propose", lambda: None, Exception, None),
    ],
    ids=["propose", "observe", "observe a pass", "no probabilities", "no token", "no tree"],
)
def test_a_faulty_drafter_ends_its_own_request(
    tiny_model: TinyModel,
    believe: Believe,
    where: str,
    fault: Callable[[], object],
    error: type[Exception],
    message: str | None,
) -> None:
    believe(0.0)
    model = tiny_model("rope")
    drafters = Auto(Suffix(min_p=0.001), lambda: cast(Any, Faulty(where, fault)))
    with Engine(model, drafters, n_ctx=512, n_threads=1, n_seq_max=2) as engine:
        good = engine.submit(PROMPT, max_tokens=50)
        bad = engine.submit([*engine.encode_prompt(PROMPT), MARK, 7, 7], max_tokens=50)
        with pytest.raises(error, match=message):
            bad.result()
        assert good.result().tokens == plain(model, PROMPT, max_tokens=50)
        assert cache_is_empty(engine)
        assert engine.generate(PROMPT, max_tokens=50).tokens == good.result().tokens


def test_a_drafter_that_cannot_be_reset_harms_nobody(
    tiny_model: TinyModel, believe: Believe
) -> None:
    believe(0.0)
    with Engine(
        tiny_model("rope"), Auto(lambda: cast(Any, Faulty("reset", _raise))), **SIZES
    ) as engine:
        for _ in range(2):
            done = engine.generate([MARK, 7, 7], max_tokens=8, ignore_eos=True)
            assert len(done.tokens) == 8


# -- what passes cost: measured, kept, found again


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rope", {"n_ctx": 16}),
        ("rope", {"n_ctx": 256, "n_batch": 8, "n_ubatch": 8}),
        ("rope", {"n_ctx": 256, "n_seq_max": 64}),
        ("rope", {"n_ctx": 512, "tree_encoding": "SEQUENCES", "n_seq_max": 250}),
        ("learned", {"n_ctx": 512}),
        ("swa", {"n_ctx": 1024, "swa_full": False}),
    ],
    ids=["small context", "small batches", "many", "leaves", "learned positions", "window"],
)
def test_costs_can_be_measured_in_tight_places(
    tiny_model: TinyModel, kind: str, options: dict[str, Any]
) -> None:
    sizes: dict[str, Any] = {"n_ctx_train": 64} if kind == "learned" else {}
    with Context(tiny_model(kind, **sizes), n_threads=1, **options) as context:
        curve = measured_curve(context, budget_s=0.2)
        assert 0.0 < curve.seconds(1) <= curve.seconds(2) <= curve.seconds(64)
        assert context.memory.n_cells_used == 0
        assert context.sequences.new() == 0


def test_three_sizes_are_measured_whatever_the_budget(tiny_model: TinyModel) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
        curve = measured_curve(context, budget_s=0.0)
    assert curve.is_known
    assert curve.to_dict()["sizes"] == [1, 2, 4]


def test_a_curve_of_fewer_than_three_sizes_is_neither_kept_nor_believed(
    tiny_model: TinyModel, costs_of_this_test: Path
) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
        of_two = CostCurve.fit([PassCost(1, 0, 0.1), PassCost(2, 0, 0.2)])
        known_costs.save_curve(context, of_two)
        assert not costs_of_this_test.exists()
        known_costs.save_curve(context, CostCurve.fit(PassCost(n, 0, 0.1) for n in (1, 2, 4)))
        assert known_costs.load_curve(context) is not None
        (file,) = costs_of_this_test.iterdir()
        file.write_text(json.dumps({"curve": of_two.to_dict()}))
        assert known_costs.load_curve(context) is None
        assert not file.exists()


def test_costs_are_kept_and_found_again(
    tiny_model: TinyModel, costs_of_this_test: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("rope")
    with Engine(model, **SIZES) as engine:
        assert engine.planner is None
        engine.generate(PROMPT, max_tokens=8)
        assert engine.planner is not None
        curve = engine.planner.curve.to_dict()
    (file,) = costs_of_this_test.iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["curve"] == curve
    monkeypatch.setattr(drafting, "measured_curve", lambda *_, **__: pytest.fail("measured again"))
    with Engine(model, **SIZES) as engine:
        engine.generate(PROMPT, max_tokens=1)
        assert engine.planner is not None
        assert engine.planner.curve.to_dict()["knots"] == curve["knots"]
    assert list(costs_of_this_test.iterdir()) == [file]


def test_other_circumstances_are_other_costs(
    tiny_model: TinyModel, costs_of_this_test: Path
) -> None:
    circumstances = (
        {"n_threads": 1},
        {"n_threads": 2},
        {"n_threads": 1, "type_k": "q8_0", "type_v": "q8_0"},
    )
    for options in circumstances:
        with Engine(tiny_model("rope"), n_ctx=256, **options) as engine:
            engine.generate(PROMPT, max_tokens=2)
    with Engine(tiny_model("rope", seed=5), n_ctx=256, n_threads=1) as engine:
        engine.generate(PROMPT, max_tokens=2)
    assert len(list(costs_of_this_test.iterdir())) == 4


def test_costs_of_an_older_format_are_dropped_with_a_word(
    tiny_model: TinyModel, costs_of_this_test: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
        known_costs.save_curve(context, CostCurve.fit(PassCost(n, 0, 0.1) for n in (1, 2, 4)))
        assert known_costs.load_curve(context) is not None
        older = known_costs._path(context, 1)
        (kept,) = costs_of_this_test.iterdir()
        kept.rename(older)
        with caplog.at_level("INFO", logger="pytreellama.engine.known_costs"):
            assert known_costs.load_curve(context) is None
    assert older.name in caplog.text
    assert not older.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"null",
        b"[]",
        b'{"curve": 3}',
        b'{"curve": {"knots": [1], "knot_s": [1], "read_s": 0}}',
        b'{"curve": {"knots": %s, "knot_s": [NaN], "read_s": 0}}' % str(list(KNOTS)).encode(),
        b'{"curve": {"knots": %s, "knot_s": %s, "read_s": 0, "sizes": [1, 2, 4]}}'
        % (str(list(KNOTS)).encode(), str([0.1] * len(KNOTS)).encode()),
    ],
)
def test_a_damaged_file_is_measured_anew(
    tiny_model: TinyModel,
    costs_of_this_test: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    curves: list[CostCurve] = []

    def measure(context: Context, share: AttentionShare) -> CostCurve:
        curves.append(measured_curve(context, share=share))
        return curves[-1]

    monkeypatch.setattr(drafting, "measured_curve", measure)
    for n_measured in (1, 2):
        with Engine(tiny_model("rope"), **SIZES) as engine:
            assert len(engine.generate(PROMPT, max_tokens=8, ignore_eos=True).tokens) == 8
        assert len(curves) == n_measured
        (file,) = costs_of_this_test.iterdir()
        assert json.loads(file.read_bytes())["curve"] == curves[-1].to_dict()
        file.write_bytes(content)


def test_a_folder_that_cannot_be_written_is_no_error(
    tiny_model: TinyModel, costs_of_this_test: Path
) -> None:
    costs_of_this_test.parent.write_text("a file where a folder should be")
    for _ in range(2):
        with Engine(tiny_model("rope"), **SIZES) as engine:
            assert len(engine.generate(PROMPT, max_tokens=8, ignore_eos=True).tokens) == 8


@pytest.mark.parametrize("drafter", ["none", "suffix", "auto"])
def test_nothing_is_kept_where_nothing_was_measured(
    tiny_model: TinyModel, costs_of_this_test: Path, drafter: DrafterSpec
) -> None:
    with Engine(tiny_model("rope"), drafter, **SIZES) as engine:
        if drafter != "auto":
            engine.generate(PROMPT, max_tokens=8)
            assert engine.planner is None
    assert not costs_of_this_test.exists()


@needs_exact
def test_what_cannot_be_measured_is_written_plainly(
    tiny_model: TinyModel, costs_of_this_test: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytreellama.errors import DecodeError

    def fail(*_: object, **__: Any) -> CostCurve:
        raise DecodeError("no such kernel")

    model = tiny_model("rope")
    monkeypatch.setattr(drafting, "measured_curve", fail)
    with Engine(model, **SIZES) as engine:
        done = engine.generate(PROMPT, max_tokens=30)
    assert done.tokens == plain(model, PROMPT, max_tokens=30)
    assert done.stats.n_drafted == 0
    assert not costs_of_this_test.exists()


def test_a_fault_before_the_first_text_ends_requests_and_holds_up_nobody(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> CostCurve:
        raise RuntimeError("as asked")

    monkeypatch.setattr(drafting, "load_curve", fail)
    with Engine(tiny_model("rope"), **SIZES) as engine:
        waiting = [engine.submit(PROMPT, max_tokens=8) for _ in range(3)]
        for generation in waiting:
            with pytest.raises(RuntimeError, match="as asked"):
                generation.result(timeout_s=20)
        assert cache_is_empty(engine)
