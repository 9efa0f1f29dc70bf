from __future__ import annotations

import asyncio

import pytest

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest, ProviderError, Unavailable
from dragoman_server.providers.routing.route import Route
from dragoman_server.providers.routing.target import Target
from dragoman_server.settings import BreakerSettings, RoutingSettings
from tests.support.routing import Clock, PlayedProvider, route_over


class Calls:
    """A function of a target that fails with the given errors, then says who was asked."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.names: list[str] = []

    async def __call__(self, target: Target) -> str:
        self.names.append(target.provider.name)
        if self.errors:
            raise self.errors.pop(0)
        return target.provider.name


def unreachable() -> ProviderError:
    return ProviderError("no", reason=Reason.PROVIDER_UNREACHABLE)


def in_flight(route: Route) -> list[int]:
    return [option.target.in_flight for option in route.options]


async def test_the_next_target_is_asked_at_once_and_the_first_again_after_a_wait() -> None:
    route = route_over(PlayedProvider("one"), PlayedProvider("two"))
    calls = Calls(unreachable(), unreachable())
    assert await route.call(calls) == "one"
    assert calls.names == ["one", "two", "one"]
    assert in_flight(route) == [0, 0]


async def test_the_last_error_is_raised_and_tells_of_the_attempts() -> None:
    route = route_over(PlayedProvider("one"))
    last = ProviderError("the last")
    with pytest.raises(ProviderError) as caught:
        await route.call(Calls(unreachable(), unreachable(), last))
    assert caught.value is last
    assert last.metadata["attempts"] == "3"


async def test_a_mistake_of_the_client_ends_at_once() -> None:
    route = route_over(PlayedProvider("one"), PlayedProvider("two"))
    error = InvalidRequest("no")
    calls = Calls(error)
    with pytest.raises(InvalidRequest) as caught:
        await route.call(calls)
    assert caught.value is error
    assert calls.names == ["one"]


async def test_the_breaker_and_a_fault_of_this_server_are_honest() -> None:
    settings = RoutingSettings(max_attempts=1, breaker=BreakerSettings(failures=1))
    route = route_over(PlayedProvider("one"), settings=settings, clock=Clock())
    with pytest.raises(RuntimeError):
        await route.call(Calls(RuntimeError("a fault")))
    with pytest.raises(ProviderError):
        await route.call(Calls(unreachable()))
    with pytest.raises(Unavailable) as caught:
        await route.call(Calls())
    assert caught.value.retry_after == 10
    assert in_flight(route) == [0]


async def test_places_are_given_in_turn_and_given_back_by_who_goes() -> None:
    route = route_over(PlayedProvider("one"), bounds={"max_concurrency": 1, "max_queue": 2})
    gate, names = asyncio.Event(), list[str]()

    async def wait(target: Target) -> None:
        names.append(asyncio.current_task().get_name())  # type: ignore[union-attr] # there is one
        await gate.wait()

    tasks = [asyncio.create_task(route.call(wait), name=name) for name in ("first", "second", "third")]
    await asyncio.sleep(0.01)
    target = route.target
    assert (target.in_flight, target.queued, names) == (1, 2, ["first"])
    with pytest.raises(Unavailable):
        await route.call(wait)
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert names == ["first", "third"]
    gate.set()
    await tasks[2]
    assert (target.in_flight, target.queued) == (0, 0)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_place_that_comes_with_the_cancellation_is_given_back() -> None:
    route = route_over(PlayedProvider("one"), bounds={"max_concurrency": 1})
    target = route.target
    assert target.enter(None)  # type: ignore[arg-type] # it need not wait
    task = asyncio.create_task(route.call(Calls()))
    await asyncio.sleep(0)
    assert target.queued == 1
    target.leave()
    await asyncio.sleep(0)  # the place is given, the task has not run yet
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (target.in_flight, target.queued) == (0, 0)


async def test_waiting_too_long_and_the_time_of_everything() -> None:
    bounds = {"max_concurrency": 1, "queue_timeout": 0.02}
    route = route_over(PlayedProvider("one"), bounds=bounds, settings=RoutingSettings(total_timeout=0.2))
    task = asyncio.create_task(route.call(lambda target: asyncio.sleep(60)))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="in time"):
        await route.call(Calls())
    with pytest.raises(ProviderError) as caught:
        await task
    assert caught.value.reason == Reason.PROVIDER_TIMEOUT
    assert in_flight(route) == [0]
