"""Sampler: draws the next token from a row of logits, and remembers what that depends on."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.closing import Closing
from pytreellama.core.grammar import Grammar, check_work
from pytreellama.core.handle import Handle
from pytreellama.core.sampling import MAX_SEED, SamplingParams
from pytreellama.core.schema import JsonSchemaConstraint
from pytreellama.core.vocab import Vocab
from pytreellama.errors import GrammarError, SamplerError
from pytreellama.native import ffi, last_error, lib

# llama.cpp's typical-p and Mirostat take logarithms of probabilities: one that underflows to 0
# makes the entropy NaN and the choice arbitrary. Nothing this unlikely is ever drawn.
_MIN_P_OF_LOGARITHMS = 1e-30
_MIROSTAT_M = 100  # tokens from which Mirostat 1 estimates the slope, as in llama.cpp
_MIN_KEEP = 1


class LogitsSource(Protocol):
    """Whatever holds rows of logits: a ``Context``."""

    def logits_pointer(self, row: int) -> Any:
        """cdata ``float *`` to the n_tokens logits of one row."""
        ...


class Sampler(Closing):
    """Draws tokens as ``SamplingParams`` ask for. One sampler follows one text.

    A sampler belongs to one thread at a time. The same seed, parameters and logits give the same
    tokens. A grammar or schema is applied as llama.cpp does: a token is drawn without it first,
    and only if it is refused are all others checked and the draw repeated.

    Args:
        vocab: the vocabulary of the model whose logits are drawn from.
        params: what to draw; None is greedy.

    Raises:
        SamplerError: a ``logit_bias`` token that the vocabulary does not have.
        GrammarError: a grammar or schema that cannot be used.
    """

    def __init__(self, vocab: Vocab, params: SamplingParams | None = None) -> None:
        self.vocab = vocab
        self._model = vocab.owner.share()  # a grammar reads the vocabulary to the end
        self.params = params if params is not None else SamplingParams()
        seed = self.params.seed
        self.seed = seed if seed is not None else secrets.randbelow(MAX_SEED + 1)
        """The seed in use: the one asked for, or the one drawn."""
        biases = _biases(vocab, self.params)
        self.is_argmax = self.params.is_greedy and not biases
        """Is every choice the argmax of the plain row? (Some models name tokens never to write.)"""
        self._grammar: Grammar | None = None
        self._constraint: JsonSchemaConstraint | None = None
        if self.params.grammar is not None:
            self._grammar = Grammar(vocab, self.params.grammar)
        if self.params.json_schema is not None:
            self._constraint = JsonSchemaConstraint(vocab, self.params.json_schema)
        self._chain = _new_chain(vocab, self.params, biases, self.seed)

    def sample(self, context: LogitsSource, row: int) -> int:
        """Draw a token from a row of the last decode, and take it as the next of the text.

        Args:
            context: where the logits are.
            row: the row's number among the outputs of the last decode.

        Raises:
            SamplerError: the sampler is closed, or no token is left to choose from.
            GrammarError: no token can continue the text under the grammar or schema.
        """
        return self._choose(context.logits_pointer(row))

    def sample_row(self, logits: NDArray[np.float32]) -> int:
        """Draw a token from float32 logits of shape (n_tokens,). Otherwise as ``sample``."""
        row = np.ascontiguousarray(logits, dtype=np.float32)
        if row.shape != (self.vocab.n_tokens,):
            raise SamplerError(
                f"a row of logits must have the shape ({self.vocab.n_tokens},), not {row.shape}"
            )
        return self._choose(ffi.from_buffer("float[]", row))

    def accept(self, token: int) -> None:
        """Take ``token`` as the next of the text, as if it had been drawn.

        Raises:
            SamplerError: not a token of the vocabulary.
            GrammarError: the grammar or schema does not allow it here; nothing has changed.
        """
        chain = self._open_chain()
        token = int(self._checked([token])[0])
        if self._grammar is not None:
            self._grammar.accept(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        _check_status(lib.treellama_accept(chain, token))

    def accept_prompt(self, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Tell penalties and DRY what stands before the text; grammars do not see it.

        Args:
            tokens: ids in the order of the prompt; only the last ``params.n_history`` matter.
        """
        chain = self._open_chain()
        n_history = self.params.n_history
        if n_history == 0 or len(tokens) == 0:
            return
        recent = self._checked(tokens[-n_history:])
        status = lib.treellama_accept_all(
            chain, ffi.from_buffer("llama_token[]", recent), len(recent)
        )
        _check_status(status)

    def reset(self) -> None:
        """Forget text, prompt and draws: the sampler is as it was made, with the same seed."""
        _check_status(lib.treellama_sampler_reset(self._open_chain()))
        if self._grammar is not None:
            self._grammar.reset()
        if self._constraint is not None:
            self._constraint.reset()

    def clone(self) -> Sampler:
        """An independent sampler in the same state: it would draw the same tokens from here on."""
        chain = _clone(self._open_chain())
        other: Sampler = object.__new__(type(self))
        other.vocab, other.params, other.seed = self.vocab, self.params, self.seed
        other._model = self._model.share()
        other.is_argmax, other._chain = self.is_argmax, chain
        grammar, constraint = self._grammar, self._constraint
        other._grammar = grammar and grammar.clone()
        other._constraint = constraint and constraint.clone()
        return other

    def close(self) -> None:
        """Free the native samplers now; a second call does nothing."""
        self._chain.close()
        if self._grammar is not None:
            self._grammar.close()
        self._model.close()

    @property
    def closed(self) -> bool:
        return self._chain.closed

    def _choose(self, logits: Any) -> int:
        chain = self._open_chain()
        if self.is_argmax:
            return self._argmax(logits)
        if self._constraint is not None:
            return self._choose_by_schema(chain, logits, self._constraint)
        grammar = self._grammar.pointer if self._grammar is not None else ffi.NULL
        scratch = _scratch(self.vocab.n_tokens)
        status = lib.treellama_sample(
            chain, grammar, logits, self.vocab.n_tokens, ffi.NULL, scratch.rows, scratch.token
        )
        self._check_draw(status)
        return int(scratch.token[0])

    def _argmax(self, logits: Any) -> int:
        scratch = _scratch(self.vocab.n_tokens)
        lib.treellama_argmax(logits, 1, self.vocab.n_tokens, scratch.token)
        token = int(scratch.token[0])
        if not logits[token] > -np.inf:
            raise SamplerError(
                "no token to choose from: every logit of the row is NaN or -infinity"
            )
        return token

    def _choose_by_schema(self, chain: Any, logits: Any, constraint: JsonSchemaConstraint) -> int:
        scratch = _scratch(self.vocab.n_tokens)

        def draw(allowed: Any) -> int:
            status = lib.treellama_draw(
                chain,
                ffi.NULL,
                logits,
                self.vocab.n_tokens,
                allowed,
                scratch.rows,
                scratch.token,
            )
            self._check_draw(status)
            return int(scratch.token[0])

        token = draw(ffi.NULL)
        if not constraint.allows(token):
            token = draw(ffi.from_buffer("uint32_t[]", constraint.mask()))
        constraint.accept(token)
        _check_status(lib.treellama_accept(chain, token))
        return token

    def _check_draw(self, status: int) -> None:
        if status == 0:
            return
        check_work(status)
        if status == lib.TREELLAMA_NO_CANDIDATE and self.params.is_constrained:
            what = "grammar" if self._grammar is not None else "JSON schema"
            raise GrammarError(
                f"no token can continue the text under the {what}: the ones it allows are "
                "banned by logit_bias, impossible for the model, or not in the vocabulary"
            )
        if status == lib.TREELLAMA_NO_CANDIDATE:
            raise SamplerError(
                "no token to choose from: all are banned or have a logit of -infinity"
            )
        raise SamplerError(f"llama.cpp could not draw a token: {last_error()}")

    def _open_chain(self) -> Any:
        return self._chain.pointer

    def _checked(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
        wide = np.asarray(tokens, dtype=np.int64)
        wrong = (wide < 0) | (wide >= self.vocab.n_tokens)
        if wrong.any():
            raise SamplerError(
                f"token {int(wide[wrong][0])} is not in the vocabulary; "
                f"ids are from 0 to {self.vocab.n_tokens - 1}"
            )
        return np.ascontiguousarray(wide, dtype=np.int32)


class _Scratch(threading.local):
    """Room for one row of candidates: one a thread, for all its samplers."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.rows: Any = ffi.NULL
        self.token = ffi.new("llama_token *")


_thread_scratch = _Scratch()


def _scratch(n_tokens: int) -> _Scratch:
    if _thread_scratch.n_tokens < n_tokens:
        _thread_scratch.rows = ffi.new("llama_token_data[]", n_tokens)
        _thread_scratch.n_tokens = n_tokens
    return _thread_scratch


def _check_status(status: int) -> None:
    if status != 0:
        raise SamplerError(f"llama.cpp's sampler failed: {last_error()}")


def _clone(chain: Any) -> Handle:
    copy = lib.treellama_sampler_clone(chain)
    if copy == ffi.NULL:
        raise SamplerError(f"this sampler could not be cloned: {last_error()}")
    return Handle(copy, lib.llama_sampler_free, "sampler", SamplerError)


def _biases(vocab: Vocab, params: SamplingParams) -> dict[int, float]:
    """The caller's biases, and bans for the tokens that the model file says never to write."""
    biases = dict(params.logit_bias)
    unknown = [token for token in biases if token >= vocab.n_tokens]
    if unknown:
        raise SamplerError(
            f"logit_bias names token {unknown[0]}; this vocabulary ends at {vocab.n_tokens - 1}"
        )
    n_suppressed = ffi.new("int32_t *")
    suppressed = lib.llama_vocab_get_suppress_tokens(vocab.pointer, n_suppressed)
    biases.update((suppressed[i], -np.inf) for i in range(n_suppressed[0]))
    return biases


def _new_chain(vocab: Vocab, params: SamplingParams, biases: dict[int, float], seed: int) -> Handle:
    options = lib.llama_sampler_chain_default_params()
    options.no_perf = True
    chain = Handle(
        lib.llama_sampler_chain_init(options), lib.llama_sampler_free, "sampler", SamplerError
    )
    for stage in _stages(vocab, params, biases, seed):
        if stage == ffi.NULL:
            raise SamplerError(f"llama.cpp could not make a sampler: {last_error()}")
        lib.llama_sampler_chain_add(chain.pointer, stage)
    return chain


def _stages(
    vocab: Vocab, params: SamplingParams, biases: dict[int, float], seed: int
) -> Iterator[Any]:
    """The active stages in llama.cpp's order (common/sampling.cpp), the one that chooses last."""
    if biases:
        pairs = ffi.new("llama_logit_bias[]", list(biases.items()))
        yield lib.llama_sampler_init_logit_bias(vocab.n_tokens, len(biases), pairs)
    if params.has_penalties:
        yield lib.llama_sampler_init_penalties(
            vocab.n_tokens,
            params.penalty_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if params.has_dry:
        yield _dry(vocab, params)
    if params.mirostat:
        yield from _mirostat(vocab, params, seed)
    else:
        yield from _truncation(params, seed)
        yield from _choice(params, seed)


def _dry(vocab: Vocab, params: SamplingParams) -> Any:
    if not vocab.has_text:
        raise SamplerError("this model file has no tokenizer, which DRY's sequence breakers need")
    texts = [ffi.new("char[]", text.encode()) for text in params.dry_sequence_breakers]
    return lib.treellama_dry_init(
        vocab.pointer,
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        params.dry_penalty_last_n,
        ffi.new("const char *[]", texts),
        len(texts),
    )


def _mirostat(vocab: Vocab, params: SamplingParams, seed: int) -> Iterator[Any]:
    yield lib.llama_sampler_init_temp(params.temperature)
    yield lib.llama_sampler_init_min_p(_MIN_P_OF_LOGARITHMS, _MIN_KEEP)
    tau, eta = params.mirostat_tau, params.mirostat_eta
    if params.mirostat == 1:
        yield lib.llama_sampler_init_mirostat(vocab.n_tokens, seed, tau, eta, _MIROSTAT_M)
    else:
        yield lib.llama_sampler_init_mirostat_v2(seed, tau, eta)


def _truncation(params: SamplingParams, seed: int) -> Iterator[Any]:
    keeps_argmax = params.temperature == 0.0 and params.typical_p == 1.0 and not params.has_xtc
    if keeps_argmax:
        return
    if params.top_n_sigma > 0.0:
        yield lib.llama_sampler_init_top_n_sigma(params.top_n_sigma)
    if params.top_k > 0:
        yield lib.llama_sampler_init_top_k(params.top_k)
    if params.typical_p < 1.0:
        yield lib.llama_sampler_init_min_p(_MIN_P_OF_LOGARITHMS, _MIN_KEEP)
        yield lib.llama_sampler_init_typical(params.typical_p, _MIN_KEEP)
    if params.top_p < 1.0:
        yield lib.llama_sampler_init_top_p(params.top_p, _MIN_KEEP)
    if params.min_p > 0.0:
        yield lib.llama_sampler_init_min_p(params.min_p, _MIN_KEEP)
    if params.has_xtc:
        yield lib.llama_sampler_init_xtc(
            params.xtc_probability, params.xtc_threshold, _MIN_KEEP, seed
        )


def _choice(params: SamplingParams, seed: int) -> Iterator[Any]:
    if params.temperature == 0.0:
        yield lib.llama_sampler_init_greedy()
        return
    yield lib.llama_sampler_init_temp_ext(
        params.temperature, params.dynatemp_range, params.dynatemp_exponent
    )
    yield lib.llama_sampler_init_dist(seed)
