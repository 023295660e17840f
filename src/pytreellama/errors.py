"""The exceptions of pytreellama, and the helpers that word their messages.

A message names the argument as it was typed, what was expected, and what to do:
``invalid n_ctx=-1: expected 0 (the model's) to 2147483647``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_N_SUGGEST_MAX = 100
"""Longer names get no suggestion: ``difflib`` takes quadratic time."""


class PyTreeLlamaError(Exception):
    """Base of all errors raised by pytreellama."""


class FileError(PyTreeLlamaError, OSError):
    """A file cannot be read, has the wrong content, or cannot be written."""


class NativeLibraryError(PyTreeLlamaError, ImportError):
    """The native library is missing, or was built for another machine."""


class ModelLoadError(PyTreeLlamaError):
    """A model file is missing, damaged, unsupported, or cannot be fetched."""


class QuantizeError(PyTreeLlamaError):
    """A model file could not be requantised."""


class VocabError(PyTreeLlamaError, ValueError):
    """A text or token id is not in the vocabulary."""


class ChatTemplateError(PyTreeLlamaError, ValueError):
    """The model has no chat template, or the template refuses the messages."""


class TemplateWorkError(ChatTemplateError):
    """A chat template exceeds its limits of time or memory."""


class ContextError(PyTreeLlamaError):
    """A context cannot be created, is closed, or is used by two threads at once."""


class BatchError(PyTreeLlamaError, ValueError):
    """A batch has token ids, sequence ids, positions or sizes out of range."""


class CacheFullError(PyTreeLlamaError):
    """The KV cache has no room for the batch; the cache is unchanged."""


class DecodeError(PyTreeLlamaError):
    """The backend failed or was aborted during a decode."""


class MemoryStateError(PyTreeLlamaError, ValueError):
    """This model, KV cache or state does not allow the operation."""


class SamplerError(PyTreeLlamaError, ValueError):
    """A sampling parameter is out of range, or no token is left to choose."""


class GrammarError(SamplerError):
    """A grammar or JSON schema cannot be parsed or cannot be satisfied."""


class TreeError(PyTreeLlamaError, ValueError):
    """Tokens and parents do not form a valid token tree."""


class DraftError(PyTreeLlamaError):
    """A drafter is unknown, has an invalid option, or proposed an invalid tree."""


class RequestError(PyTreeLlamaError, ValueError):
    """A request cannot be served: the prompt is too long, or an option is invalid.

    Args:
        message: what is wrong.
        param: the option that is, if it is one of a chat; a path, such as ``messages.0.content``.
    """

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class CallbackError(PyTreeLlamaError):
    """A callback or drafter raised a ``BaseException`` such as ``KeyboardInterrupt``."""


class QueueFullError(PyTreeLlamaError):
    """The request queue is full and the caller asked not to wait."""


class MedusaError(PyTreeLlamaError):
    """Medusa heads cannot be read, do not fit the model, or cannot be trained."""


class ServeError(PyTreeLlamaError):
    """The server cannot listen on its address."""


def shown(value: object) -> str:
    """The first 60 characters of ``repr(value)``.

    ``repr`` refuses integers of 4,300 digits and more.
    """
    try:
        return f"{value!r:.60}"
    except ValueError:
        return "a number of thousands of digits"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A suggestion to put after a message about an unknown name.

    Args:
        name: the name as it was typed.
        known: the valid names.

    Returns:
        ``"; did you mean 'suffix'?"``, or an empty string if no valid name is close.
    """
    if not isinstance(name, str) or len(name) > _N_SUGGEST_MAX:
        return ""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def not_one_of(argument: str, value: object, known: Iterable[str]) -> str:
    """The message for a value that is not one of the names that an argument takes.

    Args:
        argument: the name of the argument.
        value: what was given.
        known: the valid names, in the order in which they are listed.
    """
    names = list(known)
    return (
        f"invalid {argument}={shown(value)}: expected one of {', '.join(names)}"
        f"{did_you_mean(value, names)}"
    )
