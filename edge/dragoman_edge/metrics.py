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


class EdgeMetrics(Collector):
    """The metrics of one edge.

    Attributes:
        open_streams: Event streams that are being written.
        open_connections: Connections of clients.
        refused_connections: Connections refused because too many were open.
        received_bytes: Bytes of request bodies that were read.
        sent_bytes: Bytes of answers' bodies that were written; of a stream, once it has ended.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open_streams = 0
        self.open_connections = 0
        self.refused_connections = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self._requests: dict[tuple[str, str, int], int] = {}
        self._durations: dict[str, _Durations] = {}
        registry.register(self)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` and `method` come from the route table, never from the client."""
        key = (route, method, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = _Durations()
        durations.buckets[bisect_left(_SECONDS, seconds)] += 1
        durations.total += seconds

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
        for (route, method, status), count in self._requests.items():
            requests.add_metric((route, method, str(status)), count)
        seconds = HistogramMetricFamily(
            "dragoman_http_request_seconds", "Time from a request's head to the end of its answer.", labels=("route",)
        )
        for route, durations in self._durations.items():
            counts = accumulate(durations.buckets)
            seconds.add_metric((route,), list(zip(_BUCKET_NAMES, counts, strict=True)), durations.total)
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
            "dragoman_http_received_bytes", "Bytes of request bodies that were read.", self.received_bytes
        )
        yield CounterMetricFamily(
            "dragoman_http_sent_bytes",
            "Bytes of answers' bodies that were written; of a stream, once it has ended.",
            self.sent_bytes,
        )
