"""Every exception that pytreellama raises on purpose, under one base.

A message says what was asked, what is allowed and what to do about it.
"""

from __future__ import annotations


class PyTreeLlamaError(Exception):
    """Base of all errors raised by pytreellama."""


class FileError(PyTreeLlamaError, OSError):
    """A file that cannot be read, is not what it should be, or cannot be written."""


class NativeLibraryError(PyTreeLlamaError, ImportError):
    """The compiled part is missing, or was built for another machine."""


class ModelLoadError(PyTreeLlamaError):
    """A model file is missing, damaged, unsupported, or cannot be fetched."""


class QuantizeError(PyTreeLlamaError):
    """A model file could not be requantised."""


class VocabError(PyTreeLlamaError, ValueError):
    """A text or token id that the vocabulary does not know."""


class ChatTemplateError(PyTreeLlamaError, ValueError):
    """The model has no chat template, or the template refuses the messages."""


class TemplateWorkError(ChatTemplateError):
    """A chat template would do more work than it may."""


class ContextError(PyTreeLlamaError):
    """A context could not be made, was closed, or is used by two threads at once."""


class BatchError(PyTreeLlamaError, ValueError):
    """A batch that llama.cpp must not see: ids, positions or sizes out of range."""


class CacheFullError(PyTreeLlamaError):
    """No room in the KV cache for the batch; the cache is as it was before the call."""


class DecodeError(PyTreeLlamaError):
    """The backend failed, or was told to abort, in the middle of a decode."""


class MemoryStateError(PyTreeLlamaError, ValueError):
    """An operation on the KV cache that this model, cache or state does not allow."""


class SamplerError(PyTreeLlamaError, ValueError):
    """A sampling parameter out of range, or a sampler that cannot choose any token."""


class GrammarError(SamplerError):
    """A grammar or JSON schema that cannot be parsed or cannot be satisfied."""


class TreeError(PyTreeLlamaError, ValueError):
    """Tokens and parents that do not make a valid token tree."""


class DraftError(PyTreeLlamaError):
    """A drafter that is unknown, or that proposed something invalid."""


class RequestError(PyTreeLlamaError, ValueError):
    """A generation request that cannot be served: prompt too long, bad option."""


class CallbackError(PyTreeLlamaError):
    """A callback or drafter raised what would end a thread, such as ``KeyboardInterrupt``."""


class QueueFullError(PyTreeLlamaError):
    """An engine has as many requests as it may hold, and the caller would not wait."""


class MedusaError(PyTreeLlamaError):
    """Heads that cannot be read, do not fit the model, or cannot be trained."""


class ServeError(PyTreeLlamaError):
    """The server cannot listen where it should."""


def shown(value: object) -> str:
    """The start of a value as Python writes it; a number of 4300 digits and more has no text."""
    try:
        return f"{value!r:.60}"
    except ValueError:
        return "a number of thousands of digits"
