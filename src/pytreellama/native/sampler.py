"""NativeSampler: what all samplers of the C ABI have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import SamplerError
from pytreellama.native.checks import reason
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib


class NativeSampler:
    """Owns a native sampler of rows of one length. Its use raises ``SamplerError`` once closed."""

    __slots__ = ("_handle", "_n_vocab")

    _handle: Handle
    _n_vocab: int

    def require_open(self) -> None:
        """Raise ``SamplerError`` once it is closed."""
        self._handle.pointer  # noqa: B018

    @property
    def closed(self) -> bool:
        return self._handle.closed

    @property
    def handle(self) -> Handle:
        return self._handle

    def close(self) -> None:
        """Free it and its stages; a second call does nothing."""
        self._handle.close()


def mask_pointer(allowed: NDArray[np.uint32] | None) -> Any:
    """cdata ``uint32_t *`` to one bit a token; NULL allows all."""
    return ffi.NULL if allowed is None else ffi.from_buffer("uint32_t[]", allowed)


def drawn_token(status: int, token: Any, what: str) -> int | None:
    """The token that a draw wrote; None where there is none to choose.

    Args:
        token: cdata ``llama_token *``.
        what: what failed, for the error.
    """
    if status == 0:
        return int(token[0])
    if status == lib.TREELLAMA_NO_CANDIDATE:
        return None
    raise SamplerError(f"{what}: {reason()}")
