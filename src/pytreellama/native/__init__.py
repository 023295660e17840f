"""The native edge: the only package that calls C, one module a topic.

``library`` holds the compiled module, for the modules here alone. What can fail in C++ comes
back as a status, and leaves here as one of the exceptions in ``pytreellama.errors`` (``checks``).
Objects of C are ``Handle``, rows of logits pointers that mean nothing outside.
"""

from __future__ import annotations

from pytreellama.native.library import build_info
from pytreellama.native.log import drain_log
from pytreellama.native.start import start

start()

__all__ = [
    "build_info",
    "drain_log",
]
