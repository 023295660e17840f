"""Request: the checked options of one generation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.constraints.reply_grammar import ReplyGrammar
from pytreellama.context.params import is_integer
from pytreellama.engine.completion import Step
from pytreellama.engine.row_functions import LogitsProcessor, StoppingCriterion
from pytreellama.engine.token_state import Int32
from pytreellama.errors import RequestError, did_you_mean, shown
from pytreellama.sampling.params import SamplingParams

OnStep = Callable[[Step], object]
OnPrefill = Callable[[float], object]

MAX_LOGPROBS = 100
MAX_TOKENS = 2**31 - 1
"""More than any context holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Options of one generation. Invalid values raise; limits of an engine are checked later.

    Attributes:
        prompt: token ids, int32, shape (n,), n >= 1; ids of the vocabulary, never changed.
        max_tokens: maximum number of tokens to generate; with 0 the prompt is prefilled only.
        stop: strings that end the output.
        stop_tokens: token ids that end the output, in addition to the model's end tokens.
        ignore_eos: continue past the model's end tokens.
        logprobs: number of likeliest tokens to return with each generated token; 0 for the
            log-probability of the generated token only, None for nothing.
        context_shift: when the context is full, drop the older half of the tokens after ``n_keep``
            and continue.
        n_keep: tokens at the beginning that a context shift keeps; None is the prompt, or half of
            the context if that is less.
        n_draft: maximum number of draft nodes of a tree, if less than the engine's; 0 for plain
            decoding.
        drafters: names of those of the engine's drafters that may be asked; None is all.
        sampling: how tokens are drawn.
        logits_processors: functions ``f(tokens, logits) -> logits`` that change each row of logits
            before a token is drawn from it.
        stopping_criteria: functions ``f(tokens, logits) -> bool`` that end the output.
        on_step: called with every verified tree.
        on_prefill: called with the share of the prompt that is in the KV cache.
        reply: what the text may consist of, if it is a reply in a chat.
        reply_grammar: what such a reply must be.
    """

    prompt: Int32
    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None
    context_shift: bool = False
    n_keep: int | None = None
    n_draft: int | None = None
    drafters: frozenset[str] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    logits_processors: tuple[LogitsProcessor, ...] = ()
    stopping_criteria: tuple[StoppingCriterion, ...] = ()
    on_step: OnStep | None = None
    on_prefill: OnPrefill | None = None
    reply: ReplyFormat | None = None
    reply_grammar: ReplyGrammar | None = None

    def __post_init__(self) -> None:
        _require_integer("max_tokens", self.max_tokens)
        if self.max_tokens < 0:
            raise RequestError(
                f"invalid max_tokens={shown(self.max_tokens)}: expected a whole number from 0, or "
                "None to write until the end"
            )
        for name in ("logprobs", "n_keep", "n_draft"):
            if getattr(self, name) is not None:
                _require_integer(name, getattr(self, name))
        if not all(isinstance(stop, str) for stop in self.stop):
            raise RequestError(f"stop = {shown(self.stop)} was asked for; give a string or strings")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise RequestError(
                f"logprobs = {shown(self.logprobs)} was asked for; give None or 0 to {MAX_LOGPROBS}"
            )
        for name in ("logits_processors", "stopping_criteria"):
            for function in getattr(self, name):
                _require_function(f"item of {name}", function)
        for name in ("on_step", "on_prefill"):
            if getattr(self, name) is not None:
                _require_function(name, getattr(self, name))
        for name in ("n_keep", "n_draft"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise RequestError(
                    f"{name} = {shown(value)} was asked for; give None, or 0 or more"
                )


_OPTIONS = (
    *(
        name
        for name in Request.__dataclass_fields__
        if name not in ("prompt", "sampling", "reply", "reply_grammar")
    ),
    "parse_special",
    *(name for name in ChatRequestOptions.__dataclass_fields__ if not name.startswith("_")),
)


# Names that llama.cpp, llama-cpp-python, Ollama and transformers have, and no letters suggest.
_ELSEWHERE = {
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temp": "temperature",
    "repetition_penalty": "repeat_penalty",
    "repeat_last_n": "penalty_last_n",
    "chat_template_kwargs": "template_variables",
}
_OTHERWISE = {
    "stream": "engine.stream(...) yields the text as it comes",
    "echo": "the output never repeats the prompt",
    "best_of": "n=... gives several completions, and engine.score rates them",
}


def require_known(options: Iterable[str]) -> None:
    """Raise RequestError for a name that is no option of a request, with what may be meant."""
    known = SamplingParams.__dataclass_fields__
    for name in options:
        if name in _OPTIONS:
            raise RequestError(
                f"a fork cannot change {name}, which is its parent's; it can change "
                f"{', '.join(known)}"
            )
        if name not in known:
            names = [*_OPTIONS, *known]
            if name in _OTHERWISE:
                meant = f"; {_OTHERWISE[name]}"
            elif name in _ELSEWHERE:
                meant = f"; did you mean {_ELSEWHERE[name]!r}?"
            else:
                meant = did_you_mean(name, names)
            raise RequestError(f"unknown option {name}; options are {', '.join(names)}{meant}")


def sampling_params(
    options: Mapping[str, Any], base: SamplingParams | None = None
) -> SamplingParams:
    """Sampling parameters from options by name.

    Args:
        options: fields of ``SamplingParams``.
        base: values of the fields that are not given; by default those of ``SamplingParams()``.

    Raises:
        RequestError: an unknown option.
        SamplerError, GrammarError: a value out of range.
    """
    require_known(options)
    return replace(base or SamplingParams(), **options)


def _require_integer(name: str, value: object) -> None:
    if not is_integer(value):
        raise RequestError(f"invalid {name}={shown(value)}: expected a whole number")


def _require_function(name: str, given: object) -> None:
    if not callable(given):
        raise RequestError(f"invalid {name} of type {type(given).__name__}: give a function")
    if inspect.iscoroutinefunction(given):
        raise RequestError(
            f"invalid {name}: it is a coroutine function, and the engine's thread cannot await; "
            "give a plain function"
        )
