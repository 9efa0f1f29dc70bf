"""A target: one model of one provider, with all that is known of how it fares."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import ModelTarget
from dragoman_server.errors import Unavailable
from dragoman_server.providers.routing.breaker import Breaker
from dragoman_server.providers.routing.deadlines import Deadlines
from dragoman_server.providers.routing.tally import Tally
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.failure_pb2 import Failure
    from dragoman_server.providers.base import Provider
    from dragoman_server.settings import BreakerSettings

logger = get_logger(__name__)

FAULTS = frozenset(
    {Reason.PROVIDER_UNREACHABLE, Reason.PROVIDER_TIMEOUT, Reason.PROVIDER_PROTOCOL, Reason.PROVIDER_AUTH}
)
"""Failures that are always the target's fault. PROVIDER_FAILED is, if trying again may help; PROVIDER_RATE_LIMITED is,
if it does not: the quota is spent."""

FORBIDDEN = frozenset({"403", "PERMISSION_DENIED"})
"""Statuses, of HTTP and of gRPC, that need not be about the key."""

LATENCY_WEIGHT = 0.2
"""Weight of the newest measurement in the smoothed latency."""
LATENCY_MEMORY = 60.0
"""Seconds after which the latency of a target that nobody asks is forgotten, so that it is measured again."""

_Health = ModelTarget.Health


class Bounds(NamedTuple):
    """How much a target takes.

    Attributes:
        concurrency: Most requests at a time; 0 means no bound.
        queue: Most requests that wait.
        queue_timeout: How long a request may wait, in seconds.
    """

    concurrency: int = 0
    queue: int = 100
    queue_timeout: float = 30.0


class Waiter(Protocol):
    """A request that waits in the queue of a target."""

    def admitted(self) -> None:
        """It has a place now, and must `leave` it."""

    def waited_too_long(self) -> None:
        """It is out of the queue without a place."""


class Target:
    """One model of one provider. Whatever models route to it share it.

    Args:
        provider: Who serves it.
        upstream_model: The provider's own name of the model.
        breaker: When it is left alone.
        bounds: How much it takes.
        clock: Seconds that never go back.
        tally: Where its requests are counted, if it has no counts of its own.

    Attributes:
        in_flight: Requests that have a place on it now.
        tally: Counts of its requests.
        latency: Smoothed seconds to the first piece of an answer, or None before the first.
        fault: Reason of the failure for which it was last shut off; empty before the first.
    """

    __slots__ = (
        "_asked_at",
        "_bounds",
        "_clock",
        "_cool_at",
        "_cooling_bound",
        "_queue",
        "breaker",
        "fault",
        "in_flight",
        "latency",
        "provider",
        "tally",
        "upstream_model",
    )

    def __init__(
        self,
        provider: Provider,
        upstream_model: str,
        breaker: BreakerSettings,
        bounds: Bounds,
        clock: Callable[[], float],
        tally: Tally | None = None,
    ) -> None:
        self.provider = provider
        self.upstream_model = upstream_model
        self.breaker = Breaker(breaker)
        self.tally = tally or Tally()
        self.in_flight = 0
        self.latency: float | None = None
        self.fault = ""
        self._asked_at = 0.0
        self._bounds = bounds
        self._clock = clock
        self._cool_at = 0.0
        self._cooling_bound = breaker.max_cooldown
        self._queue: Deadlines[Waiter] | None = None  # where there is no bound, nobody waits
        if bounds.concurrency:
            self._queue = Deadlines(bounds.queue_timeout, self._give_up_on, clock)

    def __repr__(self) -> str:
        return f"<{self.provider.name}/{self.upstream_model}>"

    @property
    def queued(self) -> int:
        """Requests that wait for it now."""
        return len(self._queue) if self._queue is not None else 0

    @property
    def health(self) -> ModelTarget.Health:
        """How it fares."""
        if not self.provider.ready:
            return _Health.HEALTH_LOADING
        if self.breaker.closed:
            return _Health.HEALTH_UP
        return _Health.HEALTH_PROBING if self.breaker.probing else _Health.HEALTH_DOWN

    def may_serve(self, now: float) -> bool:
        """Returns whether it is ready and not shut off."""
        return self.provider.ready and self.breaker.free_at <= now

    def describe(self, weight: int, order: int) -> ModelTarget:
        """Returns its entry in the catalogue, given its weight and order in a model."""
        return ModelTarget(
            provider=self.provider.name,
            upstream_model=self.upstream_model,
            weight=weight,
            order=order,
            health=self.health,
            in_flight=self.in_flight,
            queued=self.queued,
            latency_ms=round((self.latency or 0.0) * 1000),
            fault="" if self.breaker.closed else self.fault,
        )

    def free_at(self) -> float:
        """Returns the time from when on it may be asked: in the past if it is neither shut off nor cooling."""
        return max(self.breaker.free_at, self._cool_at)

    def expected_latency(self, now: float) -> float:
        """Returns how long its first piece is likely to take; 0 if that should be found out."""
        if self.latency is None or (self.in_flight == 0 and now - self._asked_at > LATENCY_MEMORY):
            return 0.0
        return self.latency

    # Places

    def enter(self, waiter: Waiter) -> bool:
        """Takes a place. Returns false if there is none free: the waiter is then in the queue, and hears later.

        Raises:
            Unavailable: If the queue is full.
        """
        bounds, queue = self._bounds, self._queue
        if queue is None or (self.in_flight < bounds.concurrency and not queue):
            self.in_flight += 1
            return True
        if len(queue) >= bounds.queue:
            self.tally.turned_away += 1
            raise self.full("has as many requests as it can take, and its queue is full")
        queue.add(waiter, self._clock())
        return False

    def take_place(self, now: float) -> bool:
        """Takes a place if there is no bound, and it is neither shut off nor cooling; the short form of `enter`."""
        if self._queue is None and self.breaker.free_at <= now and self._cool_at <= now:
            self.in_flight += 1
            return True
        return False

    def withdraw(self, waiter: Waiter) -> None:
        """Takes a waiter out of the queue, if it is there."""
        if self._queue is not None:
            self._queue.discard(waiter)

    def leave(self) -> None:
        """Gives a place back; whoever has waited the longest gets it, on the loop's next turn."""
        self.in_flight -= 1
        if self._queue and self.in_flight < self._bounds.concurrency:
            self.in_flight += 1
            asyncio.get_running_loop().call_soon(self._queue.pop().admitted)

    def full(self, what: str) -> Unavailable:
        """Returns the refusal of a request for which there is no place."""
        name = self.provider.name
        return Unavailable(f"provider {name} {what}; try again", metadata={"provider": name}, retry_after=1)

    def _give_up_on(self, waiter: Waiter) -> None:
        self.tally.turned_away += 1
        waiter.waited_too_long()

    # Attempts

    def begin(self, now: float, *, again: bool) -> int:
        """Takes note that it is asked; returns the epoch, to be given back with the outcome.

        Args:
            now: The time.
            again: Whether the request was tried before, here or elsewhere.
        """
        tally = self.tally
        tally.attempts += 1
        tally.retries += again
        self._asked_at = now
        breaker = self.breaker
        return breaker.begin() if breaker.free_at else breaker.epoch

    def answered(self, epoch: int, seconds: float) -> None:
        """It gave the first piece of an answer, so long after it was asked."""
        latency = self.latency
        self.latency = seconds if latency is None else latency + LATENCY_WEIGHT * (seconds - latency)
        if self.breaker.free_at:
            self.breaker.answered(epoch)
            if self.breaker.closed:
                logger.info("a target serves again", provider=self.provider.name, model=self.upstream_model)

    def ended(self, epoch: int, failure: Failure | None) -> None:
        """A request that it was asked has ended; its place is free."""
        self.tally.ended += 1
        if failure is None:
            if not self.breaker.spotless:
                self.breaker.succeeded(epoch)
        elif failure.reason == Reason.CANCELLED:
            self.breaker.released(epoch)
        else:
            self._failed(epoch, failure)
        if self._queue is None:
            self.in_flight -= 1
        else:
            self.leave()

    def served(self, epoch: int, seconds: float) -> None:
        """It gave a whole answer, so long after it was asked: `answered` and `ended` in one."""
        latency = self.latency
        if latency is None or self._queue is not None or not self.breaker.spotless:
            self.answered(epoch, seconds)
            self.ended(epoch, None)
            return
        self.latency = latency + LATENCY_WEIGHT * (seconds - latency)
        self.tally.ended += 1
        self.in_flight -= 1

    def _failed(self, epoch: int, failure: Failure) -> None:
        reason, now, failures = failure.reason, self._clock(), self.tally.failures
        failures[reason] = failures.get(reason, 0) + 1
        if (
            reason in FAULTS
            or (reason == Reason.PROVIDER_FAILED and failure.retryable)
            or (reason == Reason.PROVIDER_RATE_LIMITED and not failure.retryable)
        ):
            opened = self.breaker.opened
            self.breaker.failed(epoch, now, gravely=reason == Reason.PROVIDER_AUTH and self._refuses_the_key(failure))
            if self.breaker.opened > opened:
                self.fault = reason
                logger.warning(
                    "a target is left alone for a while",
                    provider=self.provider.name,
                    model=self.upstream_model,
                    reason=reason,
                    seconds=round(self.breaker.free_at - now, 3),
                )
            return
        self.breaker.released(epoch)
        if reason == Reason.PROVIDER_RATE_LIMITED and failure.HasField("retry_after"):
            wait = min(failure.retry_after.ToNanoseconds() / 1e9, self._cooling_bound)
            self._cool_at = max(self._cool_at, now + wait)

    def _refuses_the_key(self, failure: Failure) -> bool:
        """Whether a refusal means every request: some servers also answer so to what one of them says."""
        return self.latency is None or failure.metadata.get("status") not in FORBIDDEN
