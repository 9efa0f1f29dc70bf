"""What the core counts, for Prometheus.

A run is counted in plain integers; the families that Prometheus reads are made when it asks, not when a run ends.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from dragoman.v1.run_pb2 import Run
from dragoman_server.telemetry.histogram import Bounds, Histogram
from dragoman_server.telemetry.streams import StreamMeter, StreamTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from dragoman.v1.embedding_service_pb2 import EmbedResponse
    from dragoman.v1.failure_pb2 import Failure

    Values = Mapping[str, Mapping[tuple[str, ...], int]]
    """By provider and further labels."""


class Ended(Protocol):
    """What is counted of a run that has ended: its fold."""

    @property
    def state(self) -> Run.State:
        """How it ended."""

    @property
    def provider(self) -> str:
        """Who served it."""

    @property
    def last_sequence(self) -> int:
        """How many events it had."""

    @property
    def failure(self) -> Failure | None:
        """Why it failed."""

    @property
    def dropped_params(self) -> Sequence[str]:
        """Fields that were left out of it."""

    @property
    def emulated_features(self) -> Sequence[str]:
        """Features that the server stood in for."""


STATES = {
    Run.STATE_COMPLETED: "completed",
    Run.STATE_FAILED: "failed",
    Run.STATE_CANCELLED: "cancelled",
}
DURATIONS = Bounds((0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900))
DIRECTIONS = ("input", "cached_input", "output", "reasoning_output")


class _Counts:
    """What was counted for one provider.

    Attributes:
        events: Events of runs that ended.
        tokens: Tokens, in the order of `DIRECTIONS`.
        texts: Texts that became vectors.
        failures: Runs that failed, by reason.
        dropped: Requests of which a field was left out, by field.
        emulated: Requests of which a feature was emulated, by feature.
    """

    __slots__ = ("dropped", "emulated", "events", "failures", "texts", "tokens")

    def __init__(self) -> None:
        self.events = 0
        self.tokens = [0] * len(DIRECTIONS)
        self.texts = 0
        self.failures: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self.emulated: dict[str, int] = {}


class CoreMetrics(Collector):
    """The metrics of runs. Labels have few values: providers and states, never models, keys or accounts.

    Args:
        registry: Where they are exposed.
        active: Tells how many runs go on.
        kept_bytes: Tells what all kept runs take together.
    """

    def __init__(self, registry: CollectorRegistry, active: Callable[[], int], kept_bytes: Callable[[], int]) -> None:
        self._active = active
        self._kept_bytes = kept_bytes
        self._ended: dict[tuple[str, Run.State], tuple[Histogram, _Counts]] = {}
        self._counts: defaultdict[str, _Counts] = defaultdict(_Counts)
        self._streams: defaultdict[str, StreamTimes] = defaultdict(StreamTimes)
        registry.register(self)

    def stream_meter(self, start: int) -> StreamMeter:
        """Returns what measures a stream that was accepted at a time, in nanoseconds since the epoch."""
        return StreamMeter(self._streams.__getitem__, start)

    def run_ended(self, ended: Ended, nanos: int, tokens: Sequence[int]) -> None:
        """Counts a run that has ended.

        Args:
            ended: How it ended.
            nanos: How long it took, in nanoseconds.
            tokens: What it consumed, in the order of `DIRECTIONS`; what comes after is not counted.
        """
        name = ended.provider, ended.state
        known = self._ended.get(name)
        if known is None:
            known = self._ended[name] = Histogram(DURATIONS), self._counts[ended.provider]
        durations, counts = known
        durations.observe(nanos)
        counts.events += ended.last_sequence
        total = counts.tokens
        total[0] += tokens[0]
        total[1] += tokens[1]
        total[2] += tokens[2]
        total[3] += tokens[3]
        if ended.failure is not None:
            _count(counts.failures, (ended.failure.reason,))
        if ended.dropped_params:
            _count(counts.dropped, ended.dropped_params)
        if ended.emulated_features:
            _count(counts.emulated, ended.emulated_features)

    def embedded(self, response: EmbedResponse) -> None:
        """Counts what texts that became vectors consumed."""
        counts = self._counts[response.provider]
        counts.texts += len(response.embeddings)
        counts.tokens[0] += response.usage.input_tokens

    def collect(self) -> Iterator[Metric]:
        """Returns the families, for Prometheus."""
        runs = CounterMetricFamily("dragoman_runs", "Runs that ended.", labels=("provider", "state"))
        seconds = HistogramMetricFamily(
            "dragoman_run_seconds", "Time from start to end of a run.", labels=("provider", "state")
        )
        for (provider, state), (durations, _) in self._ended.items():
            labels = (provider, STATES[state])
            runs.add_metric(labels, durations.count)
            durations.write(seconds, labels)
        yield from (runs, seconds)
        yield from self._collect_counts()
        yield from self._collect_streams()
        yield GaugeMetricFamily("dragoman_runs_active", "Runs that go on.", self._active())
        yield GaugeMetricFamily("dragoman_runs_kept_bytes", "Memory that kept runs take, roughly.", self._kept_bytes())

    def _collect_counts(self) -> Iterator[Metric]:
        counts = self._counts
        events: Values = {p: {(): c.events} for p, c in counts.items()}
        yield _family("dragoman_events", "Events of runs that ended.", (), events)
        yield _family(
            "dragoman_tokens",
            "Tokens that runs and vectors consumed; the cached and the reasoning ones count among the others, too.",
            ("direction",),
            {p: {(name,): n for name, n in zip(DIRECTIONS, c.tokens, strict=True)} for p, c in counts.items()},
        )
        texts: Values = {p: {(): c.texts} for p, c in counts.items() if c.texts}
        yield _family("dragoman_embeddings", "Texts that became vectors.", (), texts)
        for name, what, label, attribute in _BY_NAME:
            values: Values = {p: {(key,): n for key, n in getattr(c, attribute).items()} for p, c in counts.items()}
            yield _family(name, what, (label,), values)

    def _collect_streams(self) -> Iterator[Metric]:
        first = HistogramMetricFamily(
            "dragoman_first_content_seconds",
            "Time from start to first content of a streamed run.",
            labels=("provider",),
        )
        gaps = HistogramMetricFamily(
            "dragoman_event_gap_seconds",
            "Time from one batch of events of a streamed run to the next.",
            labels=("provider",),
        )
        for provider, times in self._streams.items():
            times.first_content.write(first, (provider,))
            times.gaps.write(gaps, (provider,))
        yield from (first, gaps)


_BY_NAME = (
    ("dragoman_run_failures", "Runs that failed, by why.", "reason", "failures"),
    ("dragoman_dropped_params", "Runs of which a request field was left out.", "param", "dropped"),
    ("dragoman_emulated_features", "Runs of which the server stood in for a feature.", "feature", "emulated"),
)
"""Counters by provider and a name of ours: name, help, label, attribute of `_Counts`."""


def _count(counts: dict[str, int], names: Iterable[str]) -> None:
    for name in names:
        counts[name] = counts.get(name, 0) + 1


def _family(name: str, what: str, labels: tuple[str, ...], values: Values) -> CounterMetricFamily:
    """Returns a family of counters: first by provider, then by further labels."""
    family = CounterMetricFamily(name, what, labels=("provider", *labels))
    for provider, by_label in values.items():
        for label, value in by_label.items():
            family.add_metric((provider, *label), value)
    return family
