"""JobFactory: validates what users ask for, and makes jobs of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.draft import AutoDrafter, Drafter, DrafterFactory, make_drafter
from pytreellama.engine.adapters import EngineAdapters
from pytreellama.engine.chat_prompts import ChatPrompt
from pytreellama.engine.config import checked_flag
from pytreellama.engine.jobs.embed import EmbedJob
from pytreellama.engine.jobs.encode import EncodeJob, RankJob
from pytreellama.engine.jobs.generate import GenerateJob
from pytreellama.engine.jobs.pooling import POOLINGS, Pooling, own_pooling
from pytreellama.engine.jobs.score import ScoreJob
from pytreellama.engine.jobs.text_logprobs import TextLogprobsJob
from pytreellama.engine.prompts import (
    Continuation,
    Message,
    Prompt,
    PromptEncoder,
    as_list,
    is_chat,
)
from pytreellama.engine.request import (
    MAX_LOGPROBS,
    MAX_TOKENS,
    OnPrefill,
    OnStep,
    Request,
    require_known,
    sampling_params,
)
from pytreellama.engine.row_functions import LogitsProcessor, StoppingCriterion
from pytreellama.errors import RequestError, not_one_of
from pytreellama.model.model import Model
from pytreellama.sampling.defaults import sampling_defaults
from pytreellama.sampling.params import CONSTRAINTS, SamplingParams
from pytreellama.verify import VerificationRule


class JobFactory:
    """The one place where requests are validated, on the caller's thread.

    A prompt is checked and converted once: from here on it is one int32 array.

    Args:
        model: the target.
        new_drafter: makes the drafter of each generation.
        adapters: that requests may use.
        n_text_max: tokens of the longest text that the context holds.
        n_prefill: maximum number of prompt tokens of a pass.
        rule: verifies the trees, if it is the user's own.

    Attributes:
        prompts: encodes prompts.
    """

    def __init__(
        self,
        model: Model,
        new_drafter: DrafterFactory,
        adapters: EngineAdapters,
        n_text_max: int,
        n_prefill: int,
        rule: VerificationRule | None = None,
    ) -> None:
        self._model = model
        self._new_drafter = new_drafter
        self._adapters = adapters
        self._n_prefill = n_prefill
        self._rule = rule
        self.prompts = PromptEncoder(model, n_text_max)

    def generate(
        self,
        prompt: Prompt,
        index: int = 0,
        *,
        max_tokens: int | None = 128,
        stop: str | Sequence[str] = (),
        stop_tokens: Iterable[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        context_shift: bool = False,
        n_keep: int | None = None,
        n_draft: int | None = None,
        lora: Mapping[str, float] | None = None,
        drafters: str | Sequence[str] | None = None,
        parse_special: bool = True,
        logits_processors: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriterion] = (),
        on_step: OnStep | None = None,
        on_prefill: OnPrefill | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Mapping[str, Any] | None = None,
        reasoning_format: str | None = None,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> GenerateJob:
        """A generation; arguments and errors as ``Engine.submit``.

        Args:
            index: which prompt of a call it is.
        """
        self._require_decoder()
        drafter = make_drafter(self._new_drafter)
        is_constrained = any(sampling.get(name) is not None for name in CONSTRAINTS)
        if is_constrained and is_chat(prompt) and reasoning_format is None:
            reasoning_format = "none"  # the constraint holds from the first token on
        chat = self._chat(
            prompt,
            ChatRequestOptions(
                tools,
                tool_choice,
                parallel_tool_calls,
                response_format,
                reasoning_format,
                chat_template,
                template_variables,
            ),
        )
        request = Request(
            prompt=self.prompts.encode(
                prompt if chat is None else chat,
                parse_special=checked_flag("parse_special", parse_special),
            ),
            max_tokens=MAX_TOKENS if max_tokens is None else max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(as_list(stop or (), "stop")),
            stop_tokens=frozenset(self.prompts.ids(stop_tokens, "stop_tokens")),
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            context_shift=context_shift,
            n_keep=n_keep,
            n_draft=n_draft,
            drafters=_known_drafters(drafters, drafter),
            sampling=self._sampling(prompt, _with_schema(sampling, chat)),
            logits_processors=tuple(as_list(logits_processors, "logits_processors")),
            stopping_criteria=tuple(as_list(stopping_criteria, "stopping_criteria")),
            on_step=on_step,
            on_prefill=on_prefill,
            reply=None if chat is None else chat.reply,
            reply_grammar=None if chat is None else chat.grammar,
        )
        adapters = self._adapters.set_of(lora)
        job = GenerateJob(request, self._model.vocab, drafter, index, self._rule)
        job.adapters = adapters
        return job

    def _sampling(self, prompt: Prompt, given: Mapping[str, Any]) -> SamplingParams:
        require_known(given)
        if is_chat(prompt) or isinstance(prompt, ChatPrompt):
            given = sampling_defaults(self._recommended, given)
        return sampling_params(given)

    @cached_property
    def _recommended(self) -> dict[str, str]:
        """Metadata on sampling, read once."""
        found = self._model.metadata.items()
        return {key: value for key, value in found if key.startswith("general.sampling.")}

    def _chat(self, prompt: Prompt, options: ChatRequestOptions) -> ChatPrompt | None:
        """A chat prompt with what its reply may be; None for a prompt that is none."""
        if is_chat(prompt):
            return self.prompts.chat(cast("Sequence[Message]", prompt), options)
        given = [name for name, value in vars(options).items() if value and name[0] != "_"]
        if given:
            raise RequestError(
                f"{given[0]} was given with a prompt that is no list of chat messages; give "
                '[{"role": "user", "content": ...}]'
            )
        return prompt if isinstance(prompt, ChatPrompt) else None

    def score(self, prompt: Prompt, continuations: Sequence[Continuation]) -> ScoreJob:
        """A score of continuations; arguments and errors as ``Engine.score``."""
        self._require_decoder()
        given = as_list(continuations, "continuations")
        ids = [self.prompts.encode_continuation(one) for one in given]
        job = ScoreJob(self.prompts.encode(prompt), ids)
        job.adapters = self._adapters.set_of(None)
        return job

    def text_logprobs(self, text: Prompt, n_top: int) -> TextLogprobsJob:
        """A text's log-probabilities; arguments and errors as ``Engine.text_logprobs``."""
        self._require_decoder()
        n_most = min(MAX_LOGPROBS, self._model.vocab.n_tokens)
        if isinstance(n_top, bool) or not isinstance(n_top, int) or not 0 <= n_top <= n_most:
            raise RequestError(f"invalid top={n_top!r}: expected 0 to {n_most}")
        job = TextLogprobsJob(self.prompts.encode(text), n_top, self._n_prefill)
        job.adapters = self._adapters.set_of(None)
        return job

    def embed(self, text: Prompt, pooling: Pooling | None) -> EmbedJob | EncodeJob:
        """An embedding of one text; arguments and errors as ``Engine.embed``."""
        if pooling not in (None, *POOLINGS):
            raise RequestError(not_one_of("pooling", pooling, POOLINGS))
        ids = self.prompts.encode(text, add_eos=True)
        pooling = pooling or own_pooling(self._model)
        if self._model.is_encoder:
            return EncodeJob(ids, pooling)
        job = EmbedJob(ids, pooling, self._n_prefill)
        job.adapters = self._adapters.set_of(None)
        return job

    def rank(self, query: str, document: str) -> RankJob:
        """The relevance of one document; arguments and errors as ``Engine.rank``."""
        if not self._model.is_encoder or self._model.n_class == 0:
            raise RequestError(
                f"{self._model.path.name} ({self._model.architecture}) has no classifier over "
                "pairs of texts; load a reranker, such as a bge-reranker"
            )
        for name, text in (("query", query), ("document", document)):
            if not isinstance(text, str):
                raise RequestError(f"invalid {name} of type {type(text).__name__}: give text")
            self.prompts.require_fits(text)
        return RankJob(self._model.vocab.encode_pair(query, document))

    def _require_decoder(self) -> None:
        if self._model.is_encoder:
            raise RequestError(
                f"{self._model.path.name} ({self._model.architecture}) is an encoder, which embeds "
                "texts and generates none; load a decoder model"
            )


def _known_drafters(given: str | Sequence[str] | None, drafter: Drafter) -> frozenset[str] | None:
    """The drafters that a request names, of those that its engine has."""
    if given is None:
        return None
    names = given.split("+") if isinstance(given, str) else as_list(given, "drafters")
    known = drafter.names if isinstance(drafter, AutoDrafter) else (drafter.name,)
    for name in names:
        if name not in known:
            raise RequestError(not_one_of("drafters", name, sorted(known)))
    return frozenset(names)


def _with_schema(sampling: Mapping[str, Any], chat: ChatPrompt | None) -> Mapping[str, Any]:
    """Sampling options with the schema that a chat asks for."""
    if chat is None or (chat.schema is None and chat.grammar is None):
        return sampling
    for name in CONSTRAINTS:
        if sampling.get(name) is not None:
            raise RequestError(
                f"give {name}, or response_format and tool_choice, not both", param=name
            )
    return sampling if chat.schema is None else {**sampling, "json_schema": chat.schema}
