"""The counts that processes share: the same rules as in memory, on a real Redis or Valkey."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from dragoman_server.caller import Caller
from dragoman_server.errors import RateLimited
from dragoman_server.ratelimits import shared
from dragoman_server.ratelimits.service import RateLimits, Slot
from dragoman_server.settings import RateLimitSettings, RateSettings
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["redis_server"]

CALLER = Caller("acc", "key_a", user_id="user_a")


@pytest.fixture
async def make(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., RateLimits]]:
    """Makes the limits of a process; all that were made share one server, and wait for it if the machine is busy."""
    monkeypatch.setattr(shared, "TIMEOUT_SECONDS", PATIENCE)
    made = []

    def limits(registry: CollectorRegistry | None = None, **rates: RateSettings) -> RateLimits:
        settings = RateLimitSettings.model_validate({"storage": redis_server.url, **rates})
        made.append(RateLimits(settings, registry=registry))
        return made[-1]

    yield limits
    for each in made:
        await each.stop()


async def admit(limits: RateLimits, caller: Caller = CALLER) -> Slot:
    waiting = limits.admit(caller)
    assert asyncio.iscoroutine(waiting)
    slot: Slot = await waiting
    return slot


async def eventually(limits: RateLimits, *, admitted: bool) -> RateLimited | None:
    """Waits until what other runs left behind has been counted."""
    for _ in range(200):
        try:
            slot = await admit(limits)
        except RateLimited as error:
            if not admitted:
                return error
        else:
            slot.end(0)
            if admitted:
                return None
        await asyncio.sleep(0.02)
    raise AssertionError("nothing changed")


async def test_asking_what_is_left_counts_nothing(make: Callable[..., RateLimits]) -> None:
    rates = RateSettings(requests_per_minute=3, tokens_per_minute=100)
    one, two = make(key=rates), make(key=rates)
    state = await two.state_of(CALLER)
    assert state is not None
    assert (state.requests_remaining, state.tokens_remaining) == (3, 100)
    await admit(one)
    for _ in range(3):
        state = await two.state_of(CALLER)
        assert state is not None
        assert (state.request_limit, state.requests_remaining) == (3, 2)
        assert 0 < state.requests_reset_time.ToSeconds() - time.time() <= 60
    assert await make().state_of(CALLER) is None


async def test_without_the_storage_what_is_left_is_that_of_the_process(make: Callable[..., RateLimits]) -> None:
    limits = RateLimits(
        RateLimitSettings.model_validate(
            {"storage": "redis://127.0.0.1:1/0", "key": RateSettings(requests_per_minute=3)}
        )
    )
    for _ in range(2):
        state = await limits.state_of(CALLER)
        assert state is not None
        assert state.requests_remaining == 3
    await limits.stop()


async def test_requests_of_all_processes_count_together(make: Callable[..., RateLimits]) -> None:
    rates = RateSettings(requests_per_minute=3)
    one, two = make(key=rates), make(key=rates)
    states = [(await admit(limits)).state for limits in (one, two, one)]
    assert [state.requests_remaining for state in states if state is not None] == [2, 1, 0]
    for limits in (one, two):
        with pytest.raises(RateLimited) as refused:
            await admit(limits)
        metadata = refused.value.metadata
        assert (metadata["scope"], metadata["limit_name"], metadata["limit"]) == ("key", "requests_per_minute", "3")
        assert 0 < float(metadata["reset_seconds"]) <= 60
        assert refused.value.retry_after == pytest.approx(float(metadata["reset_seconds"]), abs=0.001)
    await admit(one, Caller("acc", "key_b"))
    await admit(one, Caller("other", "key_a"))


async def test_a_race_lets_exactly_the_limit_pass(make: Callable[..., RateLimits]) -> None:
    rates = RateSettings(requests_per_minute=20)
    processes = [make(account=rates) for _ in range(4)]
    results = await asyncio.gather(
        *(admit(processes[i % 4], Caller("acc", f"key_{i}")) for i in range(60)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 20
    assert sum(isinstance(result, RateLimited) for result in results) == 40


async def test_a_refused_request_counts_nowhere(make: Callable[..., RateLimits]) -> None:
    one = RateSettings(requests_per_minute=1)
    limits = make(user=one, account=RateSettings(requests_per_minute=5))
    await admit(limits)
    for _ in range(6):
        with pytest.raises(RateLimited) as refused:
            await admit(limits)
        assert refused.value.metadata["scope"] == "user"
    slot = await admit(limits, Caller("acc", "key_b", user_id="user_b"))
    assert slot.state is not None
    await admit(limits, Caller("acc", "key_c"))


async def test_tokens_count_when_runs_end(make: Callable[..., RateLimits]) -> None:
    rates = RateSettings(tokens_per_minute=100)
    one, two = make(key=rates), make(key=rates)
    await one.start()
    slot = await admit(one)
    assert slot.state is not None
    assert (slot.state.token_limit, slot.state.tokens_remaining) == (100, 100)
    slot.end(150)
    slot.end(150)
    error = await eventually(two, admitted=False)
    assert error is not None
    assert error.metadata["tokens_remaining"] == "0"


async def test_runs_count_until_they_end(make: Callable[..., RateLimits]) -> None:
    rates = RateSettings(concurrent_runs=2)
    one, two = make(account=rates), make(account=rates)
    await one.start()
    first, _second = await admit(one), await admit(two)
    for limits in (one, two):
        with pytest.raises(RateLimited) as refused:
            await admit(limits)
        assert refused.value.metadata["limit_name"] == "concurrent_runs"
    first.end(10)
    assert await eventually(two, admitted=True) is None


async def test_what_a_dead_process_held_comes_free_and_what_a_living_one_holds_does_not(
    make: Callable[..., RateLimits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(shared, "RENEW_SECONDS", 0.1)
    rates = RateSettings(concurrent_runs=1)
    living, dead = make(key=rates), make(key=rates)
    await living.start()
    await admit(living)
    await admit(dead, Caller("acc", "key_b"))  # its process does not renew: it was never started
    await asyncio.sleep(2.5)
    await admit(dead, Caller("acc", "key_b"))
    with pytest.raises(RateLimited):
        await admit(dead)


async def test_without_the_storage_each_process_counts_alone_until_it_is_back(
    make: Callable[..., RateLimits], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "RETRY_SECONDS", 0.2)
    registry = CollectorRegistry()
    rates = RateSettings(requests_per_minute=2, concurrent_runs=9)
    one, two = make(registry, key=rates), make(key=rates)
    await one.start()
    before = await admit(one)
    redis_server.stop()
    before.end(5)
    for limits in (one, two):
        await admit(limits)
        await admit(limits)
        with pytest.raises(RateLimited):
            await admit(limits)
    failures = registry.get_sample_value("dragoman_rate_limit_storage_failures_total")
    assert failures is not None
    assert failures >= 1
    redis_server.start()
    await asyncio.sleep(0.3)
    slot = await admit(one)
    assert slot.state is not None
    assert slot.state.requests_remaining == 1


async def test_a_hanging_storage_delays_one_request_only(
    make: Callable[..., RateLimits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "TIMEOUT_SECONDS", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    port = silent.getsockname()[1]
    settings = RateLimitSettings.model_validate(
        {"storage": f"redis://127.0.0.1:{port}/0", "key": RateSettings(requests_per_minute=9)}
    )
    limits = RateLimits(settings)
    loop = asyncio.get_running_loop()
    await admit(limits)
    began = loop.time()
    for _ in range(5):
        await admit(limits)
    assert loop.time() - began < shared.RETRY_SECONDS
    await limits.stop()
    silent.close()


async def test_a_caller_that_leaves_while_it_is_admitted_leaves_no_place_taken(make: Callable[..., RateLimits]) -> None:
    limits = make(key=RateSettings(concurrent_runs=1))
    await limits.start()
    for turns in range(12):  # of the loop, until the caller leaves
        waiting = limits.admit(CALLER)
        assert asyncio.iscoroutine(waiting)
        task = asyncio.ensure_future(waiting)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await eventually(limits, admitted=True) is None
