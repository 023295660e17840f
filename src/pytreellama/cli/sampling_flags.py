"""Options of sampling, as the command line takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pytreellama.cli.option import option
from pytreellama.errors import RequestError
from pytreellama.text_files import read_text

if TYPE_CHECKING:
    from pytreellama.sampling.params import SamplingParams

_TEXT, _SAMPLING, _RARE = "Text", "Sampling", "More sampling options"
_RECOMMENDED = "Default: in chats and the server as the model file recommends, else"


def _flag(*names: str, help: str, default: str, panel: str = _SAMPLING) -> Any:
    """An option whose default depends on what is asked, so that the help says it in words."""
    return option(*names, help=f"{help} {default}", panel=panel, show_default=False)


@dataclass(frozen=True, slots=True)
class UsualSampling:
    """The options that the server takes too, as defaults of its requests; None is not given."""

    temperature: Annotated[
        float | None,
        _flag(
            "--temperature",
            "--temp",
            help="Sampling temperature; 0 for greedy decoding.",
            default=f"{_RECOMMENDED} 0.8; for plain text 0.",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        _flag(
            "--top-k",
            help="Sample from the k most likely tokens; 0 to disable.",
            default=f"{_RECOMMENDED} 40; for plain text 0.",
        ),
    ] = None
    top_p: Annotated[
        float | None,
        _flag(
            "--top-p",
            help="Nucleus sampling: keep the most likely tokens with this total probability; 1 "
            "to disable.",
            default=f"{_RECOMMENDED} 0.95; for plain text 1.",
        ),
    ] = None
    min_p: Annotated[
        float | None,
        _flag(
            "--min-p",
            help="Keep tokens with at least this fraction of the top token's probability; 0 to "
            "disable.",
            default=f"{_RECOMMENDED} 0.05; for plain text 0.",
        ),
    ] = None
    repeat_penalty: Annotated[
        float | None,
        _flag(
            "--repeat-penalty",
            help="Penalty for tokens that occurred recently; 1 to disable.",
            default=f"{_RECOMMENDED} 1.",
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        _flag(
            "--typical-p",
            help="Locally typical sampling; 1 to disable.",
            default="Default: 1.",
            panel=_RARE,
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        _flag(
            "--frequency-penalty",
            help="Penalty per occurrence of a recent token; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        _flag(
            "--presence-penalty",
            help="Penalty for each recent token, once; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    penalty_last_n: Annotated[
        int | None,
        _flag(
            "--penalty-last-n",
            help="Number of recent tokens to which the penalties apply.",
            default=f"{_RECOMMENDED} 64.",
            panel=_RARE,
        ),
    ] = None

    def usual(self) -> dict[str, float]:
        """Those that were given, as fields of ``SamplingParams``."""
        values = {field.name: getattr(self, field.name) for field in fields(UsualSampling)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SamplingFlags(UsualSampling):
    """Fields are named as those of ``SamplingParams``; None is not given."""

    grammar_file: Annotated[
        Path | None,
        option(
            "--grammar-file",
            help="File with a GBNF grammar that constrains the output.",
            panel=_TEXT,
        ),
    ] = None
    json_schema: Annotated[
        str | None,
        option(
            "--json-schema",
            help="JSON schema that constrains the output: a file, or the schema itself.",
            panel=_TEXT,
        ),
    ] = None

    regex: Annotated[
        str | None,
        option("--regex", help="Regular expression that the output must match.", panel=_TEXT),
    ] = None
    lark_file: Annotated[
        Path | None,
        option(
            "--lark-file",
            help="File with a Lark grammar that constrains the output.",
            panel=_TEXT,
        ),
    ] = None

    seed: Annotated[
        int | None,
        option(
            "--seed",
            "-s",
            help="Random seed; the same seed gives the same text. Default: random.",
            panel=_SAMPLING,
        ),
    ] = None

    dynatemp_range: Annotated[
        float | None,
        _flag(
            "--dynatemp-range",
            help="Dynamic temperature: how far the temperature moves with entropy; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    dynatemp_exponent: Annotated[
        float | None,
        _flag(
            "--dynatemp-exponent",
            help="Dynamic temperature: exponent of the entropy.",
            default="Default: 1.",
            panel=_RARE,
        ),
    ] = None
    top_n_sigma: Annotated[
        float | None,
        _flag(
            "--top-n-sigma",
            help="Keep logits within this many standard deviations of the maximum; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    dry_multiplier: Annotated[
        float | None,
        _flag(
            "--dry-multiplier",
            help="Strength of the DRY repetition penalty; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    dry_base: Annotated[
        float | None,
        _flag(
            "--dry-base",
            help="DRY: base of the exponential growth of the penalty.",
            default="Default: 1.75.",
            panel=_RARE,
        ),
    ] = None
    dry_allowed_length: Annotated[
        int | None,
        _flag(
            "--dry-allowed-length",
            help="DRY: longest repetition without a penalty, in tokens.",
            default="Default: 2.",
            panel=_RARE,
        ),
    ] = None
    dry_penalty_last_n: Annotated[
        int | None,
        _flag(
            "--dry-penalty-last-n",
            help="DRY: number of recent tokens to search for repetitions.",
            default="Default: 1024.",
            panel=_RARE,
        ),
    ] = None
    dry_sequence_breaker: Annotated[
        list[str] | None,
        option(
            "--dry-sequence-breaker",
            help="DRY: string that ends a repetition. May be repeated.",
            panel=_RARE,
        ),
    ] = None
    xtc_probability: Annotated[
        float | None,
        _flag(
            "--xtc-probability",
            help="XTC: probability of removing the top choices; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        _flag(
            "--xtc-threshold",
            help="XTC: minimum probability of a top choice.",
            default="Default: 0.1.",
            panel=_RARE,
        ),
    ] = None
    mirostat: Annotated[
        int | None,
        _flag(
            "--mirostat",
            help="Mirostat version, 1 or 2; 0 to disable.",
            default="Default: 0.",
            panel=_RARE,
        ),
    ] = None
    mirostat_tau: Annotated[
        float | None,
        _flag(
            "--mirostat-tau",
            help="Mirostat: target entropy (tau), in bits.",
            default="Default: 5.",
            panel=_RARE,
        ),
    ] = None
    mirostat_eta: Annotated[
        float | None,
        _flag(
            "--mirostat-eta",
            help="Mirostat: learning rate (eta).",
            default="Default: 0.1.",
            panel=_RARE,
        ),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        option(
            "--logit-bias",
            help="ID=BIAS: value to add to the logit of a token; -inf bans the token. May be "
            "repeated.",
            panel=_RARE,
        ),
    ] = None

    def _given(self) -> dict[str, Any]:
        """Fields of ``SamplingParams`` that were given, and a seed."""
        import secrets

        from pytreellama.sampling.params import MAX_SEED, SamplingParams

        known = SamplingParams.__dataclass_fields__
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in known}
        values["logit_bias"] = dict(map(_bias, self.logit_bias or []))
        values["json_schema"] = self._schema()
        if self.dry_sequence_breaker:
            values["dry_sequence_breakers"] = tuple(self.dry_sequence_breaker)
        if self.grammar_file is not None:
            values["grammar"] = read_text(self.grammar_file, "--grammar-file")
        if self.lark_file is not None:
            values["lark"] = read_text(self.lark_file, "--lark-file")
        if self.seed is None:
            values["seed"] = secrets.randbelow(MAX_SEED + 1)
        return {name: value for name, value in values.items() if value is not None}

    def sampling(
        self, metadata: Mapping[str, str] | None = None, *, is_chat: bool = False
    ) -> SamplingParams:
        """All sampling parameters of a request, with a seed drawn if none was given.

        The seed is drawn here, so that two runs that are compared share it.

        Args:
            metadata: of the model's file, which may recommend some for chats.
            is_chat: the prompt is chat messages.

        Raises:
            SamplerError, RequestError: a value out of range, or a file that cannot be read.
        """
        from pytreellama.sampling.defaults import sampling_defaults
        from pytreellama.sampling.params import SamplingParams

        given = self._given()
        return SamplingParams(**(sampling_defaults(metadata or {}, given) if is_chat else given))

    def _schema(self) -> str | None:
        schema = self.json_schema
        if schema is None or schema.lstrip().startswith("{"):
            return schema
        return read_text(Path(schema), "--json-schema")


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise RequestError(
            f"--logit-bias {text} is not of the form ID=BIAS; write for example 13=-inf or 42=1.5"
        ) from None
