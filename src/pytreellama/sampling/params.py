"""SamplingParams: sampling options, validated before they reach native code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pytreellama.errors import SamplerError, shown
from pytreellama.known_names import suggests_names

MAX_SEED = 2**32 - 2
"""llama.cpp reads 2**32 - 1 as "draw one yourself"; pytreellama draws, and reports, its own."""

MIN_TEMPERATURE = 1e-6
"""Below this, logits divided by the temperature leave float32."""

DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")

_MAX_HISTORY = 2**20
_MAX_BREAKER_BYTES = 40
_MAX_BREAKERS = 32  # each is looked for in every token of the vocabulary, for every request
_MAX_BIAS = 1e6


def shifted_seed(seed: int, i: int) -> int:
    """The seed of the i-th of several draws that were asked for with one seed."""
    return (seed + i) % (MAX_SEED + 1)


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    integer: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise SamplerError unless ``value`` is a number of the right kind within the range."""
        is_float = isinstance(value, float) and not self.integer
        if not (isinstance(value, int) or is_float) or isinstance(value, bool):
            kind = "an integer" if self.integer else "a number"
            raise SamplerError(f"invalid {name}={shown(value)}: expected {kind}")
        if not self.low <= value <= self.high:  # NaN fails both comparisons
            raise SamplerError(
                f"invalid {name}={shown(value)}: expected {self.low:g} to {self.high:g}"
            )


_RANGES = {
    "temperature": _Range(0.0, 1e6),
    "dynatemp_range": _Range(0.0, 1e6),
    "dynatemp_exponent": _Range(0.0, 100.0),
    "top_k": _Range(0, 2**31 - 1, integer=True),
    "top_p": _Range(0.0, 1.0),
    "min_p": _Range(0.0, 1.0),
    "typical_p": _Range(0.0, 1.0),
    "top_n_sigma": _Range(0.0, 1e6),
    "repeat_penalty": _Range(1e-3, 1e3),
    "frequency_penalty": _Range(-100.0, 100.0),
    "presence_penalty": _Range(-100.0, 100.0),
    "penalty_last_n": _Range(0, _MAX_HISTORY, integer=True),
    "dry_multiplier": _Range(0.0, 1e6),
    "dry_base": _Range(1.0, 1e3),
    "dry_allowed_length": _Range(1, _MAX_HISTORY, integer=True),
    "dry_penalty_last_n": _Range(0, _MAX_HISTORY, integer=True),
    "xtc_probability": _Range(0.0, 1.0),
    "xtc_threshold": _Range(0.0, 0.5),
    "mirostat": _Range(0, 2, integer=True),
    "mirostat_tau": _Range(1e-3, 100.0),
    "mirostat_eta": _Range(1e-6, 10.0),
}


CONSTRAINTS = ("grammar", "json_schema", "regex", "lark")
"""Fields that constrain the text, of which one may be given."""

TRUNCATION: Mapping[str, float] = MappingProxyType(
    {
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "top_n_sigma": 0.0,
        "xtc_probability": 0.0,
        "dynatemp_range": 0.0,
    }
)
"""What Mirostat replaces, with the values that do nothing."""


