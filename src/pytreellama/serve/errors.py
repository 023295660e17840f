"""API errors: exceptions as HTTP responses in OpenAI's form, with the matching status."""

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
from pytreellama.serve.error_forms import error_content

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


class APIError(HTTPException):
    """A response that is an error.

    Args:
        status: HTTP status.
        message: what went wrong and what to do.
        param: the field of the body that is wrong, if any.
        code: OpenAI's name of the error, if it has one.
        retry_after_s: value of the ``Retry-After`` header, in seconds.
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

    def response(self, path: str) -> JSONResponse:
        """The error as an HTTP response, in the form of the protocol that a path belongs to."""
        content = error_content(path, self.status_code, self.body)
        return JSONResponse(content, self.status_code, self.headers)


def api_error_of(error: Exception, retry_after_s: int = 1) -> APIError:
    """Convert an exception to an API error; log it unless the client caused it."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, QueueFullError):
        return APIError(
            429,
            "too many requests are under way or wait; try again later",
            code="queue_full",
            retry_after_s=retry_after_s,
        )
    if isinstance(error, _REFUSED):
        return APIError(400, str(error), param=getattr(error, "param", None))
    if isinstance(error, CacheFullError):
        return APIError(400, str(error), code="context_length_exceeded")
    _log.error("a request failed", exc_info=error)
    if isinstance(error, ContextError):
        return APIError(503, "the engine does not run; the server must be started again")
    if isinstance(error, PyTreeLlamaError):
        return APIError(500, f"{type(error).__name__}: {error}")
    return APIError(500, "the server failed; its log says why")


def handle_errors(app: FastAPI) -> None:
    """Make an app respond to all errors in OpenAI's form, including those of FastAPI."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return api_error_of(error).response(request.url.path)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        api_error = APIError(
            error.status_code, f"{error.detail}: {request.method} {request.url.path}"
        )
        api_error.headers = {**api_error.headers, **(error.headers or {})}
        return api_error.response(request.url.path)

    app.add_exception_handler(APIError, known)
    app.add_exception_handler(PyTreeLlamaError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, known)


def _printable(text: str) -> str:
    """Truncate text and escape lone surrogates: clients send field names of 4 MiB."""
    short = text if len(text) <= _N_CHARACTERS else text[:_N_CHARACTERS] + "..."
    return short.encode("utf-8", "backslashreplace").decode("utf-8")
