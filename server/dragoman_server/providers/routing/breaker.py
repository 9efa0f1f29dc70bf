"""The circuit breaker of a target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman_server.settings import BreakerSettings


class Breaker:
    """Leaves a target alone after failures in a row, or a grave one, then lets one request through to try it.

    Closed: everything passes. Open: nothing does, until the cooldown is over. Then one request is the trial: the first
    piece of its answer closes the breaker on probation (the next failure opens it again), a good end closes it wholly.

    Every request carries the `epoch` in which it began. Opening begins a new one, and what requests of an older epoch
    tell is no longer heard: it was told already.

    Args:
        settings: How many failures open it, and for how long.

    Attributes:
        epoch: What a request that begins now carries.
        free_at: From when on a request may pass: 0 while closed, infinity while another one is the trial.
        opened: How many times it has opened.
        spotless: Whether nothing is remembered that a good end would wipe out.
    """

    __slots__ = ("_cooldown", "_failures", "_settings", "_until", "epoch", "free_at", "opened", "spotless")

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._cooldown = settings.cooldown
        self.epoch = 0
        self._failures = 0  # in a row
        self._until = 0.0  # the end of the cooldown; 0 while closed
        self.free_at = 0.0
        self.opened = 0
        self.spotless = True

    @property
    def closed(self) -> bool:
        """Whether everything passes."""
        return self.free_at == 0

    @property
    def probing(self) -> bool:
        """Whether the trial is under way."""
        return self.free_at == math.inf

    def begin(self) -> int:
        """Takes note that a request passes; returns its epoch."""
        if self.free_at:
            self.free_at = math.inf
        return self.epoch

    def answered(self, epoch: int) -> None:
        """The request got the first piece of its answer."""
        if epoch == self.epoch and self.free_at:
            self._close(self._settings.failures - 1)

    def succeeded(self, epoch: int) -> None:
        """The request ended well."""
        if epoch == self.epoch:
            self._close(0)
            self._cooldown = self._settings.cooldown
            self.spotless = True

    def failed(self, epoch: int, now: float, *, gravely: bool = False) -> None:
        """The request failed, and the target is to blame; gravely, if one such failure is enough."""
        if epoch != self.epoch:
            return
        self.spotless = False
        self._failures += 1
        if gravely or self.probing or self._failures >= self._settings.failures:
            self.epoch += 1
            self.free_at = self._until = now + self._cooldown
            self._cooldown = min(self._cooldown * 2, max(self._settings.max_cooldown, self._settings.cooldown))
            self.opened += 1

    def released(self, epoch: int) -> None:
        """The request ended in a way that says nothing of the target."""
        if epoch == self.epoch:
            self.free_at = self._until

    def _close(self, failures: int) -> None:
        self.free_at = self._until = 0.0
        self._failures = failures
