"""Faults: whatever goes wrong, in OpenAI's form and with the right status."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pytreellama.errors import (
    BatchError,
    CacheFullError,
    ChatTemplateError,
    ContextError,
    PyTreeLlamaError,
    QueueFullError,
    RequestError,
    SamplerError,
    TreeError,
    VocabError,
)
from pytreellama.serve.answers import ErrorBody, ErrorFacts

_log = logging.getLogger(__name__)

_REFUSED = (
    RequestError,
    SamplerError,
    VocabError,
    ChatTemplateError,
    TreeError,
    BatchError,
)
_N_CHARACTERS = 1000  # of a message, or of a field's name
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Fault(HTTPException):
    """An answer that is an error.

    Args:
        retry_after_s: when it is worth asking again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, message)
        default = "invalid_request_error" if status < 500 else "server_error"
        facts = ErrorFacts(
            message=_printable(message),
            type=_TYPES.get(status, default),
            param=param if param is None else _printable(param),
            code=code,
        )
        self.body = ErrorBody(error=facts)
        headers: dict[str, str] = {}
        if retry_after_s is not None:
            headers["Retry-After"] = str(retry_after_s)
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        self.headers: Mapping[str, str] = headers

    def response(self) -> JSONResponse:
        """As HTTP."""
        return JSONResponse(self.body.model_dump(), self.status_code, self.headers)


def fault_of(error: Exception, retry_after_s: int = 1) -> Fault:
    """What an exception means to a client; what is no client's doing goes to the log."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, QueueFullError):
        return Fault(
            429,
            "too many requests are under way or wait; try again later",
            code="queue_full",
            retry_after_s=retry_after_s,
        )
    if isinstance(error, _REFUSED):
        return Fault(400, str(error))
    if isinstance(error, CacheFullError):
        return Fault(400, str(error), code="context_length_exceeded")
    _log.error("a request failed", exc_info=error)
    if isinstance(error, ContextError):
        return Fault(503, "the engine does not run; the server must be started again")
    if isinstance(error, PyTreeLlamaError):
        return Fault(500, f"{type(error).__name__}: {error}")
    return Fault(500, "the server failed; its log says why")


def handle_faults(app: FastAPI) -> None:
    """Let an app answer errors in OpenAI's form, its framework's own among them."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return fault_of(error).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        fault = Fault(error.status_code, f"{error.detail}: {request.method} {request.url.path}")
        fault.headers = {**fault.headers, **(error.headers or {})}
        return fault.response()

    app.add_exception_handler(Fault, known)
    app.add_exception_handler(PyTreeLlamaError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, known)


def _printable(text: str) -> str:
    """Short text that UTF-8 can hold: clients send names of 4 MiB, and half surrogate pairs."""
    short = text if len(text) <= _N_CHARACTERS else text[:_N_CHARACTERS] + "..."
    return short.encode("utf-8", "backslashreplace").decode("utf-8")
