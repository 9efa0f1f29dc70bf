"""Counts in this process: what is counted is seen at once, and costs a few dictionary look-ups."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dragoman_server.ratelimits.verdict import WINDOW_SECONDS, passes, refusal, remains

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.usage_pb2 import RateState
    from dragoman_server.ratelimits.subjects import Subject
    from dragoman_server.ratelimits.verdict import Remains


class _Counter:
    """What was counted of a subject; see `Counts`."""

    __slots__ = ("requests", "reset", "runs", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.runs = 0
        self.reset = 0.0

    def advance(self, now: float) -> None:
        """Begins a new window if the last one is over."""
        if self.reset <= now:
            self.requests = self.tokens = 0
            self.reset = now + WINDOW_SECONDS


class MemorySlot:
    """See `Slot`."""

    __slots__ = ("_clock", "_counters", "_ended", "_remains")

    def __init__(self, counters: list[_Counter], remains: Remains, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._remains = remains
        self._clock = clock
        self._ended = False

    @property
    def state(self) -> RateState | None:
        """What is left of the limits."""
        return self._remains.to_state()

    def end(self, tokens: int) -> None:
        """Does what `Slot.end` says."""
        if self._ended:
            return
        self._ended = True
        now = self._clock()
        for counter in self._counters:
            counter.runs -= 1
            counter.advance(now)
            counter.tokens += tokens


class MemoryCounters:
    """The counts of one process.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counters: dict[tuple[str, str, str], _Counter] = {}
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._counters)

    def admit(self, subjects: tuple[Subject, ...]) -> MemorySlot:
        """Counts a request against all subjects, or against none.

        Raises:
            RateLimited: If a limit is used up.
        """
        now = self._clock()
        if now >= self._next_sweep:
            self._sweep(now)
        counters = [self._counter(subject, now) for subject in subjects]
        for subject, counter in zip(subjects, counters, strict=True):
            if not passes(subject, counter):
                raise refusal(subjects, counters, now)
        for counter in counters:
            counter.requests += 1
            counter.runs += 1
        return MemorySlot(counters, remains(subjects, counters, now), self._clock)

    def peek(self, subjects: tuple[Subject, ...]) -> Remains:
        """Returns what is left of the limits, and counts nothing."""
        now = self._clock()
        counted = [self._counters.get(subject[:3]) for subject in subjects]
        fresh = _Counter()
        fresh.reset = now
        return remains(subjects, [fresh if one is None or one.reset <= now else one for one in counted], now)

    def _counter(self, subject: Subject, now: float) -> _Counter:
        name = subject[:3]
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = _Counter()
        counter.advance(now)
        return counter

    def _sweep(self, now: float) -> None:
        """Forgets those that have not been heard of for a while."""
        self._next_sweep = now + WINDOW_SECONDS
        idle = [name for name, counter in self._counters.items() if counter.reset <= now and not counter.runs]
        for name in idle:
            del self._counters[name]
