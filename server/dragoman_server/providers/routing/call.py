"""Routing of what is one awaited call, for example embeddings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from dragoman.reasons import Reason
from dragoman.v1.failure_pb2 import Failure
from dragoman_server.errors import DragomanError, ProviderError, Unavailable, UnsupportedFeature
from dragoman_server.providers.routing.attempts import Attempts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman_server.providers.routing.route import Route
    from dragoman_server.providers.routing.target import Target

T = TypeVar("T")

_CANCELLED = Failure(reason=Reason.CANCELLED)


async def call(route: Route, function: Callable[[Target], Awaitable[T]], check: Callable[[Target], None]) -> T:
    """Returns what a function of a target returns, tried as `Route.call` says."""
    attempts = Attempts(route)
    try:
        async with asyncio.timeout(route.settings.total_timeout) as limit:
            return await _tried(route, attempts, function, check)
    except TimeoutError:
        if limit.expired():
            raise attempts.overdue() from None
        raise


async def _tried(
    route: Route, attempts: Attempts, function: Callable[[Target], Awaitable[T]], check: Callable[[Target], None]
) -> T:
    while True:
        now = route.clock()
        target = attempts.pick(now)
        if target is None:
            delay = attempts.delay(now)
            if delay is None:
                raise attempts.error(now)
            await asyncio.sleep(delay)
            continue
        try:
            check(target)
            await _place_on(target)
        except (Unavailable, UnsupportedFeature) as error:
            attempts.refused(target, error)
            continue
        if target.free_at() > route.clock():  # shut off while it was waited for
            target.leave()
            attempts.skip(target)
            continue
        try:
            return await _asked(route, attempts, target, function)
        except DragomanError as error:
            attempts.failed(target, error.to_failure(), route.clock(), error)


async def _asked(route: Route, attempts: Attempts, target: Target, function: Callable[[Target], Awaitable[T]]) -> T:
    """Calls the function and tells the target how it went."""
    start = route.clock()
    epoch = target.begin(start, again=attempts.count > 0)
    attempts.count += 1
    outcome: Failure | None = _CANCELLED
    try:
        result = await function(target)
        outcome = None
        target.answered(epoch, route.clock() - start)
        return result
    except ProviderError as error:  # any other failure says nothing of the target
        outcome = error.to_failure()
        raise
    finally:
        target.ended(epoch, outcome)


class _Turn:
    """A task in the queue of a target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.given: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def admitted(self) -> None:
        if self.given.done():  # the task has gone since
            self._target.leave()
        else:
            self.given.set_result(True)

    def waited_too_long(self) -> None:
        if not self.given.done():
            self.given.set_result(False)


async def _place_on(target: Target) -> None:
    """Waits for a place, which the caller must `leave`.

    Raises:
        Unavailable: If the queue is full, or no place became free in time.
    """
    turn = _Turn(target)
    if target.enter(turn):
        return
    try:
        admitted = await turn.given
    except asyncio.CancelledError:
        target.withdraw(turn)
        if not turn.given.cancelled() and turn.given.result():
            target.leave()  # it came in the same turn as the cancellation
        raise
    if not admitted:
        raise target.full("had no room for the request in time")
