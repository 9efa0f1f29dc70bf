"""What a run of the benchmark has found, and the figures that are drawn from it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.load import Percentiles

BASE = "relay"
"""The yardstick: ratios are against this target."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One cell, put on one target, once. Times are in seconds.

    Attributes:
        target: Name of the target.
        cell: Name of the cell.
        round: Number of the round.
        requests: Good answers.
        events: Events in them, for streams.
        errors: Bad answers; with any, this is not a reading.
        first_error: What was wrong with the first.
        seconds: How long it took.
        cpu_seconds: CPU time of the target's processes.
        latency: Request to end of answer.
        first_event: Request to first event, for streams.
        gap: Between two reads of a stream that brought events.
        events_per_read: How many events arrived together.
    """

    target: str
    cell: str
    round: int
    requests: int
    events: int
    errors: int
    first_error: str
    seconds: float
    cpu_seconds: float
    latency: Percentiles | None
    first_event: Percentiles | None
    gap: Percentiles | None
    events_per_read: float

    @property
    def good(self) -> bool:
        """Whether it is a reading at all."""
        return not self.errors and self.requests > 0

    @property
    def units(self) -> int:
        """What CPU time is divided by: events of streams, else requests."""
        return self.events or self.requests

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time per unit, in microseconds."""
        return self.cpu_seconds * 1e6 / self.units

    @property
    def busy(self) -> float:
        """CPU time per time that passed: 1.0 is one core."""
        return self.cpu_seconds / self.seconds

    @property
    def wait(self) -> Percentiles | None:
        """What a client waits for: the first event of a stream, else the answer."""
        return self.first_event or self.latency

    @property
    def unfairness(self) -> float | None:
        """The slowest time to first event, in medians; None for plain answers."""
        return self.first_event.maximum / self.first_event.p50 if self.first_event else None


@dataclass(slots=True)
class Footprint:
    """What a target takes before it does anything.

    Attributes:
        start_up: Seconds from start to first answer, once for each start.
        idle_mib: Resident memory then, all processes together.
        streams_mib: What 1,000 open idle streams add to it; None if they did not all open.
        problem: Why they did not.
    """

    start_up: list[float] = field(default_factory=list)
    idle_mib: float = 0.0
    streams_mib: float | None = None
    problem: str = ""


@dataclass(slots=True)
class Results:
    """A run of the benchmark."""

    readings: list[Reading] = field(default_factory=list)
    footprints: dict[str, Footprint] = field(default_factory=dict)

    def of(self, target: str, cell: str) -> list[Reading]:
        """Returns the readings of a cell on a target, the bad ones included."""
        return [reading for reading in self.readings if (reading.target, reading.cell) == (target, cell)]

    def median(self, target: str, cell: str, figure: Callable[[Reading], float | None]) -> float | None:
        """Returns the median over the rounds; None without a good reading."""
        return median(figure(reading) for reading in self.of(target, cell) if reading.good)

    def cpu_ratio(self, target: str, cell: str) -> float | None:
        """Returns CPU time per unit, in that of the yardstick: the median of the ratios of each round."""
        base = {reading.round: reading.cpu_us for reading in self.of(BASE, cell) if reading.good}
        return median(
            reading.cpu_us / base[reading.round]
            for reading in self.of(target, cell)
            if reading.good and base.get(reading.round)
        )

    def errors(self, target: str, cell: str) -> int:
        """Returns the number of bad answers."""
        return sum(reading.errors for reading in self.of(target, cell))


def median(values: Iterable[float | None]) -> float | None:
    """Returns the median of the values that there are."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None
