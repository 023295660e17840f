"""The native stages that choose a token as ``SamplingParams`` ask for."""

from __future__ import annotations

from pytreellama.errors import SamplerError
from pytreellama.model.vocab import Vocab
from pytreellama.native.draws import RowSampler, Stages
from pytreellama.native.sampling import SamplerChain
from pytreellama.sampling.params import SamplingParams

# llama.cpp's typical-p and Mirostat take logarithms of probabilities: one that underflows to 0
# makes the entropy NaN and the choice arbitrary. Nothing this unlikely is ever drawn.
_MIN_P_OF_LOGARITHMS = 1e-30
_MIROSTAT_M = 100  # tokens from which Mirostat 1 estimates the slope, as in llama.cpp
_MIN_KEEP = 1


def new_stages(
    vocab: Vocab, params: SamplingParams, biases: dict[int, float], seed: int
) -> RowSampler | SamplerChain:
    """The usual stages in a few passes over the row, or llama.cpp's chain where there are others.

    Raises:
        SamplerError: DRY is asked for, and the model file has no tokenizer.
    """
    if params.has_usual_stages:
        return new_row_sampler(vocab, params, biases, seed)
    return new_chain(vocab, params, biases, seed)


def new_row_sampler(
    vocab: Vocab, params: SamplingParams, biases: dict[int, float], seed: int
) -> RowSampler:
    """What ``new_chain`` does with the same arguments, sooner; ``params.has_usual_stages``."""
    stages = Stages(
        penalty_last_n=params.penalty_last_n if params.has_penalties else 0,
        penalty_repeat=params.repeat_penalty,
        penalty_freq=params.frequency_penalty,
        penalty_present=params.presence_penalty,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        temperature=params.temperature,
    )
    return RowSampler(vocab.n_tokens, stages, biases, seed)


def new_distribution_chain(
    vocab: Vocab, params: SamplingParams, biases: dict[int, float], seed: int
) -> SamplerChain:
    """``new_chain``, of which a distribution can be asked that depends on the text alone.

    Raises:
        SamplerError: Mirostat or XTC, whose distributions depend on what they draw.
    """
    if params.mirostat or params.has_xtc:
        name = "mirostat" if params.mirostat else "xtc_probability"
        raise SamplerError(
            f"{name} has no distribution for a verification rule; leave it out, or make the "
            "engine with verify='match', which takes every sampler"
        )
    return new_chain(vocab, params, biases, seed)


def new_chain(
    vocab: Vocab, params: SamplingParams, biases: dict[int, float], seed: int
) -> SamplerChain:
    """The active stages in llama.cpp's order (common/sampling.cpp), the one that chooses last."""
    chain = SamplerChain(vocab.n_tokens)
    if biases:
        chain.add_logit_bias(biases)
    if params.has_penalties:
        chain.add_penalties(
            params.penalty_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if params.has_dry:
        _add_dry(chain, vocab, params)
    if params.mirostat:
        _add_mirostat(chain, params, seed)
    else:
        _add_truncation(chain, params, seed)
        _add_choice(chain, params, seed)
    return chain


def _add_dry(chain: SamplerChain, vocab: Vocab, params: SamplingParams) -> None:
    if not vocab.has_text:
        raise SamplerError("this model file has no tokenizer, which DRY's sequence breakers need")
    chain.add_dry(
        vocab.owner,
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        params.dry_penalty_last_n,
        params.dry_sequence_breakers,
    )


def _add_mirostat(chain: SamplerChain, params: SamplingParams, seed: int) -> None:
    chain.add_temp(params.temperature)
    chain.add_min_p(_MIN_P_OF_LOGARITHMS, _MIN_KEEP)
    if params.mirostat == 1:
        chain.add_mirostat(seed, params.mirostat_tau, params.mirostat_eta, _MIROSTAT_M)
    else:
        chain.add_mirostat_v2(seed, params.mirostat_tau, params.mirostat_eta)


def _add_truncation(chain: SamplerChain, params: SamplingParams, seed: int) -> None:
    keeps_argmax = params.temperature == 0.0 and params.typical_p == 1.0 and not params.has_xtc
    if keeps_argmax:
        return
    if params.top_n_sigma > 0.0:
        chain.add_top_n_sigma(params.top_n_sigma)
    if params.top_k > 0:
        chain.add_top_k(params.top_k)
    if params.typical_p < 1.0:
        chain.add_min_p(_MIN_P_OF_LOGARITHMS, _MIN_KEEP)
        chain.add_typical(params.typical_p, _MIN_KEEP)
    if params.top_p < 1.0:
        chain.add_top_p(params.top_p, _MIN_KEEP)
    if params.min_p > 0.0:
        chain.add_min_p(params.min_p, _MIN_KEEP)
    if params.has_xtc:
        chain.add_xtc(params.xtc_probability, params.xtc_threshold, _MIN_KEEP, seed)


def _add_choice(chain: SamplerChain, params: SamplingParams, seed: int) -> None:
    if params.temperature == 0.0:
        chain.add_greedy()
        return
    chain.add_temp_ext(params.temperature, params.dynatemp_range, params.dynatemp_exponent)
    chain.add_dist(seed)
