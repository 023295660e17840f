"""The options of a request with their types, for editors and type checkers.

They are checked where they are used, by ``Request`` and ``SamplingParams``, which say what each
means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pytreellama.engine.request import OnPrefill, OnStep
    from pytreellama.engine.row_functions import LogitsProcessor, StoppingCriterion


class SamplingOptions(TypedDict, total=False):
    """Fields of ``SamplingParams``."""

    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    xtc_probability: float
    xtc_threshold: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    grammar: str | None
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    lark: str | None
    seed: int | None


class ChatPromptOptions(TypedDict, total=False):
    """Options of ``Engine.chat_prompt``: fields of ``ChatRequestOptions``."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    reasoning_format: str | None
    chat_template: str | None
    template_variables: Mapping[str, Any] | None


class RequestOptions(SamplingOptions, ChatPromptOptions, total=False):
    """Options of ``Engine.submit`` and ``Engine.generate``."""

    max_tokens: int | None
    stop: str | Sequence[str]
    stop_tokens: Iterable[int]
    ignore_eos: bool
    logprobs: int | None
    context_shift: bool
    n_keep: int | None
    n_draft: int | None
    drafters: str | Sequence[str] | None
    parse_special: bool
    logits_processors: Sequence[LogitsProcessor]
    stopping_criteria: Sequence[StoppingCriterion]
    on_step: OnStep | None
    on_prefill: OnPrefill | None
