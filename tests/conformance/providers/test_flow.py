from __future__ import annotations

import asyncio

from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate, start


@for_cases()
async def test_a_paused_generation_goes_on_after_resume(case: Case) -> None:
    async with case.open() as provider:
        expected = (await generate(provider, case.request())).text
        generation, recording = start(provider, case.request())
        generation.pause()
        generation.pause()
        await asyncio.sleep(0.05)
        generation.resume()
        await recording.events_reach(1)
        generation.pause()
        await asyncio.sleep(0.05)
        generation.resume()
        generation.resume()
        assert await recording.end() is None
        assert recording.text == expected


@for_cases(Feature.SCRIPTED)
async def test_a_paused_generation_does_not_run_to_its_end(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request(text=["x" * 50_000], repeat=100, batch=2))
        await recording.events_reach(1)
        generation.pause()
        while True:  # what was on its way may still come
            seen = len(recording.events)
            await asyncio.sleep(0.2)
            if len(recording.events) == seen:
                break
        assert not recording.ends
        assert seen < 100
        generation.resume()
        assert await recording.end() is None
        assert len(recording.text) == 5_000_000


@for_cases()
async def test_a_paused_generation_can_be_cancelled(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request())
        generation.pause()
        await asyncio.sleep(0.05)
        generation.cancel()
        failure = await recording.end()
        assert failure is None or failure.reason == "CANCELLED"


@for_cases()
async def test_pausing_one_does_not_hold_up_another(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request())
        generation.pause()
        await generate(provider, case.request())
        generation.resume()
        assert await recording.end() is None
