"""Engine: prompts in, text out; plain or with trees, one sequence or many."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.context.context import Context
from pytreellama.context.params import ContextParams
from pytreellama.draft import (
    Auto,
    DrafterFactory,
    DrafterSpec,
    NeedsContext,
    NeedsTarget,
    NoDrafter,
    drafter_factory,
    make_drafter,
)
from pytreellama.engine.completion import Chunk, Completion
from pytreellama.engine.drafting import PlannedDrafting
from pytreellama.engine.evaluation import (
    POOLINGS,
    Embedding,
    Evaluation,
    Pooling,
    Score,
    Scoring,
    own_pooling,
)
from pytreellama.engine.generation import Generation
from pytreellama.engine.kv.prefix_file import load_kept, save_kept
from pytreellama.engine.loop import Loop
from pytreellama.engine.prompts import Continuation, Prompt, PromptEncoder, as_list, is_many
from pytreellama.engine.request import OnPrefill, OnStep, Request, sampling_params
from pytreellama.engine.scheduler import MAX_SAVED_BYTES, N_PREFILL, Load, Scheduler
from pytreellama.engine.sequence import Sequence as Running
from pytreellama.engine.tree_pass import RULES, Rule
from pytreellama.engine.waits import is_engine_thread
from pytreellama.errors import ContextError, RequestError, shown
from pytreellama.model.model import Model
from pytreellama.plan import DrafterBudget, Planner

_log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
_N_FIXED = 8
_N_PLANNED = 64


class Engine(Closing):
    """Generates text with a model, faster than token by token where its drafter guesses right.

    The text is the model's own, whatever is drafted: every token is drawn by the model's sampler
    from the model's logits. (Where ``context.is_batch_invariant`` is False, logits differ in their
    last bits between a pass over one token and a pass over many, so greedy text may part where two
    tokens are all but equal.)

    Requests from any number of threads run together, up to ``n_seq_max`` at once, on a thread of
    the engine's own; others wait for their turn. Callbacks are called on that thread. Models whose
    memory cannot be rolled back (recurrent ones) are decoded plainly, whatever the drafter.

    Args:
        model: the target.
        drafter: "auto", another name of ``draft.DRAFTERS``, or a factory such as
            ``pytreellama.draft.Suffix(...)``.
        n_draft: most drafted nodes in one tree; by default 8, or 64 where trees are planned, which
            are as large as pays.
        n_ctx: tokens that the cache holds, for all sequences together; by default 4096, or what
            the model was trained for if that is less.
        n_seq_max: requests that run at once; by default 1.
        n_queue_max: requests that may wait besides; what comes then has to wait itself.
        n_kept: ended texts that stay in the cache, as long as there is room, for prompts that begin
            as they do (the next turn of a chat); by default none.
        n_prefill: most prompt tokens that are read between two steps of those who write.
        verify: "match" keeps what the model's sampler draws. "typical" is LOSSY: it keeps what the
            model finds plausible (greedy requests alone; ``stats.is_lossy`` tells).
        max_saved_bytes: host memory for keys and values of requests that had to give way.
        params: all sizes and types at once; then ``n_ctx``, ``n_seq_max`` and ``options`` must
            not be given.
        options: further fields of ``ContextParams`` by name.

    Raises:
        ContextError, DraftError: sizes that do not fit, or an unknown drafter.
    """

    def __init__(
        self,
        model: Model,
        drafter: DrafterSpec = "auto",
        *,
        n_draft: int | None = None,
        n_ctx: int | None = None,
        n_seq_max: int | None = None,
        n_queue_max: int = 1024,
        n_kept: int = 0,
        n_prefill: int = N_PREFILL,
        max_saved_bytes: int = MAX_SAVED_BYTES,
        verify: Rule = "match",
        params: ContextParams | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, Model):
            raise ContextError(
                f"invalid model of type {type(model).__name__}: give a Model, such as Model(path)"
            )
        _require_at_least(0, n_queue_max=n_queue_max, n_kept=n_kept)
        _require_at_least(1, n_prefill=n_prefill)
        if n_draft is not None:
            _require_at_least(0, n_draft=n_draft)
        if verify not in RULES:
            raise RequestError(f"verify = {verify!r} was asked for; give one of {', '.join(RULES)}")
        if params is not None and not (n_ctx is None and n_seq_max is None):
            raise ContextError("give n_ctx and n_seq_max in params, or by name, not both")
        self._new_drafter = drafter_factory(drafter)
        if isinstance(self._new_drafter, NeedsTarget):
            self._new_drafter.prepare(model)
        self.model = model = model.share()
        self._closing = threading.Lock()
        if params is None:
            size = min(4096, model.n_ctx_train) if n_ctx is None else n_ctx
            n_ids = (n_seq_max or 1) + n_kept
            self.context = Context(model, n_ctx=size, n_seq_max=n_ids, **options)
        else:
            params = replace(params, n_seq_max=params.n_seq_max + n_kept)
            self.context = Context(model, params, **options)
        if isinstance(self._new_drafter, NeedsContext):
            self._new_drafter.attach(self.context)
        if not self.context.kv_unified:
            self.context.close()
            raise ContextError(
                "an engine needs kv_unified=True, so that all its trees can share one pass"
            )
        drafts = self._new_drafter is not NoDrafter and self.context.can_roll_back
        self._planned: PlannedDrafting | None = None
        if drafts and n_draft != 0 and isinstance(self._new_drafter, Auto):
            self._planned = PlannedDrafting(self.context, self._new_drafter.n_drafters)
        if n_draft is None:
            n_draft = _N_FIXED if self._planned is None else _N_PLANNED
        self.n_draft = n_draft if drafts else 0
        self.vocab = model.vocab
        self._prompts = PromptEncoder(model, self.context.n_text_max)
        self._n_prefill = min(n_prefill, self.context.n_ubatch)
        self._scheduler = Scheduler(
            self.context,
            self.n_draft,
            n_prefill=n_prefill,
            max_saved_bytes=max_saved_bytes,
            rule=verify,
            drafting=self._planned,
            n_kept=n_kept,
        )
        self.n_seq_max = self.context.n_seq_max - n_kept
        n_open_max = self.n_seq_max + n_queue_max
        self._loop = Loop(self._scheduler, self.vocab, self._new_drafter, n_open_max)

    @property
    def drafter(self) -> DrafterFactory:
        """What makes a drafter for each text, and keeps what they learn together."""
        return self._new_drafter

    @property
    def planner(self) -> Planner | None:
        """What chooses the trees, once a request has run; None where they are not planned."""
        return None if self._planned is None else self._planned.planner

    @property
    def drafter_budget(self) -> DrafterBudget | None:
        """What asking each drafter of planned trees costs and saves; None without such trees."""
        return None if self._planned is None else self._planned.budget

    @property
    def load(self) -> Load:
        """How many requests run and wait, and how full the cache is, as of the last step."""
        return self._scheduler.load

    @property
    def is_closed(self) -> bool:
        """True once it takes no requests any more: closed, or broken down."""
        return self._loop.is_closed

    @property
    def n_open(self) -> int:
        """Requests that are under way or wait."""
        return self._loop.n_open

    @property
    def is_full(self) -> bool:
        """No request more is taken at present: ``submit`` waits, or raises QueueFullError."""
        return self._loop.is_full

    def require_can_wait(self) -> None:
        """Raise ContextError in a callback, which would wait for the thread that it is on."""
        self._loop.thread.require_elsewhere()

    def close(self) -> None:
        """Cancel what runs, and free the context; the model stays open.

        Raises:
            ContextError: a callback asks; the engine goes on.
        """
        self._loop.close()
        with self._closing:
            try:
                self._scheduler.close()
            except Exception:  # it is worth something to the next engine alone
                _log.warning("what the engine has learned is not kept", exc_info=True)
            finally:
                self.context.close()
                self.model.close()

    @overload  # a str is a Sequence[str] too, but one prompt
    def generate(self, prompt: Prompt, **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Any) -> list[Completion]: ...
    def generate(
        self, prompt: Prompt | Sequence[Prompt], **options: Any
    ) -> Completion | list[Completion]:
        """Continue one prompt, or several in one loop, and wait for the text.

        Args:
            prompt: text, token ids or chat messages; or a list of such prompts.
            options: as ``submit``.

        Returns:
            A ``Completion``; for a list of prompts a list, in the same order.

        Raises:
            As ``submit``, and whatever ends a request; the other prompts are then cancelled.
        """
        self._loop.thread.require_elsewhere()
        asks_many = is_many(prompt)
        prompts = cast("Sequence[Prompt]", prompt if asks_many else [prompt])
        sequences = [self._sequence(one, i, options) for i, one in enumerate(prompts)]
        completions = self._run_all(sequences)
        return completions if asks_many else completions[0]

    def stream(self, prompt: Prompt, **options: Any) -> Generator[Chunk, None, None]:
        """Continue one prompt and yield text as it becomes certain; arguments as ``submit``.

        The last chunk carries ``finish_reason``, ``stats`` and ``seed``. A stream that is closed
        early (``stream.close()``, or forgotten) is cancelled.
        """
        self._loop.thread.require_elsewhere()
        return self._chunks(self._sequence(prompt, 0, options))

    def submit(
        self, prompt: Prompt, *, wait: bool = True, streams: bool = True, **options: Any
    ) -> Generation:
        """Begin to continue a prompt, and do not wait for the text.

        Args:
            prompt: text, token ids or chat messages.
            wait: if the queue is full, wait for room in it.
            streams: chunks come step by step; without it there is one, at the end.
            max_tokens: most tokens to write, by default 128.
            stop: a string or strings that end the text; they are not part of it.
            stop_tokens: token ids that do, besides the model's own end tokens.
            ignore_eos: write on past end tokens.
            logprobs: tell how likely the tokens were, and this many of the likeliest at each.
            context_shift: when the context is full, go on without the older half of what is not
                kept, instead of ending.
            n_keep: tokens at the beginning that a shift keeps, by default the prompt.
            on_step: called with every verified tree.
            on_prefill: called with the share of the prompt that has been read.
            options: fields of ``SamplingParams``, such as temperature, seed, grammar.

        Raises:
            RequestError, SamplerError, GrammarError, VocabError, ChatTemplateError: a request
                that cannot be served.
            QueueFullError: the queue is full, and ``wait`` is False.
        """
        sequence = self._sequence(prompt, 0, options)
        return self._loop.submit(sequence, _flag("wait", wait), _flag("streams", streams))

    def score(self, prompt: Prompt, continuations: Sequence[Continuation]) -> list[Score]:
        """How likely the model holds each of several continuations of one prompt.

        All are evaluated as one tree in one pass: what they have in common is computed once.

        Args:
            prompt: text, token ids or chat messages.
            continuations: texts, which go on from the prompt as they are (mind the space), or
                token ids.

        Returns:
            A ``Score`` for each, in the same order.

        Raises:
            RequestError, VocabError, ChatTemplateError: what cannot be evaluated.
        """
        scoring = self.scoring(prompt, continuations)
        self._run_all([scoring])
        return scoring.scores

    def embed(self, texts: Sequence[Prompt], pooling: Pooling | None = None) -> Float32:
        """Vectors of texts: the model's hidden states behind the output norm, put together.

        Args:
            texts: each a text, token ids or chat messages.
            pooling: "mean" of all tokens' states or the "last" token's; by default what the
                model's file says, or else "mean".

        Returns:
            float32, shape (n_texts, n_embd_out), each of length 1.

        Raises:
            RequestError, VocabError, ChatTemplateError: what cannot be evaluated.
        """
        embeddings = [self.embedding(text, pooling) for text in as_list(texts, "texts")]
        self._run_all(embeddings)
        return np.array([one.state for one in embeddings])

    def _run_all(self, sequences: Sequence[Running]) -> list[Completion]:
        """Submit all, and wait for all; nothing of them goes on when it returns or raises."""
        self._loop.thread.require_elsewhere()
        generations: list[Generation] = []
        try:
            for sequence in sequences:
                generations.append(self._loop.submit(sequence, wait=True, streams=False))
            return [generation.result() for generation in generations]
        finally:
            self._end(generations)

    def scoring(self, prompt: Prompt, continuations: Sequence[Continuation]) -> Scoring:
        """What ``score`` runs, for ``submit_evaluation``; raises as it does."""
        self._loop.require_open()
        given = as_list(continuations, "continuations")
        ids = [self._prompts.encode_continuation(one) for one in given]
        return Scoring(tuple(self.encode_prompt(prompt)), list(map(tuple, ids)), self.vocab)

    def embedding(self, text: Prompt, pooling: Pooling | None = None) -> Embedding:
        """What ``embed`` runs for each text, for ``submit_evaluation``; raises as it does."""
        if pooling not in (None, *POOLINGS):
            raise RequestError(f"pooling = {pooling!r} was asked for; give {' or '.join(POOLINGS)}")
        ids = tuple(self.encode_prompt(text, add_eos=True))
        return Embedding(ids, self.vocab, pooling or own_pooling(self.model), self._n_prefill)

    def submit_evaluation(self, evaluation: Evaluation, *, wait: bool = True) -> Generation:
        """Begin to evaluate; the result is in ``evaluation`` once the generation is done.

        Raises:
            RequestError: it is too large for this engine.
            QueueFullError: the queue is full, and ``wait`` is False.
        """
        return self._loop.submit(evaluation, wait, streams=False)

    def prepare(self) -> None:
        """Do now what the first request would wait for: measure what passes cost, if need be."""
        self._loop.call(self._scheduler.prepare)

    def save_kept(self, path: str | os.PathLike[str]) -> int:
        """Write the ended texts that are in the cache (``n_kept``) to a file; returns how many.

        Raises:
            OSError: it cannot be written.
        """
        kept = self._scheduler.prefixes.kept
        return self._loop.call(lambda: save_kept(kept, self.context, path))

    def load_kept(self, path: str | os.PathLike[str]) -> int:
        """Put back what ``save_kept`` wrote, as far as there is room; returns how many texts.

        A file that is damaged, or of another model or build, is left alone, and the log says so.
        """
        self.prepare()  # while the cache is empty
        kept = self._scheduler.prefixes.kept
        return self._loop.call(lambda: load_kept(kept, self.context, path))

    def encode_prompt(self, prompt: Prompt, *, add_eos: bool = False) -> list[int]:
        """The token ids that a prompt becomes: text with BOS in front, if the model's file says so.

        A text that the context cannot hold, whatever its tokens are, is refused before it is
        tokenised.

        Args:
            add_eos: end a text with EOS if the file says so: right where nothing is to follow, as
                in ``embed``. Rendered chats and ids never get it.

        Raises:
            VocabError, ChatTemplateError, RequestError: no ids can be made of it.
        """
        self._loop.require_open()
        return self._prompts.encode(prompt, add_eos=add_eos)

    def require_fits(self, text: str) -> None:
        """Refuse a text that is surely longer than a request may be, before it is tokenised.

        Raises:
            RequestError: it cannot fit.
            VocabError: it is not valid Unicode.
        """
        self._prompts.require_fits(text)

    def _sequence(self, prompt: Prompt, index: int, options: Mapping[str, Any]) -> Running:
        self._loop.require_open()
        request = self._request(prompt, **options)
        return Running(request, self.vocab, make_drafter(self._new_drafter), index)

    def _request(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        stop: str | Sequence[str] = (),
        stop_tokens: Iterable[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        context_shift: bool = False,
        n_keep: int | None = None,
        on_step: OnStep | None = None,
        on_prefill: OnPrefill | None = None,
        **sampling: Any,
    ) -> Request:
        return Request(
            prompt=tuple(self.encode_prompt(prompt)),
            max_tokens=max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(as_list(stop or (), "stop")),
            stop_tokens=frozenset(self._prompts.ids(stop_tokens, "stop_tokens")),
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            context_shift=context_shift,
            n_keep=n_keep,
            sampling=sampling_params(sampling),
            on_step=on_step,
            on_prefill=on_prefill,
        )

    def _chunks(self, sequence: Running) -> Generator[Chunk, None, None]:
        generation = self._loop.submit(sequence, wait=True)
        try:
            yield from generation
        finally:
            self._end([generation])

    def _end(self, generations: Sequence[Generation]) -> None:
        """Nothing of them is left in the cache when the caller goes on."""
        for generation in generations:
            generation.cancel()
        if is_engine_thread():
            return  # the garbage collector ends a forgotten stream in a callback
        for generation in generations:
            generation.wait()


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"invalid {name} of type {type(value).__name__}: give True or False")
    return bool(value)


def _require_at_least(least: int, **values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, np.integer)) or value < least:
            raise RequestError(
                f"invalid {name}={shown(value)}: expected a whole number from {least}"
            )
