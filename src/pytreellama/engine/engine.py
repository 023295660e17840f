"""Engine: generates text, scores and embeddings for requests from any thread."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.closing import Closing
from pytreellama.context.context import Context
from pytreellama.context.encoder_context import EncoderContext
from pytreellama.context.params import ContextParams
from pytreellama.deprecation import Renamed, renamed_option
from pytreellama.draft import (
    Auto,
    DrafterFactory,
    DrafterSpec,
    NeedsTarget,
    NoDrafter,
    drafter_factory,
    uses_mtp,
)
from pytreellama.engine.adapters import EngineAdapters, LoraSpec
from pytreellama.engine.attachment import attach, detach
from pytreellama.engine.chat_prompts import ChatPrompt
from pytreellama.engine.completion import Chunk, Completion
from pytreellama.engine.config import (
    EngineConfig,
    check_options,
    checked_flag,
    named_rule,
    own_model,
)
from pytreellama.engine.drafting import PlannedDrafting
from pytreellama.engine.encoder_scheduler import EncoderScheduler
from pytreellama.engine.evaluations import Evaluations
from pytreellama.engine.generate_call import GenerateCall
from pytreellama.engine.generation import Generation
from pytreellama.engine.jobs import GenerateJob
from pytreellama.engine.jobs.factory import JobFactory
from pytreellama.engine.kv.prefix_file import load_prefix_cache, save_prefix_cache
from pytreellama.engine.load import Load
from pytreellama.engine.loop import Loop
from pytreellama.engine.prompts import Prompt
from pytreellama.engine.scheduler import (
    MAX_CHECKPOINT_BYTES,
    MAX_SWAP_BYTES,
    N_PREFILL,
    Scheduler,
)
from pytreellama.engine.tree_pass import Rule
from pytreellama.errors import ContextError
from pytreellama.model.model import Model
from pytreellama.plan import DrafterBudget, Planner

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytreellama.engine.options import ChatPromptOptions, RequestOptions

_log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
_N_FIXED = 8
_N_PLANNED = 64


class Engine(Evaluations, Closing):
    """Generates text with continuous batching and lossless tree speculation.

    The output is the model's own, whatever is drafted: every token is drawn by the request's
    sampler from the target's logits. (Where ``context.is_batch_invariant`` is False, logits differ
    in their last bits between a pass over one token and a pass over many, so greedy output may
    differ where two tokens have almost equal logits.)

    Requests from any thread run together, up to ``n_seq_max`` at once, on a thread of the engine;
    others wait in the queue. Callbacks are called on that thread. Models whose state cannot be
    rolled back (``context.can_roll_back``) are decoded without drafting.

    Args:
        model: the target, or the path of its GGUF file.
        drafter: "auto", another name of ``draft.DRAFTERS``, or a factory such as
            ``pytreellama.draft.Suffix(...)``.
        n_draft: maximum number of draft nodes in one tree; by default 8, or 64 where trees are
            planned by measured cost.
        n_ctx: number of tokens that the KV cache holds, for all requests together; by default
            4096, or the model's training context if that is less.
        n_seq_max: maximum number of running requests; by default 1.
        n_queue_max: maximum number of waiting requests; beyond it, ``submit`` itself waits.
        n_cached_prefixes: maximum number of ended requests whose tokens stay in the KV cache, as
            long as there is room, for prompts with the same prefix (the next turn of a chat). By
            default 4; 1 for a model with a recurrent state, of which each holds one.
        n_prefill: maximum number of prompt tokens that are prefilled between two decode passes.
        verify: "match" accepts what the sampler draws. "typical" is LOSSY: it accepts what the
            target finds plausible, in greedy requests only; ``stats.is_lossy`` reports it. Or a
            function with the arguments of ``verify.rejection``, which itself is lossless with any
            drafter, and accepts more of one that draws (``draft.Model(..., sample=1.0)``).
        max_swap_bytes: host memory for keys and values of preempted requests.
        max_checkpoint_bytes: host memory for what a shared prefix needs beside the KV cache, if
            the model has a recurrent state or a sliding window without ``swa_full``.
        lora: LoRA adapters of the model, as ``Model.load_lora`` gives them, or paths of their
            files: one, a list, or several by name. See ``lora_scales``.
        params: all sizes and types at once, instead of ``n_ctx``, ``n_seq_max`` and ``options``.
        options: further fields of ``ContextParams`` by name.

    Raises:
        ContextError, DraftError: invalid sizes, or an unknown drafter.
        ModelLoadError: a path whose file cannot be loaded.

    Example:
        >>> with ptl.Engine("model.gguf", n_seq_max=8) as engine:
        ...     print(engine.generate("Once upon a time", max_tokens=64).text)
    """

    _used: Context | EncoderContext
    _runner: Scheduler | EncoderScheduler

    def __init__(
        self,
        model: Model | str | os.PathLike[str],
        drafter: DrafterSpec = "auto",
        *,
        n_draft: int | None = None,
        n_ctx: int | None = None,
        n_seq_max: int | None = None,
        n_queue_max: int = 1024,
        n_cached_prefixes: int | None = None,
        n_prefill: int = N_PREFILL,
        max_swap_bytes: int = MAX_SWAP_BYTES,
        max_checkpoint_bytes: int = MAX_CHECKPOINT_BYTES,
        verify: Rule = "match",
        lora: LoraSpec | None = None,
        params: ContextParams | None = None,
        **options: Any,
    ) -> None:
        n_cached_prefixes = renamed_option(
            options, "n_kept", "n_cached_prefixes", n_cached_prefixes, None
        )
        max_swap_bytes = renamed_option(
            options, "max_saved_bytes", "max_swap_bytes", max_swap_bytes, MAX_SWAP_BYTES
        )
        check_options(options, _PARAMETERS)
        verify = named_rule(verify)
        config = EngineConfig(
            n_draft=n_draft,
            n_ctx=n_ctx,
            n_seq_max=n_seq_max,
            n_queue_max=n_queue_max,
            n_cached_prefixes=n_cached_prefixes,
            max_checkpoint_bytes=max_checkpoint_bytes,
            n_prefill=n_prefill,
            verify=verify,
            params=params,
        )
        self._new_drafter = drafter_factory(drafter)
        self.model = model = own_model(model, load_mtp=uses_mtp(self._new_drafter))
        if isinstance(self._new_drafter, NeedsTarget):
            self._new_drafter.prepare(model)
        self._closing = threading.Lock()
        self.vocab = model.vocab
        self._planned: PlannedDrafting | None = None
        self._adapters = EngineAdapters(model, lora)  # before the context, which has room for them
        if model.is_encoder:
            self._begin_encoder(config, options)
        else:
            self._begin_decoder(config, options, max_swap_bytes)
        self._loop = Loop(self._runner, self._new_drafter, self.n_seq_max + n_queue_max)

    def _begin_encoder(self, config: EngineConfig, options: dict[str, Any]) -> None:
        if self._adapters.names:
            self._adapters.close()
            raise ContextError("an encoder takes no LoRA adapters; leave lora out")
        self._used = encoder = config.new_encoder_context(self.model, options)
        self._runner = EncoderScheduler(encoder)
        self._jobs = self._job_factory(encoder.n_ctx, config.verify)
        self.n_draft, self.n_seq_max = 0, config.n_seq_max or 1

    def _job_factory(self, n_prefill: int, rule: Rule) -> JobFactory:
        return JobFactory(
            self.model,
            self._new_drafter,
            self._adapters,
            self.n_text_max,
            n_prefill,
            rule=rule if not isinstance(rule, str) else None,
        )

    def _begin_decoder(
        self, config: EngineConfig, options: dict[str, Any], max_swap_bytes: int
    ) -> None:
        n_cached = config.n_cached(self.model)
        self._used = config.new_context(self.model, options)
        attach(self._new_drafter, self.context)
        self._planned, self.n_draft = self._drafting(config.n_draft)
        n_chunk = min(config.n_prefill, self.context.n_ubatch)
        self._jobs = self._job_factory(n_chunk, config.verify)
        self._runner = Scheduler(
            self.context,
            self.n_draft,
            n_prefill=n_chunk,
            max_swap_bytes=max_swap_bytes,
            rule=config.verify,
            drafting=self._planned,
            n_cached_prefixes=n_cached,
            max_checkpoint_bytes=config.max_checkpoint_bytes,
        )
        self.n_seq_max = self.context.n_seq_max - n_cached

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        drafter: DrafterSpec = "auto",
        *,
        n_gpu_layers: int = -1,
        **options: Any,
    ) -> Engine:
        """An engine of a model of the Hugging Face Hub, downloaded once; see ``Model``.

        Args:
            repo_id, filename: as ``Model.from_pretrained``.
            drafter, options: as ``Engine``.
            n_gpu_layers: as ``Model``.

        Raises:
            ModelLoadError: as ``Model.from_pretrained``.

        Example:
            >>> engine = ptl.Engine.from_pretrained("ggml-org/SmolLM3-3B-GGUF", "*Q4_K_M.gguf")
        """
        with Model.from_pretrained(
            repo_id, filename, n_gpu_layers=n_gpu_layers, load_mtp=uses_mtp(drafter)
        ) as model:
            return cls(model, drafter, **options)

    def _drafting(self, n_draft: int | None) -> tuple[PlannedDrafting | None, int]:
        """What plans the trees, None if each drafter decides; and their maximum size."""
        if n_draft == 0 or self._new_drafter is NoDrafter or not self.context.can_roll_back:
            return None, 0
        if isinstance(self._new_drafter, Auto):
            planned = PlannedDrafting(self.context, self._new_drafter.n_drafters)
            return planned, n_draft or _N_PLANNED
        return None, n_draft or _N_FIXED

    def __repr__(self) -> str:
        if self.is_closed:
            return f"<Engine of {self.model.path.name}: closed>"
        if isinstance(self._used, EncoderContext):
            return f"<Engine of {self.model.path.name}: an encoder of texts of {self.n_text_max}>"
        requests = "1 request" if self.n_seq_max == 1 else f"{self.n_seq_max} requests"
        return (
            f"<Engine of {self.model.path.name}: {requests} at once in a context of "
            f"{self.context.n_ctx} tokens, drafts of up to {self.n_draft} nodes>"
        )

    @property
    def context(self) -> Context:
        """The context that requests run in.

        Raises:
            ContextError: the model is an encoder, whose texts are in no KV cache.
        """
        if isinstance(self._used, EncoderContext):
            raise ContextError(
                f"{self.model.path.name} is an encoder, whose texts are in no KV cache; its engine "
                "has embed and rank alone"
            )
        return self._used

    @property
    def n_ctx(self) -> int:
        """Number of tokens that the KV cache holds; of an encoder, those of a pass."""
        return self._used.n_ctx

    @property
    def n_text_max(self) -> int:
        """Number of tokens of the longest text."""
        return self._used.n_text_max

    @property
    def _scheduler(self) -> Scheduler:
        """The scheduler of a decoder; raises ContextError as ``context``."""
        if isinstance(self._runner, EncoderScheduler):
            raise ContextError(f"{self.model.path.name} is an encoder, which has no prefix cache")
        return self._runner

    @property
    def drafter(self) -> DrafterFactory:
        """Makes the drafter of each request, and holds what they share."""
        return self._new_drafter

    @property
    def planner(self) -> Planner | None:
        """The planner, after the first request; None where trees are not planned."""
        return None if self._planned is None else self._planned.planner

    @property
    def drafter_budget(self) -> DrafterBudget | None:
        """Cost and benefit of each drafter; None where trees are not planned."""
        return None if self._planned is None else self._planned.budget

    @property
    def adapters(self) -> EngineAdapters:
        """The LoRA adapters: their names and files."""
        return self._adapters

    @property
    def lora_scales(self) -> dict[str, float]:
        """Scales of the LoRA adapters by name, for requests without ``lora``; at first 1.0 each.

        Assign other scales at any time; later requests use them. Names that are left out have 0.

        Example:
            >>> engine = ptl.Engine("model.gguf", lora={"style": "style.gguf", "law": "law.gguf"})
            >>> engine.lora_scales = {"style": 0.5}
            >>> engine.generate("Once upon a time", lora={"law": 1.0})  # without style
        """
        return dict(self._adapters.scales)

    @lora_scales.setter
    def lora_scales(self, scales: Mapping[str, float]) -> None:
        self._adapters.scales = self._adapters.checked(scales)

    @property
    def load(self) -> Load:
        """Numbers of requests and KV-cache cells, as of the last step."""
        return self._runner.load

    @property
    def is_closed(self) -> bool:
        """True once no request is accepted any more: closed, or broken down."""
        return self._loop.is_closed

    @property
    def n_open(self) -> int:
        """Number of requests that run or wait."""
        return self._loop.n_open

    @property
    def is_full(self) -> bool:
        """True if the request queue is full: ``submit`` waits, or raises QueueFullError."""
        return self._loop.is_full

    def require_can_wait(self) -> None:
        """Raise ContextError in a callback, which would wait for its own thread."""
        self._loop.thread.require_elsewhere()

    def close(self) -> None:
        """Cancel all requests, and free the context; the model stays open.

        Raises:
            ContextError: called in a callback; the engine continues.
        """
        self._loop.close()
        with self._closing:
            try:
                self._runner.close()
            except Exception:  # only the next engine would use it
                _log.warning("what the engine has learned is not saved", exc_info=True)
            finally:
                if isinstance(self._used, Context):
                    detach(self._new_drafter, self._used)
                self._used.close()
                self._adapters.close()
                self.model.close()

    # deprecated names
    save_kept = Renamed("save_prefix_cache")
    load_kept = Renamed("load_prefix_cache")
    scoring = Renamed("score_job")
    embedding = Renamed("embed_job")
    submit_evaluation = Renamed("submit_job")

    # a str is a Sequence[str] too, but one prompt
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, n: None = None, **options: Unpack[RequestOptions]
    ) -> Completion: ...
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, n: int, **options: Unpack[RequestOptions]
    ) -> list[Completion]: ...
    @overload
    def generate(
        self, prompt: Sequence[Prompt], *, n: None = None, **options: Unpack[RequestOptions]
    ) -> list[Completion]: ...
    @overload
    def generate(
        self, prompt: Sequence[Prompt], *, n: int, **options: Unpack[RequestOptions]
    ) -> list[list[Completion]]: ...
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        n: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """Continue one prompt, or several together, and wait for the output.

        Args:
            prompt: text, token ids or chat messages; or a list of such prompts.
            n: number of completions of each prompt, which is prefilled once; draws differ, for a
                ``seed`` counts up from one completion to the next.
            options: as ``submit``.

        Returns:
            A ``Completion``; for a list of prompts a list, in the same order; with ``n`` a list of
            n for each prompt.

        Raises:
            As ``submit``, and whatever ends a request; the other prompts are then cancelled.
        """
        self._loop.thread.require_elsewhere()
        call = GenerateCall(prompt, n)
        jobs = [
            self._generate_job(one, i, own) for i, (one, own) in enumerate(call.requests(options))
        ]
        arranged: Completion | list[Completion] | list[list[Completion]]
        arranged = call.arranged(self._loop.run(jobs))
        return arranged

    def stream(
        self, prompt: Prompt, **options: Unpack[RequestOptions]
    ) -> Generator[Chunk, None, None]:
        """Continue one prompt and yield text as it becomes final; arguments as ``submit``.

        The last chunk has ``finish_reason``, ``stats`` and ``seed``. A stream that is closed or
        garbage collected before its end is cancelled.

        Example:
            >>> for chunk in engine.stream("Once upon a time", max_tokens=64):
            ...     print(chunk.text, end="")
        """
        self._loop.thread.require_elsewhere()
        return self._loop.stream(self._generate_job(prompt, 0, options))

    def submit(
        self,
        prompt: Prompt,
        *,
        wait: bool = True,
        streams: bool = True,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """Queue a request, and return without waiting for its output.

        Args:
            prompt: text, token ids or chat messages.
            wait: if the queue is full, wait for room in it.
            streams: deliver chunks after each step; otherwise one at the end.
            max_tokens: maximum number of tokens to generate, by default 128; 0 for prefill only,
                None for no limit but the context's.
            stop: a string or strings that end the output; they are not part of it.
            stop_tokens: token ids that end the output, in addition to the model's end tokens.
            ignore_eos: continue past end tokens.
            logprobs: return the log-probability of each generated token, and this many of the
                likeliest tokens with theirs.
            context_shift: when the context is full, drop the older half of the tokens after
                ``n_keep`` and continue, instead of ending.
            n_keep: tokens at the beginning that a context shift keeps, by default the prompt.
            n_draft: maximum number of draft nodes of a tree, if less than the engine's.
            lora: scales of LoRA adapters by name; those left out are not used. By default the
                engine's ``lora_scales``.
            drafters: names of the engine's drafters that may be asked, in a list or joined with
                "+", as "suffix+recycling"; by default all. The text is the same.
            parse_special: parse names of special tokens, such as ``<|im_end|>``, in a prompt of
                text; False for text that you do not trust. In chat messages they are always text.
            logits_processors: functions ``f(tokens, logits) -> logits``, applied in order to each
                row of logits (float32, shape (n_vocab,)) before a token is drawn from it; tokens
                are all so far, int32, shape (n,).
            stopping_criteria: functions ``f(tokens, logits) -> bool``, called after each token is
                drawn; True ends the output behind it.
            on_step: called with every verified tree.
            on_prefill: called with the share of the prompt that is in the KV cache.
            tools, tool_choice, parallel_tool_calls, response_format, reasoning_format,
                chat_template, template_variables: for chat messages, as ``chat_prompt``.
            options: fields of ``SamplingParams``, such as temperature, seed, grammar. Where they
                are left out, chat messages are sampled as the model's file recommends, else as
                llama.cpp does (``sampling.defaults``); text and token ids are decoded greedily.
                ``temperature=0`` decodes chats greedily too.

        Raises:
            RequestError, SamplerError, GrammarError, VocabError, ChatTemplateError: an invalid
                request.
            QueueFullError: the queue is full, and ``wait`` is False.
        """
        job = self._generate_job(prompt, 0, options)
        return self._loop.submit(job, checked_flag("wait", wait), checked_flag("streams", streams))

    def prepare(self) -> None:
        """Measure what passes cost now, if need be, and not at the first request."""
        if self.model.is_encoder:
            return  # it drafts nothing
        self._loop.call(self._scheduler.prepare)

    def save_prefix_cache(self, path: str | os.PathLike[str]) -> int:
        """Write the prefix cache (``n_cached_prefixes``) to a file; returns how many prefixes.

        Raises:
            OSError: the file cannot be written.
        """
        kv = self._scheduler.prefix_cache, self._scheduler.checkpoints
        return self._loop.call(lambda: save_prefix_cache(*kv, self.context, path))

    def load_prefix_cache(self, path: str | os.PathLike[str]) -> int:
        """Restore what ``save_prefix_cache`` wrote, as far as there is room.

        A file that is damaged, or of another model or build, is ignored with a warning in the log.

        Returns:
            Number of restored prefixes.
        """
        self.prepare()  # while the KV cache is empty
        kv = self._scheduler.prefix_cache, self._scheduler.checkpoints
        return self._loop.call(lambda: load_prefix_cache(*kv, self.context, path))

    def clear_prefix_cache(self) -> None:
        """Free what ended requests hold: the next prompts are prefilled whole."""
        self._loop.call(self._scheduler.clear_prefix_cache)

    def encode_prompt(
        self, prompt: Prompt, *, add_eos: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a prompt. Text gets BOS in front if the model's file asks for it.

        A text that the context cannot hold, whatever its tokens are, is refused before it is
        tokenised.

        Args:
            add_eos: append EOS to a text if the model's file asks for it, as ``embed`` does: the
                text will not be continued. Chat messages and token ids never get it.
            parse_special: as ``submit``; a text that begins with BOS then gets no other one.

        Raises:
            VocabError, ChatTemplateError, RequestError: an invalid prompt.
        """
        self._loop.require_open()
        ids: list[int] = self._jobs.prompts.encode(
            prompt, add_eos=add_eos, parse_special=checked_flag("parse_special", parse_special)
        ).tolist()
        return ids

    def chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatPromptOptions]
    ) -> ChatPrompt:
        """Render a chat as ``generate`` does, without generating; the result is a prompt.

        Args:
            messages: with role and content; calls of tools and their results in OpenAI's form.
            tools: functions that the model may call, in OpenAI's form.
            tool_choice: ``"auto"``, ``"none"``, ``"required"``, or OpenAI's form for one of them.
                A call that is required is constrained to the schema of its arguments.
            parallel_tool_calls: allow several calls in a reply; by default only where the model
                decides.
            response_format: OpenAI's: ``{"type": "json_schema", "json_schema": {"schema": ...}}``,
                ``{"type": "json_object"}`` or ``{"type": "text"}``.
            reasoning_format: ``"auto"`` splits reasoning from the content of
                ``Completion.message``; ``"none"`` leaves it there as the model wrote it.
            chat_template: source of a template to use instead of the model's.
            template_variables: its further variables, such as ``{"enable_thinking": False}``.

        Raises:
            ChatTemplateError, RequestError, VocabError: an invalid chat.
        """
        self._loop.require_open()
        return self._jobs.prompts.chat(messages, ChatRequestOptions(**options))

    def require_fits(self, text: str) -> None:
        """Refuse a text that is certainly too long for a request, without tokenising it.

        Raises:
            RequestError: the text cannot fit.
            VocabError: the text is not valid Unicode.
        """
        self._jobs.prompts.require_fits(text)

    def _generate_job(self, prompt: Prompt, index: int, options: Mapping[str, Any]) -> GenerateJob:
        self._loop.require_open()
        return self._jobs.generate(prompt, index, **options)


_PARAMETERS = tuple(
    name
    for name, parameter in inspect.signature(Engine).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
)