@suggests_names(SamplerError, {"temp": "did you mean 'temperature'?"})
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Options for sampling the next token from a row of logits.

    Every default is neutral, and all defaults together are greedy decoding. ``temperature=1.0``
    alone samples from the model's own distribution; nothing is truncated unless ``top_k``,
    ``top_p``... are set (llama.cpp's tools default to top_k 40, top_p 0.95, min_p 0.05).

    Stages run in llama.cpp's order: logit bias, penalties, DRY, top-n-sigma, top-k, typical,
    top-p, min-p, XTC, temperature, sampling. Mirostat truncates and samples after the temperature.

    Example:
        params = SamplingParams(temperature=0.8, top_p=0.95, seed=1)
        sampler = Sampler(model.vocab, params)
        engine.generate("Once upon a time", temperature=0.8, top_p=0.95, seed=1)   # the same

    Args:
        temperature: 0.0 for the most likely token that the other stages leave.
        dynatemp_range: the temperature moves by up to this much either way with the entropy of
            the row; less than ``temperature``. 0.0 to disable.
        dynatemp_exponent: exponent of that movement.
        top_k: keep the k most likely tokens; 0 to disable.
        top_p: keep the smallest set of tokens with at least this probability; 1.0 to disable.
            (Holtzman et al. 2019, arXiv:1904.09751)
        min_p: keep tokens with at least this fraction of the top token's probability; 0.0 to
            disable.
        typical_p: keep this probability mass of tokens nearest to the row's entropy; 1.0 to
            disable.
            (Meister et al. 2022, arXiv:2202.00666)
        top_n_sigma: keep logits within n standard deviations of the maximum; 0.0 to disable.
            (Tang et al. 2024, arXiv:2411.07641)
        repeat_penalty: logits of recent tokens are divided by it if positive, else multiplied;
            1.0 to disable. (Keskar et al. 2019, arXiv:1909.05858)
        frequency_penalty: subtracted once for every recent occurrence.
        presence_penalty: subtracted once from every token that occurred recently.
        penalty_last_n: how many tokens, prompt included, count as recent for the three penalties.
        dry_multiplier: strength of DRY, which penalises tokens that would lengthen a repetition;
            0.0 to disable. (oobabooga/text-generation-webui pull request 5677)
        dry_base: the penalty is multiplier * base ** (length - allowed_length).
        dry_allowed_length: repetitions up to this many tokens are free.
        dry_penalty_last_n: how many tokens DRY looks back.
        dry_sequence_breakers: texts across which no repetition is counted.
        xtc_probability: chance, at each token, of leaving out all but the least likely of the
            tokens above the threshold; 0.0 to disable.
            (oobabooga/text-generation-webui pull request 6335)
        xtc_threshold: minimum probability of a likely token.
        mirostat: version 1 or 2 of Mirostat; 0 to disable. (Basu et al. 2020,
            arXiv:2007.14966)
        mirostat_tau: target entropy, in bits.
        mirostat_eta: learning rate.
        logit_bias: token id to the value that is added to its logit; ``-math.inf`` bans the token.
        grammar: GBNF text with a rule ``root`` that the generated text must follow.
        json_schema: JSON schema (mapping or JSON text) that the generated text must satisfy.
        regex: regular expression that the whole generated text must match.
        lark: Lark grammar with a rule ``start`` that the generated text must follow.
        seed: from 0 to 2**32 - 2; None for a random one, which ``Sampler.seed`` reports.

    Raises:
        SamplerError: a value out of range, or two that exclude each other.
    """

    temperature: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 1024
    dry_sequence_breakers: tuple[str, ...] = DRY_SEQUENCE_BREAKERS
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    grammar: str | None = None
    json_schema: Mapping[str, Any] | str | None = field(default=None, hash=False)
    regex: str | None = None
    lark: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            allowed.check(name, getattr(self, name))
        if self.seed is not None:
            _Range(0, MAX_SEED, integer=True).check("seed", self.seed)
        self._check_temperature()
        self._check_mirostat()
        self._check_constraints()
        object.__setattr__(self, "dry_sequence_breakers", _checked_breakers(self))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))

    @property
    def has_penalties(self) -> bool:
        """True if the repeat, frequency or presence penalty is active."""
        strengths = (self.repeat_penalty, self.frequency_penalty, self.presence_penalty)
        return self.penalty_last_n > 0 and strengths != (1.0, 0.0, 0.0)

    @property
    def has_dry(self) -> bool:
        """True if DRY is active."""
        return self.dry_multiplier > 0.0 and self.dry_penalty_last_n > 0

    @property
    def has_xtc(self) -> bool:
        """True if XTC is active."""
        return self.xtc_probability > 0.0

    @property
    def is_constrained(self) -> bool:
        """True if a grammar, JSON schema or regular expression constrains the text."""
        return any(getattr(self, name) is not None for name in CONSTRAINTS)

    @property
    def is_greedy(self) -> bool:
        """True if every choice is the argmax of the plain logits.

        ``top_k``, ``top_p``, ``min_p`` and ``top_n_sigma`` never cut off the likeliest token, so
        at temperature 0 they do not matter; typical-p and XTC may.
        """
        return self.temperature == 0.0 and not (
            self.has_penalties
            or self.has_dry
            or self.has_xtc
            or self.typical_p < 1.0
            or self.logit_bias
            or self.is_constrained
        )

    @property
    def has_usual_stages(self) -> bool:
        """True if only logit bias, penalties, top-k, top-p, min-p and temperature are active."""
        return not (
            self.has_dry
            or self.has_xtc
            or self.mirostat
            or self.typical_p < 1.0
            or self.top_n_sigma > 0.0
            or self.dynatemp_range > 0.0
        )

    @property
    def n_history(self) -> int:
        """Number of recent tokens, prompt included, on which sampling depends."""
        penalties = self.penalty_last_n if self.has_penalties else 0
        return max(penalties, self.dry_penalty_last_n if self.has_dry else 0)

    def _check_temperature(self) -> None:
        if 0.0 < self.temperature < MIN_TEMPERATURE:
            raise SamplerError(
                f"invalid temperature={self.temperature!r}: expected 0 (greedy), or at least "
                f"{MIN_TEMPERATURE:g}"
            )
        lowest = self.temperature - self.dynatemp_range
        if self.dynatemp_range > 0.0 and lowest < MIN_TEMPERATURE:
            raise SamplerError(
                f"invalid dynatemp_range={self.dynatemp_range!r}: expected less than "
                f"temperature={self.temperature!r}"
            )

    def _check_mirostat(self) -> None:
        if self.mirostat == 0:
            return
        if self.temperature == 0.0:
            raise SamplerError(
                "invalid temperature=0 with mirostat, which samples: set a temperature such as 1.0"
            )
        clashing = [name for name, value in TRUNCATION.items() if getattr(self, name) != value]
        if clashing:
            raise SamplerError(
                f"mirostat replaces other truncation samplers: leave out {', '.join(clashing)}"
            )

    def _check_constraints(self) -> None:
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise SamplerError(f"give either {given[0]} or {given[1]}, not both")
        for name, form in (("grammar", "GBNF text"), ("regex", "text"), ("lark", "text")):
            value = getattr(self, name)
            if not isinstance(value, (str, type(None))):
                raise SamplerError(f"invalid {name}={shown(value)}: expected {form}")
        if not isinstance(self.json_schema, (str, Mapping, type(None))):
            raise SamplerError(
                f"invalid json_schema={shown(self.json_schema)}: expected a mapping or JSON text"
            )


def _checked_breakers(params: SamplingParams) -> tuple[str, ...]:
    breakers = params.dry_sequence_breakers
    if not isinstance(breakers, (tuple, list, set, frozenset)):
        raise SamplerError(
            f"invalid dry_sequence_breakers={shown(breakers)}: expected a tuple of strings"
        )
    if len(breakers) > _MAX_BREAKERS:
        raise SamplerError(
            f"invalid dry_sequence_breakers: expected at most {_MAX_BREAKERS} strings, not "
            f"{len(breakers)}"
        )
    for text in breakers:
        if not isinstance(text, str):
            raise SamplerError(
                f"invalid dry_sequence_breakers item {shown(text)}: expected a string"
            )
        n_bytes = len(text.encode("utf-8", "replace"))
        if not 0 < n_bytes <= _MAX_BREAKER_BYTES or "\0" in text or not _is_unicode(text):
            raise SamplerError(
                f"invalid dry_sequence_breakers item {shown(text)}: expected 1 to "
                f"{_MAX_BREAKER_BYTES} bytes of UTF-8 without NUL"
            )
    return tuple(breakers)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _checked_bias(logit_bias: Mapping[int, float]) -> dict[int, float]:
    if not isinstance(logit_bias, Mapping):
        raise SamplerError(
            f"invalid logit_bias={shown(logit_bias)}: expected a mapping of token ids to numbers"
        )
    for token, bias in logit_bias.items():
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 2**31:
            raise SamplerError(f"invalid logit_bias key {shown(token)}: expected a token id")
        if bias != -math.inf:
            _Range(-_MAX_BIAS, _MAX_BIAS).check(f"logit_bias[{shown(token)}]", bias)
    return {token: float(bias) for token, bias in logit_bias.items() if bias != 0}
