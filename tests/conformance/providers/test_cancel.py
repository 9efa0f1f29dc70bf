from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from dragoman_server.providers.base import iterate
from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import BOUND, Recording, generate, start


async def cancelled(recording: Recording) -> None:
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == "CANCELLED"
    assert recording.finished is None


@for_cases()
@pytest.mark.parametrize("incremental", [True, False])
async def test_cancelled_at_once(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request(incremental=incremental))
        generation.cancel()
        assert recording.ends == []  # not from within the call
        await cancelled(recording)
        assert recording.events == []


@for_cases()
async def test_cancelled_in_the_middle(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request())
        await recording.events_reach(1)
        generation.cancel()
        seen = len(recording.events)
        await cancelled(recording)
        assert len(recording.events) == seen


@for_cases()
async def test_cancelled_from_within_a_batch(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request())
        recording.on_batch = generation.cancel
        await cancelled(recording)
        assert len(recording.batches) == 1


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("script", [{"hang": True}, {"text": ["a"], "hang": True}, {"text": ["a"], "first_delay": 60}])
async def test_cancelled_while_silent(case: Case, script: dict[str, Any]) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request(**script))
        await asyncio.sleep(0.05)
        before = time.monotonic()
        generation.cancel()
        await cancelled(recording)
        assert time.monotonic() - before < BOUND


@for_cases()
async def test_cancelled_after_the_end_and_again(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request())
        assert await recording.end() is None
        generation.cancel()
        generation.cancel()
        generation.pause()
        generation.resume()
        assert await recording.end() is None


@for_cases()
async def test_cancelled_twice_ends_once(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request())
        generation.cancel()
        generation.cancel()
        await cancelled(recording)


@for_cases()
async def test_one_cancelled_generation_leaves_the_others_alone(case: Case) -> None:
    async with case.open() as provider:
        expected = (await generate(provider, case.request())).text
        generation, recording = start(provider, case.request())
        _, other = start(provider, case.request())
        await recording.events_reach(1)
        generation.cancel()
        await cancelled(recording)
        assert await other.end() is None
        assert other.text == expected


@for_cases()
async def test_leaving_an_iteration_cancels(case: Case) -> None:
    async with case.open() as provider:
        batches = iterate(provider, case.request())
        async with asyncio.timeout(BOUND):
            assert (await anext(batches)).events
            await batches.aclose()
        await generate(provider, case.request())


@for_cases()
async def test_closing_ends_what_still_runs(case: Case) -> None:
    async with case.open() as provider:
        recordings = [start(provider, case.request())[1] for _ in range(3)]
        await recordings[0].events_reach(1)
        async with asyncio.timeout(BOUND):
            await provider.close()
        for recording in recordings:
            failure = await recording.end()
            assert failure is None or failure.reason == "CANCELLED"
