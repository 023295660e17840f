"""Options of sampling, as the command line takes them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pytreellama.cli.option import option
from pytreellama.errors import RequestError
from pytreellama.text_files import read_text

if TYPE_CHECKING:
    from pytreellama.sampling.params import SamplingParams

_TEXT, _SAMPLING, _RARE = "Text", "Sampling", "More sampling options"


@dataclass(frozen=True, slots=True)
class SamplingFlags:
    """Fields are named as those of ``SamplingParams`` and have the same defaults."""

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

    temperature: Annotated[
        float,
        option(
            "--temperature",
            "--temp",
            help="Sampling temperature; 0 for greedy decoding.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    top_k: Annotated[
        int,
        option(
            "--top-k", help="Sample from the k most likely tokens; 0 to disable.", panel=_SAMPLING
        ),
    ] = 0
    top_p: Annotated[
        float,
        option(
            "--top-p",
            help="Nucleus sampling: keep the most likely tokens with this total probability; 1 "
            "to disable.",
            panel=_SAMPLING,
        ),
    ] = 1.0
    min_p: Annotated[
        float,
        option(
            "--min-p",
            help="Keep tokens with at least this fraction of the top token's probability; 0 to "
            "disable.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    repeat_penalty: Annotated[
        float,
        option(
            "--repeat-penalty",
            help="Penalty for tokens that occurred recently; 1 to disable.",
            panel=_SAMPLING,
        ),
    ] = 1.0
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
        float,
        option(
            "--dynatemp-range",
            help="Dynamic temperature: how far the temperature moves with entropy; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    dynatemp_exponent: Annotated[
        float,
        option(
            "--dynatemp-exponent", help="Dynamic temperature: exponent of the entropy.", panel=_RARE
        ),
    ] = 1.0
    typical_p: Annotated[
        float, option("--typical-p", help="Locally typical sampling; 1 to disable.", panel=_RARE)
    ] = 1.0
    top_n_sigma: Annotated[
        float,
        option(
            "--top-n-sigma",
            help="Keep logits within this many standard deviations of the maximum; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        option(
            "--frequency-penalty",
            help="Penalty per occurrence of a recent token; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    presence_penalty: Annotated[
        float,
        option(
            "--presence-penalty",
            help="Penalty for each recent token, once; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    penalty_last_n: Annotated[
        int,
        option(
            "--penalty-last-n",
            help="Number of recent tokens to which the penalties apply.",
            panel=_RARE,
        ),
    ] = 64
    dry_multiplier: Annotated[
        float,
        option(
            "--dry-multiplier",
            help="Strength of the DRY repetition penalty; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    dry_base: Annotated[
        float,
        option(
            "--dry-base", help="DRY: base of the exponential growth of the penalty.", panel=_RARE
        ),
    ] = 1.75
    dry_allowed_length: Annotated[
        int,
        option(
            "--dry-allowed-length",
            help="DRY: longest repetition without a penalty, in tokens.",
            panel=_RARE,
        ),
    ] = 2
    dry_penalty_last_n: Annotated[
        int,
        option(
            "--dry-penalty-last-n",
            help="DRY: number of recent tokens to search for repetitions.",
            panel=_RARE,
        ),
    ] = 1024
    dry_sequence_breaker: Annotated[
        list[str] | None,
        option(
            "--dry-sequence-breaker",
            help="DRY: string that ends a repetition. May be repeated.",
            panel=_RARE,
        ),
    ] = None
    xtc_probability: Annotated[
        float,
        option(
            "--xtc-probability",
            help="XTC: probability of removing the top choices; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    xtc_threshold: Annotated[
        float,
        option("--xtc-threshold", help="XTC: minimum probability of a top choice.", panel=_RARE),
    ] = 0.1
    mirostat: Annotated[
        int, option("--mirostat", help="Mirostat version, 1 or 2; 0 to disable.", panel=_RARE)
    ] = 0
    mirostat_tau: Annotated[
        float,
        option("--mirostat-tau", help="Mirostat: target entropy (tau), in bits.", panel=_RARE),
    ] = 5.0
    mirostat_eta: Annotated[
        float, option("--mirostat-eta", help="Mirostat: learning rate (eta).", panel=_RARE)
    ] = 0.1
    logit_bias: Annotated[
        list[str] | None,
        option(
            "--logit-bias",
            help="ID=BIAS: value to add to the logit of a token; -inf bans the token. May be "
            "repeated.",
            panel=_RARE,
        ),
    ] = None

    def sampling(self) -> SamplingParams:
        """The sampling options, checked; with a seed drawn if none was given.

        The seed is drawn here, so that two runs that are compared share it.

        Raises:
            SamplerError, RequestError: a value out of range, or a file that cannot be read.
        """
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
        if self.seed is None:
            values["seed"] = secrets.randbelow(MAX_SEED + 1)
        return SamplingParams(**values)

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
