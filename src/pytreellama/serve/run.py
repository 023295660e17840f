"""Running the app under uvicorn until it is told to stop."""

from __future__ import annotations

import asyncio
import copy
import faulthandler
import logging
import math
import os
import signal
import socket
from types import FrameType
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI

from pytreellama.errors import ServeError
from pytreellama.serve.settings import LEAVING_S

_log = logging.getLogger(__name__)

ENDING_S = LEAVING_S + 30.0
"""Seconds behind those of answers in which the engine must close and caches must be written."""
_HEADER_BYTES = 1 << 16  # of a request line with all its headers


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any that is free.

    Raises:
        ServeError: the address is unknown, or in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ServeError(
            f"the server cannot listen on {host}, port {port}: {error.strerror or error}; choose "
            "another --host or --port"
        ) from error
    return listening


class _Server(uvicorn.Server):
    """One that leaves when it is told to; uvicorn's would end by being killed of the signal.

    Args:
        shutdown_s: seconds that answers then have.
    """

    def __init__(self, config: uvicorn.Config, shutdown_s: float) -> None:
        super().__init__(config)
        self._shutdown_s = shutdown_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second SIGINT stop at once."""
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        # its thread needs no GIL, so it works whatever native code holds everything up
        faulthandler.dump_traceback_later(self._shutdown_s + ENDING_S, exit=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers finish, end those that take too long, and leave."""
        end_all = _served(self.config.app).end_all
        ending = asyncio.get_running_loop().call_later(self._shutdown_s, end_all)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


class Serving(Protocol):
    """What an app serves with: one model's service, or the host of several."""

    def end_all(self) -> None:
        """End every request where it stands."""
        ...

    def join(self, timeout_s: float) -> bool:
        """Wait for what prepares requests; False if it still runs after ``timeout_s``."""
        ...


def _served(app: Any) -> Serving:
    serving: Serving = app.state.service
    return serving


def run_app(app: FastAPI, listening: socket.socket, *, shutdown_s: float, log_level: str) -> None:
    """Serve until SIGINT or SIGTERM; answers then have ``shutdown_s`` seconds to finish.

    The process ends in any case, ``ENDING_S`` later at the latest.
    """
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=log_level in ("debug", "info"),
        timeout_graceful_shutdown=math.ceil(shutdown_s + LEAVING_S),
        timeout_keep_alive=30,
        http="h11",  # httptools reads a header that never ends as long as it comes
        h11_max_incomplete_event_size=_HEADER_BYTES,
        server_header=False,
        log_config=_log_config(log_level),
    )
    _Server(config, shutdown_s).run(sockets=[listening])
    faulthandler.cancel_dump_traceback_later()
    if not _served(app).join(LEAVING_S):
        # native code reads the model that would be freed now, and cannot be interrupted
        _log.warning("a request is still being prepared; the server ends without it")
        logging.shutdown()
        os._exit(0)


def _log_config(log_level: str) -> dict[str, Any]:
    """uvicorn's, and the same for this package's own."""
    config: dict[str, Any] = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    config["loggers"]["pytreellama"] = {
        "handlers": ["default"],
        "level": log_level.upper(),
        "propagate": False,
    }
    return config
