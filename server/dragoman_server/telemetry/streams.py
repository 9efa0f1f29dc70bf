"""Measures how streams flow: when the first content comes, and how long the next one lets itself be waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dragoman_server.telemetry.histogram import Bounds, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_CONTENT = Bounds((0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120))
GAPS = Bounds((0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))


class StreamTimes:
    """The times of all streams of one provider.

    Attributes:
        first_content: From the start of a run to its first content.
        gaps: From one batch of events to the next, once there is content.
    """

    __slots__ = ("first_content", "gaps")

    def __init__(self) -> None:
        self.first_content = Histogram(FIRST_CONTENT)
        self.gaps = Histogram(GAPS)


class Progress(Protocol):
    """What is known of a run while it goes on."""

    @property
    def has_content(self) -> bool:
        """Whether the model has said anything."""

    @property
    def provider(self) -> str:
        """Who serves it."""


class StreamMeter:
    """Measures one stream.

    Args:
        times_of: Returns the times of a provider.
        start: When the run was accepted, in nanoseconds since the epoch.

    Attributes:
        first_content: When the first content came, in nanoseconds since the epoch; 0 while there is none.
    """

    __slots__ = ("_gaps", "_last", "_times_of", "first_content")

    def __init__(self, times_of: Callable[[str], StreamTimes], start: int) -> None:
        self._times_of = times_of
        self._gaps: Histogram | None = None  # until there is content
        self._last = start
        self.first_content = 0

    def appended(self, now: int, progress: Progress) -> None:
        """Takes note that a batch came, and when, in nanoseconds since the epoch."""
        gaps = self._gaps
        if gaps is not None:
            gaps.observe(now - self._last)
        elif progress.has_content:
            times = self._times_of(progress.provider)
            times.first_content.observe(now - self._last)
            self._gaps = times.gaps
            self.first_content = now
        else:
            return
        self._last = now
