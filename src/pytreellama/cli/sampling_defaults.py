"""Options of sampling defaults, for chats and the server."""

from __future__ import annotations

from typing import Annotated

from pytreellama.cli.option import option

_SAMPLING = "Sampling defaults"
_DEFAULT = "Default: as the model file recommends, else "

Temperature = Annotated[
    float | None,
    option(
        "--temp",
        "--temperature",
        help=f"Temperature of requests that give none; 0 for greedy decoding. {_DEFAULT}0.8.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
TopK = Annotated[
    int | None,
    option(
        "--top-k",
        help=f"Sample from the k most likely tokens; 0 to disable. {_DEFAULT}40.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
TopP = Annotated[
    float | None,
    option(
        "--top-p",
        help="Keep the most likely tokens with this total probability; 1 to disable. "
        f"{_DEFAULT}0.95.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
MinP = Annotated[
    float | None,
    option(
        "--min-p",
        help="Keep tokens with at least this fraction of the top token's probability; 0 to "
        f"disable. {_DEFAULT}0.05.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
TypicalP = Annotated[
    float | None,
    option(
        "--typical-p",
        help="Locally typical sampling; 1 to disable. Default: 1.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
RepeatPenalty = Annotated[
    float | None,
    option(
        "--repeat-penalty",
        help=f"Penalty for tokens that occurred recently; 1 to disable. {_DEFAULT}1.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
FrequencyPenalty = Annotated[
    float | None,
    option(
        "--frequency-penalty",
        help="Penalty per occurrence of a recent token; 0 to disable. Default: 0.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
PresencePenalty = Annotated[
    float | None,
    option(
        "--presence-penalty",
        help="Penalty for each recent token, once; 0 to disable. Default: 0.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
PenaltyLastN = Annotated[
    int | None,
    option(
        "--penalty-last-n",
        help=f"Number of recent tokens to which the penalties apply. {_DEFAULT}64.",
        panel=_SAMPLING,
        show_default=False,
    ),
]
