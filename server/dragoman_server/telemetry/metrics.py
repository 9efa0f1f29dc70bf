"""What the core counts, for Prometheus.

A run is counted in plain integers; the families that Prometheus reads are made when it asks, not when a run ends.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from dragoman.v1.run_pb2 import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

STATES = {
    Run.STATE_COMPLETED: "completed",
    Run.STATE_FAILED: "failed",
    Run.STATE_CANCELLED: "cancelled",
}
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
BUCKET_NAMES = (*map(str, DURATION_BUCKETS), "+Inf")


class _Durations:
    """How long the runs of one provider and state took."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * len(BUCKET_NAMES)
        self.total = 0.0


class CoreMetrics(Collector):
    """The core's metrics. Labels have few values: providers and states, never models, keys or accounts.

    Args:
        registry: Where they are exposed.
        active: Tells how many runs go on.
        kept_bytes: Tells what all kept runs take together.
    """

    def __init__(self, registry: CollectorRegistry, active: Callable[[], int], kept_bytes: Callable[[], int]) -> None:
        self._active = active
        self._kept_bytes = kept_bytes
        self._durations: dict[tuple[str, Run.State], _Durations] = {}
        self._tokens: dict[str, list[int]] = {}  # provider -> input, output
        registry.register(self)

    def run_ended(self, record: Run) -> None:
        """Counts a run that has ended."""
        provider = record.provider
        durations = self._durations.get((provider, record.state))
        if durations is None:
            durations = self._durations[provider, record.state] = _Durations()
        start, end = record.create_time, record.end_time
        seconds = end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9
        durations.buckets[bisect_left(DURATION_BUCKETS, seconds)] += 1
        durations.total += seconds
        usage = record.usage
        if usage.input_tokens or usage.output_tokens:
            tokens = self._tokens.setdefault(provider, [0, 0])
            tokens[0] += usage.input_tokens
            tokens[1] += usage.output_tokens

    def collect(self) -> Iterator[Metric]:
        """Returns the families, for Prometheus."""
        runs = CounterMetricFamily("dragoman_runs", "Runs that ended.", labels=("provider", "state"))
        seconds = HistogramMetricFamily(
            "dragoman_run_seconds", "Time from start to end of a run.", labels=("provider", "state")
        )
        for (provider, state), durations in self._durations.items():
            labels = (provider, STATES[state])
            counts = list(accumulate(durations.buckets))
            runs.add_metric(labels, counts[-1])
            seconds.add_metric(labels, list(zip(BUCKET_NAMES, counts, strict=True)), durations.total)
        tokens = CounterMetricFamily("dragoman_tokens", "Tokens that runs consumed.", labels=("provider", "direction"))
        for provider, (read, written) in self._tokens.items():
            tokens.add_metric((provider, "input"), read)
            tokens.add_metric((provider, "output"), written)
        yield from (runs, seconds, tokens)
        yield GaugeMetricFamily("dragoman_runs_active", "Runs that go on.", self._active())
        yield GaugeMetricFamily("dragoman_runs_kept_bytes", "Memory that kept runs take, roughly.", self._kept_bytes())
