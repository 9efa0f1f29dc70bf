"""A histogram that costs an index and two additions to feed."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.core import HistogramMetricFamily


class Bounds:
    """The upper bounds of a histogram's buckets.

    Args:
        seconds: The bounds, ascending.

    Attributes:
        nanos: The same in nanoseconds.
        names: What Prometheus calls them; the last one has no bound.
    """

    __slots__ = ("names", "nanos")

    def __init__(self, seconds: Iterable[float]) -> None:
        seconds = tuple(seconds)
        self.nanos = tuple(round(bound * 1_000_000_000) for bound in seconds)
        self.names = (*map(str, seconds), "+Inf")


class Histogram:
    """How long something took, each time.

    Attributes:
        counts: How often, by bucket.
        total: All of it together, in nanoseconds.
    """

    __slots__ = ("_bounds", "_nanos", "counts", "total")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._nanos = bounds.nanos
        self.counts = [0] * len(bounds.names)
        self.total = 0

    def observe(self, nanos: int) -> None:
        """Counts a time, in nanoseconds; the clock may have been set back meanwhile."""
        if nanos < 0:
            nanos = 0
        self.counts[bisect_left(self._nanos, nanos)] += 1
        self.total += nanos

    @property
    def count(self) -> int:
        """How often it was fed."""
        return sum(self.counts)

    def write(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Adds itself to a family, in seconds."""
        buckets = list(zip(self._bounds.names, accumulate(self.counts), strict=True))
        family.add_metric(labels, buckets, self.total / 1e9)
