"""A program for the attack corpus: hostile options beside a request that must not notice."""

from __future__ import annotations

ENGINE = r"""
import json, sys, time
import pytreellama as ptl
from pytreellama.errors import PyTreeLlamaError

with ptl.Engine(ptl.Model.default(), "none", n_ctx=1024, n_seq_max=2) as engine:
    for options in json.load(sys.stdin):
        begun_s = time.monotonic()
        bystander = engine.submit("Once upon a time", max_tokens=16)
        try:
            answer = engine.generate("aaaaaaaa", max_tokens=12, **options)
            end = repr(answer.text)
        except PyTreeLlamaError as error:
            assert len(str(error)) < 1000, len(str(error))
            end = f"{type(error).__name__}: {error}"
        assert len(bystander.result().tokens) == 16
        print(f"{time.monotonic() - begun_s:.1f} s {end}", flush=True)
"""
"""Reads a JSON list of options from stdin, and generates once for each. One line a request: its
seconds, and its text or error."""
