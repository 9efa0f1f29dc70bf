from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import chat, generate, start


@for_cases()
@pytest.mark.parametrize("incremental", [True, False])
async def test_usage_is_reported(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(incremental=incremental))
    assert recording.usage is not None
    assert recording.usage.input_tokens > 0
    assert recording.usage.output_tokens > 0
    assert not recording.usage.estimated


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("incremental", [True, False])
async def test_usage_is_what_the_model_counted(case: Case, incremental: bool) -> None:
    usage = {"input_tokens": 1234, "output_tokens": 77}
    async with case.open() as provider:
        recording = await generate(provider, case.request(text=["a"], usage=usage, incremental=incremental))
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (1234, 77)


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("incremental", [True, False])
async def test_usage_that_is_not_reported_is_not_invented(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(text=["a"], usage=False, incremental=incremental))
    assert recording.usage is None


@for_cases(Feature.SCRIPTED, Feature.REASONING)
async def test_thoughts_are_counted_among_the_output(case: Case) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(reasoning=["a", "b"], text=["c"]))
    assert recording.usage is not None
    assert recording.usage.output_tokens == 3
    assert recording.usage.output_details.reasoning_tokens == 2


def told(case: Case, **script: Any) -> dict[str, Any]:
    """Returns a script in which the prompt has 1,234 tokens, for a provider that plays scripts."""
    return {"usage": {"input_tokens": 1234, "output_tokens": 77}, **script} if Feature.SCRIPTED in case.features else {}


@for_cases(Feature.PROMPT_COUNT)
async def test_what_was_told_is_known_of_a_generation_that_is_cancelled(case: Case) -> None:
    async with case.open() as provider:
        spec = None if Feature.SCRIPTED in case.features else chat("List all numbers from 1 to 1000.")
        generation, recording = start(provider, case.request(spec=spec, **told(case, text=["a"], hang=True)))
        assert generation.usage_so_far is None
        await recording.events_reach(1)
        known = generation.usage_so_far
        generation.cancel()
        assert await recording.end() is not None
        assert recording.usage is None
        assert known is not None
        assert known.input_tokens == 1234 if Feature.SCRIPTED in case.features else known.input_tokens > 0
        assert known.output_tokens == 0
        assert generation.usage_so_far == known


@for_cases(Feature.SCRIPTED, Feature.PROMPT_COUNT)
async def test_what_was_told_is_known_of_a_generation_that_fails(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request(**told(case, text=["a", "b"], fail_after=1)))
        assert await recording.end() is not None
        assert recording.text == "a"
        assert generation.usage_so_far is not None
        assert generation.usage_so_far.input_tokens == 1234


@for_cases(Feature.SCRIPTED)
async def test_nothing_is_known_of_what_was_not_told(case: Case) -> None:
    async with case.open() as provider:
        generation, recording = start(provider, case.request(text=["a"], usage=False, hang=True))
        await recording.events_reach(1)
        generation.cancel()
        assert await recording.end() is not None
        assert generation.usage_so_far is None
