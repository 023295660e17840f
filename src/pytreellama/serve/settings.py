"""Settings: what a server allows, and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytreellama.sampling.defaults import USUAL_SAMPLING

LEAVING_S = 5.0
"""Seconds in which an answer that is ended must have left."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits of a server.

    Attributes:
        model_name: what clients call the model.
        aliases: other names of it.
        is_any_model: any other name means this model too.
        is_strict: unknown fields of requests are refused, not ignored.
        sampling: values of sampling fields that a request does not give.
        max_tokens: most tokens of one answer; None is what the context holds.
        n_choices_max: most answers (``n`` times prompts) of one request.
        n_continuations_max: most continuations of one scoring request, or texts to embed.
        max_body_bytes: of a request.
        request_s: seconds after which an answer ends where it stands, with finish_reason "length".
        event_s: least seconds between two events of a stream; what comes sooner comes together.
        shutdown_s: seconds that answers have to finish when the server is told to stop.
        api_keys: any of them is accepted; empty asks for none.
        cors_origins: web pages of these origins may use the server; "*" is all.
        allowed_hosts: names that a request may call this server by; empty is any.
        prefix_cache_file: the prefix cache is loaded from here, and saved at the end.
    """

    model_name: str
    aliases: tuple[str, ...] = ()
    is_any_model: bool = False
    is_strict: bool = False
    sampling: Mapping[str, float] = field(default_factory=lambda: dict(USUAL_SAMPLING))
    max_tokens: int | None = None
    n_choices_max: int = 16
    n_continuations_max: int = 2048
    max_body_bytes: int = 4 << 20
    request_s: float = 600.0
    event_s: float = 1 / 30
    shutdown_s: float = 30.0
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    prefix_cache_file: str | None = None
