"""Metrics for Prometheus: what was written, how guesses did, how full it is, how long it took."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pytreellama.engine import Engine, Stats

_FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NEXT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_REQUEST_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_PER_STEP = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)


class Metrics:
    """Counts of one server, whose names begin with ``pytreellama_``."""

    def __init__(self, engine: Engine) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_EngineGauges(engine))

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"pytreellama_{name}", help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"pytreellama_{name}", help, registry=registry, buckets=buckets)

        self.answers = counter("answers", "Answers by why they ended.", "finish_reason")
        self._errors = counter("faults", "Requests that were refused or failed.", "status")
        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self._cached_tokens = counter("cached_tokens", "Of these, those in the cache already.")
        self._tokens = counter("tokens", "Tokens written.")
        self._steps = counter("steps", "Steps: passes, for each text that took part.")
        self._drafted = counter("drafted_tokens", "Draft tokens that were verified.")
        self._accepted = counter("accepted_tokens", "Draft tokens that were accepted.")
        self._preempted = counter("preemptions", "Times that a text had to leave the cache.")
        self._per_step = histogram("tokens_per_step", "Of each answer.", _PER_STEP)
        self.first_s = histogram("first_token_seconds", "To a text's first token.", _FIRST_S)
        self.next_s = histogram("between_tokens_seconds", "Between tokens, in the mean.", _NEXT_S)
        self.request_s = histogram("answer_seconds", "From request to end of answer.", _REQUEST_S)

    def count(self, stats: Stats, finish_reason: str, seconds: float) -> None:
        """Count a finished answer, ``seconds`` after it was asked for."""
        self.answers.labels(finish_reason).inc()
        self._prompt_tokens.inc(stats.n_prompt)
        self._cached_tokens.inc(stats.n_shared)
        self._tokens.inc(stats.n_tokens)
        self._steps.inc(stats.n_steps)
        self._drafted.inc(stats.n_drafted)
        self._accepted.inc(stats.n_accepted)
        self._preempted.inc(stats.n_preempted)
        self.request_s.observe(seconds)
        if stats.n_steps:
            self._per_step.observe(stats.tokens_per_step)
        if stats.n_tokens > 1:
            self.next_s.observe(stats.decode_s / stats.n_tokens)

    def count_error(self, status: int) -> None:
        """Count a request that was refused or failed."""
        self._errors.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of them in Prometheus's format."""
        return generate_latest(self.registry)


class _EngineGauges(Collector):
    """Gauges that read the engine's load at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the current gauges."""
        load, n_ctx = self._engine.load, self._engine.n_ctx
        gauges = {
            "running": ("Running requests.", load.n_running),
            "queued": (
                "Waiting requests.",
                max(self._engine.n_open - load.n_running, load.n_waiting),
            ),
            "cached_prefixes": ("Finished sequences in the prefix cache.", load.n_cached_prefixes),
            "kept_texts": ("Deprecated: cached_prefixes.", load.n_cached_prefixes),
            "prefix_checkpoints": (
                "Recurrent states and sliding windows of prefixes in host memory.",
                load.n_checkpoints,
            ),
            "prefix_checkpoint_bytes": ("Bytes of prefix checkpoints.", load.n_checkpoint_bytes),
            "cache_cells_used": ("KV-cache cells in use.", load.n_cells_used),
            "cache_cells": ("KV-cache cells in total.", n_ctx),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"pytreellama_{name}", text, value)
