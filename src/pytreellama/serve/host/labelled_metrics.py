"""Metrics of several models: each one's own, with its name as a label."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pytreellama.serve.host.model_host import ModelHost


class HostMetrics:
    """What a host's loaded models count; counts of a model start over when it is loaded again."""

    def __init__(self, host: ModelHost) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Labelled(host))
        self._errors = Counter(
            "pytreellama_host_faults",
            "Responses of 400 and above, of all models.",
            ["status"],
            registry=self._registry,
        )

    def count_error(self, status: int) -> None:
        """Count a request that was refused or failed."""
        self._errors.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of them in Prometheus's format."""
        return generate_latest(self._registry)


class _Labelled(Collector):
    def __init__(self, host: ModelHost) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the samples of all models."""
        families: dict[str, Metric] = {}
        for model in self._host.loaded:
            service = model.service
            if service is None:
                continue
            for metric in service.metrics.registry.collect():
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    labels = {**sample.labels, "model": model.name}
                    family.add_sample(sample.name, labels, sample.value)
        yield from families.values()
