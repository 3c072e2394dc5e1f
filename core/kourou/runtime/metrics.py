"""Metrics for Prometheus: numbers are read from the services when somebody asks, and cost nothing otherwise.

Names are RocketMQ's own (``rocketmq_*``) where they exist, so that its dashboards work; ours begin with ``kourou_``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

Source = Callable[[], Iterable[Metric]]


class _Collected(Collector):
    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._source()


class Metrics:
    """One registry a process, so that two nodes in one test don't share numbers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)

    def add(self, source: Source) -> None:
        self._registry.register(_Collected(source))

    def render(self) -> bytes:
        data: bytes = generate_latest(self._registry)
        return data


class Family:
    """Makes metrics that share labels."""

    def __init__(self, **labels: str) -> None:
        self._names = list(labels)
        self._values = list(labels.values())

    def counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=self._names)
        family.add_metric(self._values, value)
        return family

    def gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=self._names)
        family.add_metric(self._values, value)
        return family

    def gauges(self, name: str, text: str, more: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
        """One with further labels: rows of (their values, number)."""
        family = GaugeMetricFamily(name, text, labels=[*self._names, *more])
        for values, number in rows:
            family.add_metric([*self._values, *values], number)
        return family

    def histogram(self, name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> Metric:
        """``counts`` are per bucket, one more than bounds."""
        family = HistogramMetricFamily(name, text, labels=self._names)
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, number in zip([*map(str, bounds), "+Inf"], counts, strict=True):
            running += number
            buckets.append((bound, running))
        family.add_metric(self._values, buckets, total)
        return family
