"""Engine: prompts in, text out; plain or with trees, one sequence or many."""

from __future__ import annotations

import operator
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any, cast, overload

import numpy as np

from pytreellama.core.chat import chat_prompt, encode_chat
from pytreellama.core.closing import Closing
from pytreellama.core.context import Context
from pytreellama.core.model import Model
from pytreellama.core.params import ContextParams
from pytreellama.core.sampling import SamplingParams
from pytreellama.draft import DrafterSpec, NoDrafter, drafter_factory, make_drafter
from pytreellama.engine.completion import Chunk, Completion
from pytreellama.engine.scheduler import OnPrefill, OnStep, Scheduler
from pytreellama.engine.sequence import Request
from pytreellama.engine.sequence import Sequence as Running
from pytreellama.errors import ContextError, RequestError

Message = Mapping[str, Any]
_NO_PROMPT = "a prompt is a text, a list of token ids, or a list of chat messages"

Prompt = str | Sequence[int] | Sequence[Message]
"""Text, token ids, or chat messages for the model's template."""


class Engine(Closing):
    """Generates text with a model, faster than token by token where its drafter guesses right.

    The text is the model's own, whatever is drafted: every token is drawn by the model's sampler
    from the model's logits. (On stock kernels logits differ in their last bits between a pass over
    one token and a pass over many, so greedy text may part where two tokens are all but equal.)

    An engine does one thing at a time: a second call while a stream is open is refused. Models
    whose memory cannot be rolled back (recurrent ones) are decoded plainly, whatever the drafter.

    Args:
        model: the target.
        drafter: "auto", "suffix", "none", or a factory such as ``pytreellama.draft.Suffix(...)``.
        n_draft: most drafted nodes in one tree.
        n_ctx: tokens that the cache holds, for all sequences together; by default 4096, or what
            the model was trained for if that is less.
        n_seq_max: prompts that run at once; by default 1.
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
        n_draft: int = 8,
        n_ctx: int | None = None,
        n_seq_max: int | None = None,
        params: ContextParams | None = None,
        **options: Any,
    ) -> None:
        if n_draft < 0:
            raise RequestError(f"n_draft = {n_draft} was asked for; give 0 or more")
        if params is not None and not (n_ctx is None and n_seq_max is None):
            raise ContextError("give n_ctx and n_seq_max in params, or by name, not both")
        self._new_drafter = drafter_factory(drafter)
        self.model = model
        if params is None:
            size = min(4096, model.n_ctx_train) if n_ctx is None else n_ctx
            self.context = Context(model, n_ctx=size, n_seq_max=n_seq_max or 1, **options)
        else:
            self.context = Context(model, params, **options)
        if not self.context.kv_unified:
            self.context.close()
            raise ContextError(
                "an engine needs kv_unified=True, so that all its trees can share one pass"
            )
        drafts = self._new_drafter is not NoDrafter and self.context.can_roll_back
        self.n_draft = n_draft if drafts else 0
        self.vocab = model.vocab
        self._is_running = threading.Lock()

    def close(self) -> None:
        """Free the context; the model stays open."""
        self.context.close()

    @overload
    def generate(self, prompt: str, **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: list[str], **options: Any) -> list[Completion]: ...
    @overload
    def generate(
        self, prompt: Prompt | Sequence[Prompt], **options: Any
    ) -> Completion | list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        max_tokens: int = 128,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        on_step: OnStep | None = None,
        on_prefill: OnPrefill | None = None,
        **sampling: Any,
    ) -> Completion | list[Completion]:
        """Continue one prompt, or several in one loop.

        Args:
            prompt: text, token ids or chat messages; or a list of such prompts.
            max_tokens: most tokens to write, for each prompt.
            stop: a string or strings that end the text; they are not part of it.
            ignore_eos: write on past end tokens.
            on_step: called with every verified tree.
            on_prefill: called with the share of a prompt that has been read.
            sampling: fields of ``SamplingParams``, such as temperature, seed, grammar.

        Returns:
            A ``Completion``; for a list of prompts a list, in the same order.

        Raises:
            RequestError, SamplerError, GrammarError, VocabError, ChatTemplateError: a request
                that cannot be served, or a stream that is still open. The whole call ends, and
                nothing of it stays in the cache.
        """
        prompts = prompt if _is_many(prompt) else [prompt]
        requests = [
            self._request(one, max_tokens, stop, ignore_eos, sampling)
            for one in cast("Sequence[Prompt]", prompts)
        ]
        sequences = [self._sequence(i, request) for i, request in enumerate(requests)]
        scheduler = Scheduler(self.context, self.n_draft, on_step, on_prefill)
        for _ in self._run(scheduler, sequences):
            pass
        completions = [sequence.completion() for sequence in sequences]
        return completions if _is_many(prompt) else completions[0]

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        on_step: OnStep | None = None,
        on_prefill: OnPrefill | None = None,
        **sampling: Any,
    ) -> Generator[Chunk, None, None]:
        """Continue one prompt and yield text as it becomes certain; arguments as ``generate``.

        The last chunk carries ``finish_reason``, ``stats`` and ``seed``. A stream that is left
        early holds the engine until it is closed (``stream.close()``) or forgotten.
        """
        request = self._request(prompt, max_tokens, stop, ignore_eos, sampling)
        sequence = self._sequence(0, request)
        scheduler = Scheduler(self.context, self.n_draft, on_step, on_prefill)
        return self._chunks(scheduler, sequence)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The token ids that a prompt becomes.

        Raises:
            VocabError, ChatTemplateError, RequestError: no ids can be made of it.
        """
        if isinstance(prompt, str):
            return self.vocab.encode(prompt)
        if not isinstance(prompt, (Sequence, np.ndarray)):
            raise RequestError(_NO_PROMPT)
        if len(prompt) and isinstance(prompt[0], Mapping):
            return encode_chat(
                self.vocab, chat_prompt(self.model, cast("Sequence[Message]", prompt))
            )
        try:
            ids = [operator.index(token) for token in cast("Sequence[int]", prompt)]
        except TypeError:
            raise RequestError(_NO_PROMPT) from None
        wrong = [token for token in ids if not 0 <= token < self.vocab.n_tokens]
        if wrong:
            raise RequestError(
                f"token id {wrong[0]} of the prompt is not in the vocabulary; ids are from 0 to "
                f"{self.vocab.n_tokens - 1}"
            )
        return ids

    def _request(
        self,
        prompt: Prompt,
        max_tokens: int,
        stop: str | Sequence[str],
        ignore_eos: bool,
        sampling: dict[str, Any],
    ) -> Request:
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        ids = tuple(self.encode_prompt(prompt))
        return Request(ids, max_tokens, stops, ignore_eos, _sampling_params(sampling))

    def _sequence(self, index: int, request: Request) -> Running:
        return Running(index, request, self.vocab, make_drafter(self._new_drafter))

    def _run(
        self, scheduler: Scheduler, sequences: Sequence[Running]
    ) -> Generator[None, None, None]:
        if not self._is_running.acquire(blocking=False):
            raise RequestError(
                "this engine is at work already; finish or close its stream first, or make "
                "another engine on the same model"
            )
        try:
            for sequence in sequences:
                scheduler.add(sequence)
            while not scheduler.is_idle:
                scheduler.step()
                yield
        finally:
            scheduler.cancel_all()
            self._is_running.release()

    def _chunks(self, scheduler: Scheduler, sequence: Running) -> Generator[Chunk, None, None]:
        for _ in self._run(scheduler, [sequence]):
            yield sequence.take_chunk()


def _sampling_params(options: dict[str, Any]) -> SamplingParams:
    known = SamplingParams.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise RequestError(
            f"generation has no option {', '.join(unknown)}; besides max_tokens, stop and "
            f"ignore_eos there are {', '.join(known)}"
        )
    return SamplingParams(**options)


def _is_many(prompt: Prompt | Sequence[Prompt]) -> bool:
    """True for a list of prompts: its items are not tokens or messages."""
    return (
        not isinstance(prompt, str)
        and len(prompt) > 0
        and not isinstance(prompt[0], (int, np.integer, Mapping))
    )
