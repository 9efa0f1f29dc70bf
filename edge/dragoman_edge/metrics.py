"""What the edge counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class EdgeMetrics:
    """The metrics of one edge.

    Attributes:
        open_streams: Event streams that are being written.
        open_connections: Connections of clients.
        refused_connections: Connections refused because too many were open.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("route", "method", "status")
        self._requests = Counter(
            "dragoman_http_requests",
            "Requests that were answered; status 499 means that the client left.",
            labels,
            registry=registry,
        )
        self._seconds = Histogram(
            "dragoman_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.open_streams = Gauge(
            "dragoman_http_open_streams", "Event streams that are being written.", registry=registry
        )
        self.open_connections = Gauge("dragoman_http_open_connections", "Connections of clients.", registry=registry)
        self.refused_connections = Counter(
            "dragoman_http_refused_connections", "Connections refused because too many were open.", registry=registry
        )
        # `labels()` takes a lock and builds a key each time; there are few combinations.
        self._cells: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` and `method` come from the route table, never from the client."""
        cell = self._cells.get((route, method, status))
        if cell is None:
            cell = (self._requests.labels(route, method, str(status)), self._seconds.labels(route))
            self._cells[route, method, status] = cell
        cell[0].inc()
        cell[1].observe(seconds)
