"""What rate limits count, for Prometheus: in plain integers, until it asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from dragoman_server.errors import RateLimited


class RateLimitMetrics(Collector):
    """The metrics of rate limits; labels name kinds of limits, never callers.

    Args:
        registry: Where they are exposed, if anywhere.

    Attributes:
        failures: How often the shared storage could not be asked.
    """

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.failures = 0
        self._refused: Counter[tuple[str, str]] = Counter()
        if registry is not None:
            registry.register(self)

    def refused(self, error: RateLimited) -> None:
        """Counts a request that was refused."""
        self._refused[error.metadata["scope"], error.metadata["limit_name"]] += 1

    def collect(self) -> Iterator[Metric]:
        """Returns the families, for Prometheus."""
        refused = CounterMetricFamily(
            "dragoman_rate_limited", "Requests that a limit refused.", labels=("scope", "limit")
        )
        for labels, count in self._refused.items():
            refused.add_metric(labels, count)
        yield refused
        yield CounterMetricFamily(
            "dragoman_rate_limit_storage_failures",
            "Times that the shared storage of rate limits could not be asked; this process then counted alone.",
            value=self.failures,
        )
