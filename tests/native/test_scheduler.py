"""Many requests at once: what each writes is what it writes alone, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from exactness import needs_exact
from pytreellama import AsyncEngine, Context, Engine, Model, TokenTree, draft
from pytreellama.draft import NoDrafter, Suffix, make_drafter
from pytreellama.engine.jobs import GenerateJob
from pytreellama.engine.prefill_share import N_SHORT, PrefillShare
from pytreellama.engine.request import Request
from pytreellama.engine.scheduler import Scheduler
from pytreellama.errors import ContextError, DraftError, QueueFullError, RequestError
from pytreellama.sampling.params import SamplingParams

TinyModel = Callable[..., Model]
EAGER = Suffix(min_p=0.001)
SIZES: dict[str, Any] = {"n_threads": 1}


def prompt_of(length: int, seed: int) -> list[int]:
    """Tokens that repeat themselves, so that there is something to draft."""
    rng = random.Random(seed)
    words = [rng.sample(range(5, 250), 4) for _ in range(3)]
    text: list[int] = []
    while len(text) < length:
        text += rng.choice(words)
    return text[:length]


class Desk:
    """A scheduler and what it needs, driven by the test itself."""

    def __init__(self, model: Model, drafter: draft.DrafterSpec = EAGER, **options: Any) -> None:
        self.drafter = drafter
        scheduling: dict[str, Any] = {
            name: options.pop(name) for name in ("n_prefill", "max_swap_bytes") if name in options
        }
        self.context = Context(model, **SIZES, **options)
        n_draft = 0 if drafter is NoDrafter else 8
        self.scheduler = Scheduler(self.context, n_draft, **scheduling)

    def add(self, prompt: list[int], max_tokens: int, **options: Any) -> GenerateJob:
        request = Request(np.array(prompt, np.int32), max_tokens, **options)
        job = GenerateJob(request, self.context.model.vocab, make_drafter(self.drafter))
        self.scheduler.check(job)
        self.scheduler.add(job)
        return job

    def run(self) -> None:
        while not self.scheduler.is_idle:
            self.scheduler.step()

    @property
    def is_empty(self) -> bool:
        ids = range(self.context.n_seq_max)
        no_text = all(self.context.memory.pos_max(seq) == -1 for seq in ids)
        return no_text and self.context.memory.n_cells_used == 0

    def has_all_ids(self) -> bool:
        taken = [self.context.sequences.new() for _ in range(self.context.n_seq_max)]
        return sorted(taken) == list(range(self.context.n_seq_max))


def alone(model: Model, prompt: list[int], max_tokens: int, **options: Any) -> list[int]:
    desk = Desk(model, NoDrafter, n_ctx=512)
    job = desk.add(prompt, max_tokens, **options)
    desk.run()
    assert job.error is None
    return job.output.tokens


@needs_exact
@pytest.mark.parametrize("seed", range(4))
def test_a_crowd_writes_what_each_would_write_alone(tiny_model: TinyModel, seed: int) -> None:
    """32 requests come at random, some are cancelled, and the cache holds a fifth of them."""
    model = tiny_model("rope")
    rng = random.Random(seed)
    desk = Desk(model, n_ctx=256, n_seq_max=8, n_prefill=16, max_swap_bytes=rng.choice([0, 10**9]))
    requests = [
        {
            "prompt": prompt_of(rng.randint(1, 90), rng.randint(0, 9)),
            "max_tokens": rng.randint(1, 60),
            "sampling": SamplingParams(
                temperature=rng.choice([0.0, 0.0, 1.0]), seed=rng.randint(0, 99)
            ),
        }
        for _ in range(32)
    ]
    arriving = [(rng.randint(0, 60), request) for request in requests]
    arriving.sort(key=lambda pair: pair[0])
    leaving: list[tuple[int, GenerateJob]] = []
    jobs: list[GenerateJob] = []
    now = 0
    while arriving or not desk.scheduler.is_idle:
        while arriving and arriving[0][0] <= now:
            asked: dict[str, Any] = arriving.pop(0)[1]
            jobs.append(desk.add(**asked))
            if rng.random() < 0.25:
                leaving.append((now + rng.randint(0, 25), jobs[-1]))
        for when, job in leaving:
            if when == now:
                desk.scheduler.cancel(job)
        desk.scheduler.step()
        now += 1
    assert [s.error for s in jobs] == [None] * 32
    assert sum(s.stats.n_preempted for s in jobs) > 0, "the cache was large enough for all"
    for job in jobs:
        request = job.request
        expected = alone(model, list(request.prompt), request.max_tokens, sampling=request.sampling)
        if job.finish_reason == "cancelled":
            assert job.output.tokens == expected[: len(job.output.tokens)]
        else:
            assert job.output.tokens == expected
    assert desk.is_empty
    assert desk.has_all_ids()


class TestReading:
    def test_a_long_prompt_does_not_stall_those_who_write(self, tiny_model: TinyModel) -> None:
        desk = Desk(tiny_model("rope"), NoDrafter, n_ctx=512, n_seq_max=2, n_prefill=16)
        writer = desk.add(prompt_of(5, 1), 100, ignore_eos=True)
        while not writer.output.tokens:
            desk.scheduler.step()
        reader = desk.add(prompt_of(161, 2), 1)
        n_before, n_steps = len(writer.output.tokens), 0
        while not reader.is_finished:
            desk.scheduler.step()
            n_steps += 1
        assert n_steps >= 10
        assert len(writer.output.tokens) - n_before >= n_steps - 1

    @needs_exact
    def test_a_short_prompt_does_not_wait_for_a_long_one(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        desk = Desk(model, NoDrafter, n_ctx=1024, n_seq_max=3, n_prefill=16)
        long = desk.add(prompt_of(481, 1), 4)  # 30 chunks
        desk.scheduler.step()
        short = desk.add(prompt_of(9, 2), 4)
        n_steps = 0
        while not short.output.tokens:
            desk.scheduler.step()
            n_steps += 1
        assert n_steps == 1
        desk.run()
        for job in (long, short):
            assert job.output.tokens == alone(model, list(job.request.prompt), 4)

    def test_a_long_prompt_advances_however_many_short_ones_come(
        self, tiny_model: TinyModel
    ) -> None:
        desk = Desk(tiny_model("rope"), NoDrafter, n_ctx=1024, n_seq_max=4, n_prefill=16)
        long = desk.add(prompt_of(161, 1), 1)  # 10 chunks
        n_steps = 0
        while not long.is_finished:
            desk.add(prompt_of(17, 100 + n_steps), 1)
            desk.scheduler.step()
            n_steps += 1
        assert n_steps <= 4 * 10

    def test_pieces_begin_at_multiples_whatever_the_load(
        self, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces: list[tuple[int, int]] = []
        read = Context.prefill

        def spy(self: Context, tokens: list[int], seq: int) -> int:
            pieces.append((self.sequences.n_past(seq), len(tokens)))
            return read(self, tokens, seq)

        monkeypatch.setattr(Context, "prefill", spy)
        desk = Desk(tiny_model("rope"), n_ctx=512, n_seq_max=3, n_prefill=32)
        for seed, length in enumerate((70, 33, 101)):
            desk.add(prompt_of(length, 100 + seed), 5)
        desk.run()
        assert all(begin % 32 == 0 for begin, _ in pieces)
        assert sorted(n for _, n in pieces) == sorted([32, 32, 5, 32, 32, 32, 32, 4])

    def test_a_prompt_longer_than_the_context_is_refused_alone(self, tiny_model: TinyModel) -> None:
        desk = Desk(tiny_model("rope"), n_ctx=256, n_seq_max=2)
        other = desk.add(prompt_of(9, 1), 5)
        with pytest.raises(RequestError, match="context of 256"):
            desk.add(prompt_of(256, 1), 5)
        desk.run()
        assert len(other.output.tokens) == 5


class CountedShare(PrefillShare):
    """Every chunk takes a second, and every decode pass a tenth of one."""

    def spend(self, seconds: float, n_long: int, n_decoding: int) -> None:
        super().spend(1.0, n_long, n_decoding)

    def decoded(self, seconds: float) -> None:
        super().decoded(0.1 if seconds else 0.0)


def test_a_text_goes_on_between_the_chunks_of_a_long_prompt(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    desk = Desk(model, NoDrafter, n_ctx=2048, n_seq_max=2, n_prefill=64)
    desk.scheduler._prefill.share = CountedShare()
    text = desk.add(prompt_of(9, 1), 200, ignore_eos=True)
    while not text.output.tokens:
        desk.scheduler.step()
    long = desk.add(prompt_of(N_SHORT + 3 * 64, 2), 1)
    n_written: dict[int, int] = {}  # at each length of what is prefilled
    while not long.is_finished:
        desk.scheduler.step()
        n_written.setdefault(long.state.n_past, len(text.output.tokens))
    first, second, third = (n_written[n] for n in (64, 128, 192))
    assert second - first == 20  # two seconds, since the chunk took one
    assert third - second == 20
    assert n_written[N_SHORT + 2 * 64] - third - 20 <= 7  # 511 are missing: one step a chunk
    assert long.error is None
    desk.run()
    assert text.output.tokens == alone(model, prompt_of(9, 1), 200, ignore_eos=True)


class TestPrefixSharing:
    def test_a_common_beginning_is_computed_once(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        common = prompt_of(100, 3)
        prompts = [[*common, 7 + i, 9, 11] for i in range(4)]
        desk = Desk(model, n_ctx=256, n_seq_max=4, n_prefill=16)
        jobs = [desk.add(prompt, 8) for prompt in prompts]
        while any(job.n_missing for job in jobs):
            desk.scheduler.step()
        n_used = desk.context.memory.n_cells_used
        assert n_used is not None
        assert n_used < 256
        desk.run()
        assert jobs[0].stats.n_shared == 0
        assert all(s.stats.n_shared >= 96 for s in jobs[1:])
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.output.tokens == alone(model, prompt, 8)
        assert desk.is_empty

    @pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
    def test_the_state_after_a_prompt_is_shared(self, tiny_model: TinyModel, kind: str) -> None:
        model = tiny_model(kind)
        desk = Desk(model, NoDrafter, n_ctx=256, n_seq_max=2)
        jobs = [desk.add(prompt_of(40, 3), 6) for _ in range(2)]
        desk.run()
        assert [s.error for s in jobs] == [None, None]
        assert [s.stats.n_shared for s in jobs] == [0, 39]
        for job in jobs:
            assert job.output.tokens == alone(model, prompt_of(40, 3), 6)


class TestPreemption:
    @needs_exact
    @pytest.mark.parametrize("max_swap_bytes", [0, 10**9], ids=["computed again", "swapped"])
    def test_the_newest_job_is_preempted_and_resumes_with_the_same_output(
        self, tiny_model: TinyModel, max_swap_bytes: int
    ) -> None:
        model = tiny_model("rope")
        desk = Desk(model, n_ctx=256, n_seq_max=3, max_swap_bytes=max_swap_bytes)
        prompts = [prompt_of(30, seed) for seed in (11, 12, 13)]
        jobs = [desk.add(prompt, 120, ignore_eos=True) for prompt in prompts]
        desk.run()
        assert jobs[0].stats.n_preempted == 0
        assert jobs[2].stats.n_preempted > 0
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.output.tokens == alone(model, prompt, 120, ignore_eos=True)
        assert desk.is_empty

    def test_states_beyond_the_limit_are_not_kept(self) -> None:
        from pytreellama.engine.kv.swap_space import SwapSpace

        states = SwapSpace(10)
        assert states.swap_out("a", b"123456")
        assert not states.swap_out("b", b"12345")
        assert states.swap_in("b") is None
        assert states.swap_in("a") == b"123456"
        assert (states.n_bytes, len(states)) == (0, 0)
        assert states.swap_out("b", b"1234567890")


class TestShift:
    def test_a_full_context_goes_on_without_its_older_half(self, tiny_model: TinyModel) -> None:
        desk = Desk(tiny_model("rope"), n_ctx=256)
        job = desk.add(prompt_of(20, 5), 700, ignore_eos=True, context_shift=True)
        desk.run()
        assert (job.finish_reason, len(job.output.tokens)) == ("length", 700)
        assert job.state.ids[:20].tolist() == job.request.prompt.tolist()
        assert desk.is_empty

    def test_the_shifted_cache_is_what_memory_operations_make(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        desk = Desk(model, NoDrafter, n_ctx=256)
        job = desk.add(prompt_of(20, 5), 260, ignore_eos=True, context_shift=True, n_keep=4)
        desk.run()
        with Context(model, n_ctx=256, **SIZES) as context:
            seq = context.sequences.new()
            tokens = list(job.request.prompt)
            written: list[int] = []
            for token in tokens[:-1]:
                context.decode(token, seq=seq)
            last = tokens[-1]
            while len(written) < 260:
                if context.sequences.n_past(seq) == 256:
                    context.memory.rm(seq, 4, 4 + 126)
                    context.memory.add(seq, 130, 256, -126)
                context.decode(last, seq=seq)
                last = int(context.outputs.argmax()[0])
                written.append(last)
        assert job.output.tokens == written

    def test_positions_that_cannot_move_are_refused(self, tiny_model: TinyModel) -> None:
        desk = Desk(tiny_model("learned", n_ctx_train=64), n_ctx=256)
        with pytest.raises(RequestError, match="context_shift"):
            desk.add(prompt_of(20, 5), 100, context_shift=True)


class TestForks:
    def test_a_fork_with_the_same_sampler_writes_the_same(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), EAGER, n_ctx=512, n_seq_max=2, **SIZES)
        options: dict[str, Any] = {
            "temperature": 1.0,
            "seed": 3,
            "ignore_eos": True,
            "max_tokens": 150,
        }
        parent = engine.submit(prompt_of(30, 2), **options)
        first = next(parent)
        child = parent.fork()
        assert parent.result().tokens == child.result().tokens
        assert len(first.tokens) > 0
        assert child.result().stats.n_shared > 0

    def test_a_fork_with_another_seed_goes_its_own_way(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), EAGER, n_ctx=512, n_seq_max=4, **SIZES)
        options: dict[str, Any] = {
            "temperature": 1.5,
            "seed": 3,
            "ignore_eos": True,
            "max_tokens": 200,
        }
        parent = engine.submit(prompt_of(30, 2), **options)
        next(parent)
        child = parent.fork(seed=4)
        streamed = sum((chunk.tokens for chunk in child), ())
        one, other = parent.result().tokens, child.result().tokens
        n_same = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        assert n_same >= 1
        assert other[-len(streamed) :] == streamed
        assert len(other) == 200

    def test_what_is_finished_cannot_be_forked(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), EAGER, n_ctx=256, **SIZES)
        parent = engine.submit(prompt_of(30, 2), max_tokens=2)
        parent.result()
        with pytest.raises(RequestError, match="finished"):
            parent.fork()


class Faulty:
    """Proposes what it may not, once its text is long enough."""

    name = "faulty"

    def __init__(self, fault: Callable[[int], TokenTree]) -> None:
        self._fault = fault
        self._n_seen = 0

    def observe(self, tokens: object) -> None:
        self._n_seen += len(tokens)  # type: ignore[arg-type]

    def propose(self, n_nodes: int) -> TokenTree:
        return self._fault(n_nodes) if self._n_seen % 2 else draft.EMPTY_TREE

    def reset(self) -> None:
        raise RuntimeError("cannot even do this")


def _no_idea(n_nodes: int) -> TokenTree:
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (_no_idea, RuntimeError),
        (lambda _: TokenTree.chain([99999]), DraftError),
        (lambda _: TokenTree.chain(np.full(10_000, 5)), DraftError),
        (lambda _: None, DraftError),
    ],
    ids=["raises", "invalid id", "10,000 nodes", "no tree"],
)
def test_a_faulty_drafter_ends_its_request_and_no_other(
    tiny_model: TinyModel, fault: Callable[[int], TokenTree], error: type[Exception]
) -> None:
    model = tiny_model("rope")
    desk = Desk(model, n_ctx=256, n_seq_max=2)
    good = desk.add(prompt_of(20, 1), 30)
    request = Request(np.array(prompt_of(21, 2), np.int32), 30)
    bad = GenerateJob(request, model.vocab, Faulty(fault))
    desk.scheduler.add(bad)
    desk.run()
    assert isinstance(bad.error, error)
    assert good.output.tokens == alone(model, prompt_of(20, 1), 30)
    assert desk.is_empty


class TestOptions:
    def test_logprobs_are_those_of_the_logits(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        engine = Engine(model, EAGER, n_ctx=256, **SIZES)
        prompt = prompt_of(30, 6)
        done = engine.generate(prompt, max_tokens=20, logprobs=3, ignore_eos=True)
        assert done.logprobs is not None
        assert [told.token for told in done.logprobs] == list(done.tokens)
        with Context(model, n_ctx=256, **SIZES) as context:
            seq = context.prefill(prompt, logits=True)
            for told in done.logprobs:
                tokens, logp = context.outputs.top_k(3)
                assert [token for token, _ in told.top] == tokens[0].tolist()
                np.testing.assert_allclose([p for _, p in told.top], logp[0], atol=1e-4)
                (expected,) = context.outputs.token_logps([told.token])
                assert told.logp == pytest.approx(expected, abs=1e-4)
                context.decode(told.token, seq=seq)

    def test_logprobs_come_with_their_chunks(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), EAGER, n_ctx=256, **SIZES)
        for chunk in engine.stream(prompt_of(30, 6), max_tokens=20, logprobs=0):
            assert chunk.logprobs is not None
            assert [told.token for told in chunk.logprobs] == list(chunk.tokens)
            assert all(told.top == () for told in chunk.logprobs)

    def test_a_stop_token_ends_the_text(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), EAGER, n_ctx=256, **SIZES)
        tokens = engine.generate(prompt_of(30, 6), max_tokens=20).tokens
        stop = tokens[7]
        done = engine.generate(prompt_of(30, 6), max_tokens=20, stop_tokens=[stop], ignore_eos=True)
        assert done.finish_reason == "stop"
        assert done.tokens == tokens[: tokens.index(stop)]

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"logprobs": -1}, "logprobs"),
            ({"n_keep": -1}, "n_keep"),
            ({"stop_tokens": [100000]}, "stop_tokens"),
        ],
    )
    def test_options_out_of_range(
        self, tiny_model: TinyModel, options: dict[str, Any], what: str
    ) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=256, **SIZES)
        with pytest.raises(RequestError, match=what):
            engine.generate("a b", **options)


class TestRules:
    def test_typical_acceptance_says_that_it_is_lossy(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        prompt = prompt_of(40, 6)
        loose = Engine(model, EAGER, n_ctx=512, verify="typical", **SIZES)
        exact = Engine(model, EAGER, n_ctx=512, **SIZES)
        one, other = (engine.generate(prompt, max_tokens=60) for engine in (loose, exact))
        assert one.stats.is_lossy
        assert not other.stats.is_lossy
        # a random model finds everything plausible
        assert one.stats.tokens_per_step > other.stats.tokens_per_step
        assert one.tokens != other.tokens

    def test_typical_acceptance_is_for_greedy_requests(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=256, verify="typical", **SIZES)
        with pytest.raises(RequestError, match="verify='match'"):
            engine.generate("a b", temperature=1.0)

    def test_an_unknown_rule(self, tiny_model: TinyModel) -> None:
        with pytest.raises(RequestError, match="match, typical"):
            Engine(tiny_model("rope"), n_ctx=256, verify=cast(Any, "rejection"), **SIZES)


class TestThreads:
    def test_requests_from_many_threads_share_the_loop(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        engine = Engine(model, EAGER, n_ctx=1024, n_seq_max=4, **SIZES)
        prompts = [prompt_of(20 + seed, seed) for seed in range(12)]
        results: dict[int, tuple[int, ...]] = {}

        def ask(i: int) -> None:
            results[i] = engine.generate(prompts[i], max_tokens=30).tokens

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, prompt in enumerate(prompts):
            assert list(results[i]) == alone(model, prompt, 30)

    def test_a_full_queue_refuses_or_waits(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=4096, n_seq_max=1, n_queue_max=1, **SIZES)
        long: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}
        one, two = (engine.submit(prompt_of(9, i), **long) for i in range(2))
        with pytest.raises(QueueFullError, match="n_queue_max"):
            engine.submit(prompt_of(9, 3), wait=False, max_tokens=1)
        one.cancel()
        three = engine.submit(prompt_of(9, 3), max_tokens=1)
        two.cancel()
        assert len(three.result().tokens) == 1
        assert one.result().finish_reason == two.result().finish_reason == "cancelled"

    def test_closing_cancels_what_runs(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=4096, **SIZES)
        generation = engine.submit(prompt_of(9, 1), max_tokens=4000, ignore_eos=True)
        next(generation)
        engine.close()
        assert generation.result().finish_reason == "cancelled"
        with pytest.raises(ContextError, match="closed"):
            engine.submit("a")

    def test_a_result_that_takes_too_long(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=4096, **SIZES)
        generation = engine.submit(prompt_of(9, 1), max_tokens=4000, ignore_eos=True)
        with pytest.raises(TimeoutError):
            generation.result(timeout_s=0.01)
        generation.cancel()
        assert generation.wait(10)

    def test_the_thread_ends_when_there_is_no_work(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=256, **SIZES)
        engine.generate("a b c", max_tokens=2)
        thread = engine._loop._thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()
        assert len(engine.generate("a b c", max_tokens=2).tokens) == 2

    def test_a_callback_that_fails_ends_its_own_request(self, tiny_model: TinyModel) -> None:
        engine = Engine(tiny_model("rope"), n_ctx=256, n_seq_max=2, **SIZES)

        def fail(_: object) -> None:
            raise ValueError("as asked")

        other = engine.submit("a b c", max_tokens=20, ignore_eos=True)
        with pytest.raises(ValueError, match="as asked"):
            engine.generate("a b c", max_tokens=20, on_step=fail)
        assert len(other.result().tokens) == 20


class TestAsyncio:
    def test_tasks_share_the_loop(self, tiny_model: TinyModel) -> None:
        model = tiny_model("rope")
        prompts = [prompt_of(20 + seed, seed) for seed in range(6)]

        async def main() -> list[tuple[int, ...]]:
            async with AsyncEngine(model, EAGER, n_ctx=1024, n_seq_max=3, **SIZES) as engine:
                streamed: tuple[int, ...] = ()
                async for chunk in engine.stream(prompts[0], max_tokens=30):
                    streamed += chunk.tokens
                done = await engine.generate(prompts[1:], max_tokens=30)
                return [streamed, *(completion.tokens for completion in done)]

        texts = asyncio.run(main())
        assert [list(text) for text in texts] == [alone(model, p, 30) for p in prompts]

    def test_a_cancelled_task_cancels_its_request(self, tiny_model: TinyModel) -> None:
        async def main() -> None:
            async with AsyncEngine(tiny_model("rope"), n_ctx=4096, **SIZES) as engine:
                long = engine.generate(prompt_of(9, 1), max_tokens=4000, ignore_eos=True)
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(long, 0.2)
                started_s = time.perf_counter()
                await engine.generate("a b c", max_tokens=2)
                assert time.perf_counter() - started_s < 5

        asyncio.run(main())

    def test_a_request_that_cannot_be_served_raises_where_it_is_awaited(
        self, tiny_model: TinyModel
    ) -> None:
        async def main() -> None:
            async with AsyncEngine(tiny_model("rope"), n_ctx=256, **SIZES) as engine:
                with pytest.raises(RequestError, match="context of 256"):
                    await engine.generate(prompt_of(300, 1), max_tokens=2)

        asyncio.run(main())
