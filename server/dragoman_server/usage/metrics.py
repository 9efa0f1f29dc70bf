"""What the usage log counts, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


class UsageMetrics(Collector):
    """The metrics of the usage log.

    Args:
        registry: Where they are exposed, if anywhere.
        pending: Tells how many records wait.

    Attributes:
        written: Records that were kept.
        dropped: Records that there was no room for.
    """

    def __init__(self, registry: CollectorRegistry | None, pending: Callable[[], int]) -> None:
        self.written = 0
        self.dropped = 0
        self._pending = pending
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Returns the families, for Prometheus."""
        yield CounterMetricFamily("dragoman_usage_records", "Usage records that were kept.", value=self.written)
        yield CounterMetricFamily(
            "dragoman_usage_records_dropped",
            "Usage records that were lost because too many waited for the database.",
            value=self.dropped,
        )
        yield GaugeMetricFamily(
            "dragoman_usage_records_pending", "Usage records that wait to be written.", value=self._pending()
        )
