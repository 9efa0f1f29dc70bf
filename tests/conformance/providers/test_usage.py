from __future__ import annotations

import pytest

from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate


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
