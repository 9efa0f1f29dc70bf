"""Attempts of a generation, played by hand on a clock of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model, ModelTarget
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import (
    ContextLengthExceeded,
    DragomanError,
    InvalidRequest,
    ProviderError,
    Unavailable,
    UnsupportedFeature,
)
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.settings import BreakerSettings, RoutingSettings, TargetSettings
from tests.support.routing import QUICK, Clock, PlayedProvider, ask, refused, route_over


def refusing(error: DragomanError) -> Any:
    def refuse(request: GenerationRequest) -> None:
        raise error

    return refuse


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_events_go_straight_to_the_sink_once_content_flows() -> None:
    one = PlayedProvider("one")
    generation, recording = ask(route_over(one))
    assert (generation.target.provider.name, generation.attempt) == ("one", 1)
    one.last.say("a")
    assert generation.on_events == recording.on_events
    one.last.say("b")
    one.last.finish()
    assert await recording.end() is None
    assert recording.text == "ab"
    assert recording.attempts == []
    assert generation.target.in_flight == 0


async def test_a_failure_before_content_goes_to_the_next_target_at_once() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    generation, recording = ask(route_over(one, two))
    one.last.fail()
    assert recording.attempts == [(2, "two", [], [])], "in the same turn"
    two.last.say("hi")
    two.last.finish()
    assert await recording.end() is None
    assert recording.text == "hi"
    assert generation.attempt == 2


async def test_usage_alone_is_no_content() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    _, recording = ask(route_over(one, two))
    one.last.report_usage(5)
    one.last.fail()
    two.last.say("hi")
    two.last.finish()
    assert await recording.end() is None


async def test_what_the_last_attempt_consumed_is_known_while_it_runs_and_after_it_failed() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    generation, recording = ask(route_over(one, two))
    assert generation.usage_so_far is None
    one.last.told = Usage(input_tokens=5)
    assert generation.usage_so_far == Usage(input_tokens=5)
    one.last.fail()
    assert generation.usage_so_far is None
    two.last.told = Usage(input_tokens=7)
    two.last.say("a")
    two.last.fail()
    assert await recording.end() is not None
    assert generation.usage_so_far == Usage(input_tokens=7)


async def test_after_content_a_failure_passes_through_unchanged() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    _, recording = ask(route_over(one, two))
    one.last.say("a")
    failure = ProviderError("broken").to_failure()
    one.last.end(failure)
    assert await recording.end() is failure
    assert two.played == []


@pytest.mark.parametrize(
    "reason",
    [
        Reason.PROVIDER_REJECTED,
        Reason.CONTEXT_LENGTH_EXCEEDED,
        Reason.CONTENT_FILTERED,
        Reason.INVALID_REQUEST,
        Reason.INTERNAL,
    ],
)
async def test_what_another_target_cannot_mend_ends_at_once(reason: Reason) -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    _, recording = ask(route_over(one, two))
    one.last.fail(reason)
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == reason
    assert two.played == []


@pytest.mark.parametrize(
    ("reason", "retryable"), [(Reason.PROVIDER_AUTH, False), (Reason.PROVIDER_RATE_LIMITED, False)]
)
async def test_what_waiting_cannot_mend_goes_elsewhere_only(reason: Reason, retryable: bool) -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    _, recording = ask(route_over(one, two))
    one.last.fail(reason, retryable=retryable)
    two.last.fail(reason, retryable=retryable)
    failure = await recording.end()
    assert failure is not None
    assert (failure.reason, failure.metadata["attempts"]) == (reason, "2")
    assert (len(one.played), len(two.played)) == (1, 1)


async def test_the_same_target_is_asked_again_after_a_wait_and_the_last_failure_tells_of_the_one_before() -> None:
    one = PlayedProvider("one")
    _, recording = ask(route_over(one))
    one.last.fail(Reason.PROVIDER_UNREACHABLE)
    assert len(one.played) == 1, "not at once"
    await until(lambda: len(one.played) == 2)
    one.last.fail(Reason.PROVIDER_TIMEOUT)
    await until(lambda: len(one.played) == 3)
    one.last.fail(Reason.PROVIDER_FAILED)
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.PROVIDER_FAILED
    assert failure.metadata["attempts"] == "3"
    assert failure.cause.reason == Reason.PROVIDER_TIMEOUT
    assert [number for number, *_ in recording.attempts] == [2, 3]


async def test_a_model_can_have_a_number_of_attempts_of_its_own() -> None:
    one = PlayedProvider("one")
    _, recording = ask(route_over(one, max_attempts=1))
    one.last.fail()
    failure = await recording.end()
    assert failure is not None
    assert "attempts" not in failure.metadata


async def test_a_short_retry_after_is_waited_for_and_a_long_one_passed_on() -> None:
    settings = RoutingSettings(backoff=0.001, max_backoff=0.2)
    one = PlayedProvider("one")
    loop = asyncio.get_running_loop()
    _, recording = ask(route_over(one, settings=settings))
    start = loop.time()
    one.last.fail(Reason.PROVIDER_RATE_LIMITED, retry_after=0.1)
    await until(lambda: len(one.played) == 2)
    assert loop.time() - start >= 0.095
    one.last.fail(Reason.PROVIDER_RATE_LIMITED, retry_after=0.3)
    failure = await recording.end()
    assert failure is not None
    assert failure.retry_after.ToMilliseconds() == 300
    assert len(one.played) == 2


async def test_a_target_that_asks_for_a_pause_is_left_alone_by_others_too() -> None:
    clock = Clock()
    one, two = PlayedProvider("one"), PlayedProvider("two")
    route = route_over(one, two, clock=clock)
    ask(route)
    one.last.fail(Reason.PROVIDER_RATE_LIMITED, retry_after=30)
    ask(route)
    assert (len(one.played), len(two.played)) == (1, 2)
    two.last.fail(Reason.PROVIDER_RATE_LIMITED, retry_after=20)
    error = refused(route)
    assert (error.reason, error.retry_after) == (Reason.PROVIDER_RATE_LIMITED, 20)
    clock.now += 21
    ask(route)
    assert len(two.played) == 3


async def test_targets_that_fail_too_often_are_left_alone_and_tried_by_one_request() -> None:
    clock = Clock()
    one = PlayedProvider("one")
    settings = RoutingSettings(max_attempts=1, breaker=BreakerSettings(failures=2, cooldown=10))
    route = route_over(one, settings=settings, clock=clock)
    for _ in range(2):
        ask(route)
        one.last.fail()
    error = refused(route)
    assert (error.reason, error.retryable, error.retry_after) == (Reason.OVERLOADED, True, 10)
    assert len(one.played) == 2
    clock.now += 10
    ask(route)
    assert len(one.played) == 3
    assert refused(route).retry_after == 1, "another request is the trial"
    one.last.say("a")
    ask(route)
    assert len(one.played) == 4, "it answered"


async def test_a_target_that_refuses_the_key_is_left_alone_at_once_and_tried_later() -> None:
    clock = Clock()
    one, two = PlayedProvider("one"), PlayedProvider("two")
    route = route_over(one, two, clock=clock)
    ask(route)
    one.last.fail(Reason.PROVIDER_AUTH, retryable=False, metadata={"status": "401"})
    ask(route)
    assert (len(one.played), len(two.played)) == (1, 2)
    entry = Model()
    route.describe(entry)
    faults = [(target.health, target.fault) for target in entry.targets]
    assert faults == [(ModelTarget.HEALTH_DOWN, Reason.PROVIDER_AUTH), (ModelTarget.HEALTH_UP, "")]
    clock.now += QUICK.breaker.cooldown
    ask(route)
    assert len(one.played) == 2, "the key may have been mended"
    one.last.finish()
    ask(route)
    assert len(one.played) == 3


async def test_the_answer_says_that_all_targets_refuse_the_key() -> None:
    clock = Clock()
    one, two = PlayedProvider("one"), PlayedProvider("two")
    route = route_over(one, two, clock=clock)
    ask(route)
    for provider in (one, two):
        provider.last.fail(Reason.PROVIDER_AUTH, retryable=False)
    error = refused(route)
    assert (error.reason, error.retryable) == (Reason.PROVIDER_AUTH, False)
    assert error.retry_after == pytest.approx(QUICK.breaker.cooldown)
    clock.now += QUICK.breaker.cooldown
    ask(route)
    one.last.fail(Reason.PROVIDER_UNREACHABLE)
    two.last.fail(Reason.PROVIDER_AUTH, retryable=False)
    assert refused(route).reason == Reason.OVERLOADED, "one of them may be back before anybody mends the key"


@pytest.mark.parametrize("status", ["403", "PERMISSION_DENIED"])
async def test_what_may_be_about_the_request_is_a_fault_among_others(status: str) -> None:
    one = PlayedProvider("one")
    route = route_over(one)
    ask(route)
    one.last.finish()
    for _ in range(QUICK.breaker.failures):
        assert route.target.breaker.closed
        ask(route)
        one.last.fail(Reason.PROVIDER_AUTH, retryable=False, metadata={"status": status})
    assert not route.target.breaker.closed


async def test_a_spent_quota_counts_and_a_rate_does_not() -> None:
    one = PlayedProvider("one")
    route = route_over(one, max_attempts=1)
    for retryable in (True, False):
        assert route.target.breaker.closed
        for _ in range(QUICK.breaker.failures):
            ask(route)
            one.last.fail(Reason.PROVIDER_RATE_LIMITED, retryable=retryable)
    error = refused(route)
    assert (error.reason, error.retryable) == (Reason.PROVIDER_RATE_LIMITED, False)


async def test_a_cancelled_attempt_says_nothing_of_the_target() -> None:
    one = PlayedProvider("one")
    route = route_over(one)
    for _ in range(10):
        generation, recording = ask(route)
        generation.cancel()
        failure = await recording.end()
        assert failure is not None
        assert failure.reason == Reason.CANCELLED
    assert generation.target.breaker.closed
    assert generation.target.in_flight == 0
    assert generation.target.tally.failures == {}


async def test_a_failure_in_the_middle_counts_against_the_target() -> None:
    one = PlayedProvider("one")
    route = route_over(one)
    for _ in range(QUICK.breaker.failures):
        _, recording = ask(route)
        one.last.say("a")
        one.last.fail(Reason.PROVIDER_PROTOCOL)
        await recording.end()
    assert refused(route).reason == Reason.OVERLOADED


async def test_orders_are_ranks() -> None:
    clock = Clock()
    first, second, third = (PlayedProvider(name) for name in ("first", "second", "third"))
    targets = (
        TargetSettings(provider="third", upstream_model="m", order=2),
        TargetSettings(provider="first", upstream_model="m", order=0),
        TargetSettings(provider="second", upstream_model="m", order=1),
    )
    _, recording = ask(route_over(first, second, third, targets=targets, strategy="weighted", clock=clock))
    first.last.fail()
    second.last.fail()
    third.last.say("hi")
    third.last.finish()
    assert await recording.end() is None
    assert [name for _, name, *_ in recording.attempts] == ["second", "third"]


async def test_the_targets_of_one_table_are_shared() -> None:
    one = PlayedProvider("one")
    twice = (TargetSettings(provider="one", upstream_model="m"), TargetSettings(provider="one", upstream_model="m"))
    route = route_over(one, targets=twice)
    assert route.options[0].target is route.options[1].target


async def test_a_preferred_target_comes_first_even_while_it_is_tried() -> None:
    clock = Clock()
    one, two = PlayedProvider("one"), PlayedProvider("two")
    route = route_over(one, two, settings=RoutingSettings(breaker=BreakerSettings(failures=1)), clock=clock)
    ask(route)
    one.last.fail()
    clock.now += 10
    generation, _ = ask(route)
    assert generation.target.provider.name == "one"
    another, _ = ask(route, prefer=generation.target)
    assert another.target is generation.target


# Refusals before the call


async def test_a_refusal_reaches_the_caller_at_once_when_nobody_else_can() -> None:
    error = InvalidRequest("no", field="messages")
    one, two = PlayedProvider("one", refusing(error)), PlayedProvider("two")
    assert refused(route_over(one, two)) is error
    assert two.played == []


async def test_a_target_that_lacks_a_feature_or_has_no_room_leaves_it_to_the_next() -> None:
    for error in (UnsupportedFeature("no tools", field="tools"), Unavailable("full")):
        one, two = PlayedProvider("one", refusing(error)), PlayedProvider("two")
        route = route_over(one, two)
        generation, _ = ask(route)
        assert (generation.target.provider.name, generation.attempt) == ("two", 1)
        assert [option.target.in_flight for option in route.options] == [0, 1]


async def test_the_first_refusal_of_a_feature_is_the_answer() -> None:
    first, second = UnsupportedFeature("first", field="tools"), UnsupportedFeature("second", field="tools")
    assert refused(route_over(PlayedProvider("one", refusing(first)), PlayedProvider("two", refusing(second)))) is first


async def test_a_refusal_elsewhere_does_not_hide_why_the_first_target_failed() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two", refusing(UnsupportedFeature("no", field="tools")))
    _, recording = ask(route_over(one, two, max_attempts=2))
    one.last.fail()
    await until(lambda: len(one.played) == 2)
    one.last.fail(Reason.PROVIDER_TIMEOUT)
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.PROVIDER_TIMEOUT


async def test_a_refusal_of_the_next_target_that_is_final_ends_the_answer() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two", refusing(ContextLengthExceeded("too long")))
    _, recording = ask(route_over(one, two))
    one.last.fail()
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.CONTEXT_LENGTH_EXCEEDED
    assert failure.cause.reason == Reason.PROVIDER_UNREACHABLE


async def test_a_fault_of_a_provider_reaches_the_caller_or_ends_the_answer() -> None:
    def crash(request: GenerationRequest) -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError):
        ask(route_over(PlayedProvider("one", crash)))
    one, two = PlayedProvider("one"), PlayedProvider("two", crash)
    _, recording = ask(route_over(one, two))
    one.last.fail()
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.INTERNAL


# Time and reins


async def test_cancelling_while_backing_off_ends_at_once_and_asks_nobody() -> None:
    one = PlayedProvider("one")
    generation, recording = ask(route_over(one, settings=RoutingSettings(backoff=5, max_backoff=5)))
    one.last.fail(retry_after=4)
    generation.cancel()
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.CANCELLED
    assert len(one.played) == 1


async def test_a_pause_holds_for_the_next_attempt() -> None:
    one, two = PlayedProvider("one"), PlayedProvider("two")
    generation, _ = ask(route_over(one, two))
    generation.pause()
    one.last.fail()
    assert two.last.paused
    generation.resume()
    assert not two.last.paused


async def test_the_time_of_all_attempts_together_is_bounded() -> None:
    one = PlayedProvider("one")
    generation, recording = ask(route_over(one, settings=RoutingSettings(total_timeout=0.05)))
    one.last.say("a")
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.PROVIDER_TIMEOUT
    assert one.last.cancelled == 1
    assert generation.target.in_flight == 0
    assert generation.target.breaker.closed


async def test_the_time_is_bounded_while_backing_off_too() -> None:
    one = PlayedProvider("one")
    settings = RoutingSettings(total_timeout=0.05, backoff=5, max_backoff=5)
    _, recording = ask(route_over(one, settings=settings))
    one.last.fail(retry_after=4)
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.PROVIDER_TIMEOUT
    assert len(one.played) == 1
