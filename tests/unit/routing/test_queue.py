from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman_server.settings import BreakerSettings, RoutingSettings
from tests.support.routing import Clock, PlayedProvider, ask, refused, route_over

ONE: dict[str, Any] = {"max_concurrency": 1, "max_queue": 2}


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_came_first_is_served_first() -> None:
    one = PlayedProvider("one")
    route = route_over(one, bounds=ONE)
    generations = [ask(route, name)[0] for name in ("first", "second", "third")]
    target = generations[0].target
    assert (target.in_flight, target.queued, len(one.played)) == (1, 2, 1)
    for count, name in enumerate(("first", "second", "third"), 1):
        assert len(one.played) == count
        assert one.last.request.spec.messages[0].parts[0].text.text == name
        one.last.finish()
        await turns()
    assert (target.in_flight, target.queued) == (0, 0)


async def test_the_same_target_without_changes_is_not_announced_again() -> None:
    one = PlayedProvider("one")
    route = route_over(one, bounds=ONE)
    ask(route)
    waiting, recording = ask(route)
    assert (waiting.attempt, waiting.target.provider.name) == (1, "one")
    one.last.finish()
    await turns()
    assert len(one.played) == 2
    assert recording.attempts == []
    one.last.finish()
    assert await recording.end() is None


async def test_a_full_queue_leads_to_the_next_target_or_to_a_clear_refusal() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    route = route_over(one, two, bounds=ONE)
    generations = [ask(route)[0] for _ in range(6)]
    assert [generation.target.provider.name for generation in generations] == ["one"] * 3 + ["two"] * 3
    error = refused(route)
    assert (error.reason, error.retryable, error.retry_after) == (Reason.OVERLOADED, True, 1)
    assert generations[0].target.tally.turned_away == 4


async def test_waiting_too_long_leads_to_the_next_target() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    route = route_over(one, two, bounds={**ONE, "queue_timeout": 0.03})
    ask(route)
    _, recording = ask(route)
    async with asyncio.timeout(10):
        while not two.played:
            await asyncio.sleep(0.001)
    assert recording.attempts == [(1, "two", [], [])]
    two.last.finish()
    assert await recording.end() is None


async def test_waiting_too_long_with_nowhere_else_to_go_fails_clearly() -> None:
    one = PlayedProvider("one")
    route = route_over(one, bounds={**ONE, "queue_timeout": 0.03})
    ask(route)
    _, recording = ask(route)
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.OVERLOADED
    assert failure.retryable
    assert len(one.played) == 1


@pytest.mark.parametrize("in_the_last_moment", [False, True])
async def test_cancelling_while_waiting_reaches_nobody(in_the_last_moment: bool) -> None:
    one = PlayedProvider("one")
    route = route_over(one, bounds=ONE)
    ask(route)
    waiting, recording = ask(route)
    _, last = ask(route)
    if in_the_last_moment:
        one.last.finish()  # the place is given on the next turn of the loop
    waiting.cancel()
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.CANCELLED
    if not in_the_last_moment:
        one.last.finish()
    await turns()
    assert len(one.played) == 2, "the one behind it has the place"
    one.last.finish()
    assert await last.end() is None
    assert (waiting.target.in_flight, waiting.target.queued) == (0, 0)


async def test_a_target_that_is_shut_off_meanwhile_is_not_asked() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    settings = RoutingSettings(max_attempts=1, breaker=BreakerSettings(failures=1))
    route = route_over(one, two, bounds=ONE, settings=settings, clock=Clock())
    ask(route)
    _, recording = ask(route)
    one.last.fail()
    await turns()
    assert len(one.played) == 1
    assert recording.attempts == [(1, "two", [], [])]
    two.last.finish()
    assert await recording.end() is None


async def test_a_place_is_kept_until_a_cancelled_attempt_has_really_ended() -> None:
    one = PlayedProvider("one")
    route = route_over(one, bounds=ONE, settings=RoutingSettings(total_timeout=0.05))
    generation, recording = ask(route)
    one.last.cancel = lambda: None  # type: ignore[method-assign] # it takes its time
    await recording.end()
    assert generation.target.in_flight == 1
    one.last.fail(Reason.CANCELLED, retryable=False)
    assert generation.target.in_flight == 0
    assert len(recording.ends) == 1
