"""Sampler: samples the next token from a row of logits, with the state that this needs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.constraints.constraint import Constraint
from pytreellama.constraints.grammar import Grammar
from pytreellama.constraints.patterns import Lark, Regex
from pytreellama.constraints.schema import JsonSchemaConstraint
from pytreellama.errors import GrammarError, SamplerError
from pytreellama.model.vocab import Vocab
from pytreellama.native.logits import float_row
from pytreellama.native.sampling import SamplerChain, argmax_token
from pytreellama.native.vocab import suppressed_tokens
from pytreellama.sampling.params import MAX_SEED, SamplingParams
from pytreellama.sampling.stages import new_distribution_chain, new_stages

_ROUNDING = 1e-12


class LogitsSource(Protocol):
    """Anything that holds rows of logits, such as ``Context.outputs``."""

    def logits_pointer(self, row: int) -> Any:
        """cdata ``float *`` to the n_tokens logits of one row."""
        ...


class Sampler(Closing):
    """Samples tokens as ``SamplingParams`` say. One sampler follows one text.

    A sampler belongs to one thread at a time. The same seed, parameters and logits give the same
    tokens. Grammars and schemas work as in llama.cpp: a token is sampled without the constraint,
    and only if it is invalid are all tokens masked and sampled again.

    Example:
        with Sampler(model.vocab, SamplingParams(temperature=0.8, seed=1)) as sampler:
            sampler.accept_prompt(prompt)
            token = sampler.sample(context.outputs, 0)

    Args:
        vocab: the vocabulary of the model that computes the logits.
        params: sampling options; None for greedy decoding.
        constraint: constrains the text, instead of a grammar or schema of ``params``.
        gives_distributions: for ``distribution``, at some speed.

    Attributes:
        seed: the seed in use.

    Raises:
        SamplerError: ``logit_bias`` has a token that is not in the vocabulary.
        GrammarError: an invalid grammar or schema.
    """

    def __init__(
        self,
        vocab: Vocab,
        params: SamplingParams | None = None,
        constraint: Constraint | None = None,
        *,
        gives_distributions: bool = False,
    ) -> None:
        self.vocab = vocab
        self._model = vocab.owner.share()  # a sampler may outlive it
        self.params = params if params is not None else SamplingParams()
        seed = self.params.seed
        self.seed = seed if seed is not None else secrets.randbelow(MAX_SEED + 1)
        """The seed in use: the one asked for, or the one drawn."""
        biases = _biases(vocab, self.params)
        self.is_argmax = self.params.is_greedy and not biases and constraint is None
        """Is every choice the argmax of the plain row? (Some models name tokens never to write.)"""
        self._constraint = constraint or _new_constraint(vocab, self.params)
        new = new_distribution_chain if gives_distributions else new_stages
        self._chain = new(vocab, self.params, biases, self.seed)

    def sample(self, outputs: LogitsSource, row: int) -> int:
        """Sample a token from a row of the last decode, and accept it.

        Args:
            outputs: the source of the logits: ``Context.outputs``.
            row: index among the outputs of the last decode.

        Returns:
            The token id.

        Raises:
            SamplerError: the sampler is closed, or no token is left to choose.
            GrammarError: no token can continue the text under the grammar or schema.
        """
        return self._choose(outputs.logits_pointer(row))

    def sample_row(self, logits: NDArray[np.float32]) -> int:
        """Sample a token from float32 logits of shape (n_tokens,), otherwise as ``sample``."""
        row = np.ascontiguousarray(logits, dtype=np.float32)
        if row.shape != (self.vocab.n_tokens,):
            raise SamplerError(
                f"a row of logits must have the shape ({self.vocab.n_tokens},), not {row.shape}"
            )
        return self._choose(float_row(row))

    @property
    def has_state(self) -> bool:
        """True if what is drawn depends on what was accepted."""
        return self._constraint is not None or self.params.n_history > 0

    def distribution(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """The distribution from which ``sample_row`` would draw; nothing is drawn or accepted.

        Args:
            logits: float32, shape (n_tokens,).

        Returns:
            float64, shape (n_tokens,), which sums to 1.

        Raises:
            SamplerError, GrammarError: as ``sample``.
        """
        assert isinstance(self._chain, SamplerChain), "made without gives_distributions"
        row = float_row(np.ascontiguousarray(logits, dtype=np.float32))
        greedy = self.params.temperature == 0.0
        p = self._possible(self._chain.distribution(row, greedy=greedy))
        if self._constraint is None:
            return p
        mask = self._constraint.mask()
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little", count=len(p))
        allowed = p * bits
        rest = 1.0 - float(allowed.sum())
        if rest <= _ROUNDING:
            return np.asarray(allowed / allowed.sum())
        # what is drawn first is not allowed: all tokens are masked, and one is drawn again
        masked = self._possible(self._chain.distribution(row, mask, greedy=greedy))
        return np.asarray(allowed + rest * masked)

    def _possible(self, p: NDArray[np.float64] | None) -> NDArray[np.float64]:
        if p is None:
            self._drawn(None)
        assert p is not None
        return p

    def accept(self, token: int) -> None:
        """Append ``token`` to the text, as if it had been sampled.

        Raises:
            SamplerError: not a token of the vocabulary.
            GrammarError: the grammar or schema does not allow it; the state is unchanged.
        """
        self._chain.require_open()
        token = int(self._checked([token])[0])
        if self._constraint is not None:
            self._constraint.accept(token)
        self._chain.accept(token)

    def accept_prompt(self, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Give the prompt to the penalties and DRY; grammars do not see it.

        Args:
            tokens: token ids of the prompt; only the last ``params.n_history`` matter.
        """
        self._chain.require_open()
        n_history = self.params.n_history
        if n_history == 0 or len(tokens) == 0:
            return
        self._chain.accept_all(self._checked(tokens[-n_history:]))

    def reset(self) -> None:
        """Reset to the initial state, with the same seed."""
        self._chain.reset()
        if self._constraint is not None:
            self._constraint.reset()

    def clone(self) -> Sampler:
        """Return an independent sampler in the same state, which would sample the same tokens."""
        chain = self._chain.clone()
        other: Sampler = object.__new__(type(self))
        other.vocab, other.params, other.seed = self.vocab, self.params, self.seed
        other._model = self._model.share()
        other.is_argmax, other._chain = self.is_argmax, chain
        other._constraint = self._constraint and self._constraint.clone()
        return other

    def close(self) -> None:
        """Free the native samplers; a second call does nothing."""
        self._chain.close()
        self._model.close()

    @property
    def closed(self) -> bool:
        return self._chain.closed

    def _choose(self, row: Any) -> int:
        self._chain.require_open()
        if self.is_argmax:
            return self._argmax(row)
        token = self._drawn(self._chain.draw(row))
        if self._constraint is not None:
            if not self._constraint.allows(token):
                token = self._drawn(self._chain.draw(row, self._constraint.mask()))
            self._constraint.accept(token)
        self._chain.accept(token)
        return token

    def _argmax(self, row: Any) -> int:
        token = argmax_token(row, self.vocab.n_tokens)
        if token is None:
            raise SamplerError(
                "no token to choose from: every logit of the row is NaN or -infinity"
            )
        return token

    def _drawn(self, token: int | None) -> int:
        if token is not None:
            return token
        if self._constraint is not None:
            raise GrammarError(
                f"no token can continue the text under the {self._constraint.what}: the ones it "
                "allows are banned by logit_bias, impossible for the model, or not in the "
                "vocabulary"
            )
        raise SamplerError("no token to choose from: all are banned or have a logit of -infinity")

    def _checked(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
        wide = np.asarray(tokens, dtype=np.int64)
        wrong = (wide < 0) | (wide >= self.vocab.n_tokens)
        if wrong.any():
            raise SamplerError(
                f"token {int(wide[wrong][0])} is not in the vocabulary; "
                f"ids are from 0 to {self.vocab.n_tokens - 1}"
            )
        return np.ascontiguousarray(wide, dtype=np.int32)


def _new_constraint(vocab: Vocab, params: SamplingParams) -> Constraint | None:
    if params.grammar is not None:
        return Grammar(vocab, params.grammar)
    if params.json_schema is not None:
        return JsonSchemaConstraint(vocab, params.json_schema)
    if params.regex is not None:
        return Regex(vocab, params.regex)
    return None if params.lark is None else Lark(vocab, params.lark)


def _biases(vocab: Vocab, params: SamplingParams) -> dict[int, float]:
    """The caller's biases, and bans for the tokens that the model file says never to write."""
    biases = dict(params.logit_bias)
    unknown = [token for token in biases if token >= vocab.n_tokens]
    if unknown:
        raise SamplerError(
            f"logit_bias names token {unknown[0]}; this vocabulary ends at {vocab.n_tokens - 1}"
        )
    biases.update((token, -np.inf) for token in suppressed_tokens(vocab.owner))
    return biases
