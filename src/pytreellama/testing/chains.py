"""Samplers of llama.cpp's chain, where the package takes its own passes over a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from pytreellama.sampling import sampler
from pytreellama.sampling.stages import new_chain


@contextmanager
def sampled_by_chain() -> Iterator[None]:
    """Make each sampler that is created in the block one of llama.cpp's chain."""
    with patch.object(sampler, "new_stages", new_chain):
        yield
