"""EngineConfig: the checked sizes and rules of an engine."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytreellama.context.context import Context
from pytreellama.context.params import MAX_SEQUENCES, ContextParams
from pytreellama.engine.tree_pass import RULES, Rule
from pytreellama.errors import ContextError, RequestError, did_you_mean, not_one_of, shown
from pytreellama.model.model import Model
from pytreellama.verify import match, match_greedy, typical

_log = logging.getLogger(__name__)

_N_CACHED, _N_CACHED_STATES = 4, 1
_N_CTX_USUAL = 256
"""Sizes from here on are rounded up without a word."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Arguments of ``Engine`` of the same names.

    Raises:
        RequestError, ContextError: a value out of range, or sizes given twice.
    """

    n_draft: int | None
    n_ctx: int | None
    n_seq_max: int | None
    n_queue_max: int
    n_cached_prefixes: int | None
    max_checkpoint_bytes: int
    n_prefill: int
    verify: Rule
    params: ContextParams | None

    def __post_init__(self) -> None:
        _require_at_least(0, n_queue_max=self.n_queue_max)
        if self.n_cached_prefixes is not None:
            _require_at_least(0, n_cached_prefixes=self.n_cached_prefixes)
        _require_at_least(0, max_checkpoint_bytes=self.max_checkpoint_bytes)
        _require_at_least(1, n_prefill=self.n_prefill)
        if self.n_draft is not None:
            _require_at_least(0, n_draft=self.n_draft)
        if self.n_seq_max is not None:
            _require_at_least(1, n_seq_max=self.n_seq_max)
        if self.verify not in RULES and not callable(self.verify):
            raise RequestError(
                not_one_of("verify", self.verify, RULES)
                + "; or give a function, such as pytreellama.verify.rejection"
            )
        if self.params is not None and not (self.n_ctx is None and self.n_seq_max is None):
            raise ContextError("give n_ctx and n_seq_max in params, or by name, not both")

    def n_cached(self, model: Model) -> int:
        """Maximum number of cached prefixes: what was asked for, or the default."""
        if self.n_cached_prefixes is not None:
            return self.n_cached_prefixes
        n_running = self.n_seq_max or (1 if self.params is None else self.params.n_seq_max)
        n_default = _N_CACHED if model.can_branch else _N_CACHED_STATES
        return max(0, min(n_default, MAX_SEQUENCES - n_running))

    def new_context(self, model: Model, options: dict[str, Any]) -> Context:
        """A context with a sequence id for each running request and each cached prefix.

        Args:
            options: further fields of ``ContextParams``.

        Raises:
            ContextError: invalid sizes, or sequences that cannot share a pass.
        """
        n_more = self.n_cached(model)
        if self.params is not None:
            params = replace(self.params, n_seq_max=self.params.n_seq_max + n_more)
            context = Context(model, params, **options)
        else:
            n_ctx = min(4096, model.n_ctx_train) if self.n_ctx is None else self.n_ctx
            context = Context(
                model, n_ctx=n_ctx, n_seq_max=(self.n_seq_max or 1) + n_more, **options
            )
        if not context.kv_unified:
            context.close()
            raise ContextError(
                "an engine needs kv_unified=True, so that all its trees can share one pass"
            )
        _warn_of_size(model, self.n_ctx if self.params is None else self.params.n_ctx, context)
        return context


def _warn_of_size(model: Model, n_ctx: int | None, context: Context) -> None:
    """Log what becomes of a size that few can have meant."""
    if not n_ctx:
        return
    if n_ctx > model.n_ctx_train > 0:
        _log.warning(
            "n_ctx=%d is more than the %d tokens of context that %s was trained for; expect poor "
            "output past them",
            n_ctx,
            model.n_ctx_train,
            model.path.name,
        )
    elif n_ctx < _N_CTX_USUAL and context.n_ctx > n_ctx:
        _log.warning("n_ctx=%d is raised to %d, the smallest context", n_ctx, context.n_ctx)


_OF_MODELS = set(inspect.signature(Model.__init__).parameters) - {"self", "path"}


def check_options(options: Iterable[str], own: Iterable[str]) -> None:
    """Raise ContextError for an option that neither an engine nor its context has.

    Args:
        own: names of the engine's own parameters.
    """
    known = list(dict.fromkeys([*own, *ContextParams.__dataclass_fields__]))
    unknown = [name for name in options if name not in known]
    if unknown and unknown[0] in _OF_MODELS:
        raise ContextError(
            f"{unknown[0]} is a parameter of the model; give it there, as in "
            f"Engine(Model(path, {unknown[0]}=...))"
        )
    if unknown:
        raise ContextError(
            f"an engine has no parameter {', '.join(unknown)}; it has {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )


def named_rule(rule: Rule) -> Rule:
    """The name of a rule that an engine applies by itself; others as they are."""
    names: dict[object, Rule] = {match: "match", match_greedy: "match", typical: "typical"}
    return names.get(rule, rule) if callable(rule) else rule


def own_model(model: object, *, load_mtp: bool = False) -> Model:
    """An owner of the model for an engine, which closes it; a path is loaded.

    Args:
        load_mtp: load the NextN layers of a path's file too.

    Raises:
        ContextError: neither a model nor a path.
        ModelLoadError: the file cannot be loaded.
    """
    if isinstance(model, Model):
        return model.share()
    if isinstance(model, (str, os.PathLike)):
        return Model(model, load_mtp=load_mtp)
    raise ContextError(
        f"invalid model of type {type(model).__name__}: give a Model, or the path of a GGUF file"
    )


def _require_at_least(least: int, **values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, np.integer)) or value < least:
            raise RequestError(
                f"invalid {name}={shown(value)}: expected a whole number from {least}"
            )


def checked_flag(name: str, value: object) -> bool:
    """``value`` if it is a boolean; otherwise raises RequestError."""
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"invalid {name} of type {type(value).__name__}: give True or False")
    return bool(value)
