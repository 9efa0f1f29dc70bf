"""What is counted of the requests to targets, for metrics."""

from __future__ import annotations


class Tally:
    """Counts of one target, or of all that have none to themselves.

    Attributes:
        attempts: Requests that it was asked.
        retries: Those of them that were not the first attempt of their request.
        ended: Those of them that have ended.
        failures: Those of them that failed, by reason.
        turned_away: Requests that found its queue full or waited there too long.
    """

    __slots__ = ("attempts", "ended", "failures", "retries", "turned_away")

    def __init__(self) -> None:
        self.attempts = 0
        self.retries = 0
        self.ended = 0
        self.failures: dict[str, int] = {}
        self.turned_away = 0

    @property
    def in_flight(self) -> int:
        """Requests that are being served now."""
        return self.attempts - self.ended
