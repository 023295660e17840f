"""Running the app under uvicorn until it is told to stop."""

from __future__ import annotations

import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pytreellama.errors import PyTreeLlamaError


class ServeError(PyTreeLlamaError):
    """The server cannot listen where it should."""


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
    """One that leaves when it is told to; uvicorn's would end by being killed of the signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second SIGINT stop at once."""
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run_app(app: FastAPI, listening: socket.socket, *, shutdown_s: float, log_level: str) -> None:
    """Serve until SIGINT or SIGTERM; answers then have ``shutdown_s`` seconds to finish."""
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=log_level in ("debug", "info"),
        timeout_graceful_shutdown=max(1, round(shutdown_s)),
        timeout_keep_alive=30,
        server_header=False,
        limit_concurrency=None,
    )
    _Server(config).run(sockets=[listening])
