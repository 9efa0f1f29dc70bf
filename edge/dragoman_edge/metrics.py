"""What the edge counts, for Prometheus.

A request is counted in plain integers; the families that Prometheus reads are made when it asks.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_BUCKET_NAMES = (*(str(float(bound)) for bound in _SECONDS), "+Inf")


class _Durations:
    """How long the answers of one route took."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * len(_BUCKET_NAMES)
        self.total = 0.0


class RouteCounts:
    """Counts the answers of one route to one method.

    Attributes:
        statuses: How many answers had which status.
        received_bytes: Bytes of request bodies that were read.
        sent_bytes: Bytes of answers' bodies that were written; of a stream, once it has ended.
    """

    __slots__ = ("_durations", "received_bytes", "sent_bytes", "statuses")

    def __init__(self, durations: _Durations) -> None:
        self._durations = durations
        self.received_bytes = 0
        self.sent_bytes = 0
        self.statuses: dict[int, int] = {}

    def add(self, status: int, seconds: float, received: int = 0, sent: int = 0) -> None:
        """Counts an answer, how long it took, and the bytes of both bodies."""
        statuses = self.statuses
        statuses[status] = statuses[status] + 1 if status in statuses else 1
        self.received_bytes += received
        self.sent_bytes += sent
        durations = self._durations
        durations.buckets[bisect_left(_SECONDS, seconds)] += 1
        durations.total += seconds


class EdgeMetrics(Collector):
    """The metrics of one edge.

    Attributes:
        open_streams: Event streams that are being written.
        open_connections: Connections of clients.
        refused_connections: Connections refused because too many were open.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open_streams = 0
        self.open_connections = 0
        self.refused_connections = 0
        self._counts: dict[tuple[str, str], RouteCounts] = {}
        self._durations: dict[str, _Durations] = {}
        registry.register(self)

    def counts_of(self, route: str, method: str) -> RouteCounts:
        """Returns what counts the answers of a route; both come from the route table, never from the client."""
        counts = self._counts.get((route, method))
        if counts is None:
            durations = self._durations.setdefault(route, _Durations())
            counts = self._counts[route, method] = RouteCounts(durations)
        return counts

    @contextmanager
    def open_stream(self) -> Iterator[None]:
        """Counts a stream as open within the block."""
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1

    def collect(self) -> Iterator[Metric]:
        """Returns the families, for Prometheus."""
        requests = CounterMetricFamily(
            "dragoman_http_requests",
            "Requests that were answered; status 499 means that the client left.",
            labels=("route", "method", "status"),
        )
        for (route, method), counts in self._counts.items():
            for status, count in counts.statuses.items():
                requests.add_metric((route, method, str(status)), count)
        seconds = HistogramMetricFamily(
            "dragoman_http_request_seconds", "Time from a request's head to the end of its answer.", labels=("route",)
        )
        for route, durations in self._durations.items():
            upto = accumulate(durations.buckets)
            seconds.add_metric((route,), list(zip(_BUCKET_NAMES, upto, strict=True)), durations.total)
        yield from (requests, seconds)
        yield GaugeMetricFamily(
            "dragoman_http_open_streams", "Event streams that are being written.", self.open_streams
        )
        yield GaugeMetricFamily("dragoman_http_open_connections", "Connections of clients.", self.open_connections)
        yield CounterMetricFamily(
            "dragoman_http_refused_connections",
            "Connections refused because too many were open.",
            self.refused_connections,
        )
        yield CounterMetricFamily(
            "dragoman_http_received_bytes",
            "Bytes of request bodies that were read.",
            sum(counts.received_bytes for counts in self._counts.values()),
        )
        yield CounterMetricFamily(
            "dragoman_http_sent_bytes",
            "Bytes of answers' bodies that were written; of a stream, once it has ended.",
            sum(counts.sent_bytes for counts in self._counts.values()),
        )
