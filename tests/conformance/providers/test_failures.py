from __future__ import annotations

import pytest

from dragoman_server.providers.base import GenerationFailed, iterate
from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import start


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("incremental", [True, False])
async def test_failure_before_the_first_event(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        failing = {"message": "no luck today", "retry_after": 1}
        request = case.request(incremental=incremental, fail_before=failing, text=["never"])
        _, recording = start(provider, request)
        failure = await recording.end()
    assert failure is not None
    assert failure.reason == "PROVIDER_FAILED"
    assert failure.message == "no luck today"
    assert failure.retryable
    assert failure.retry_after.seconds == 1
    assert recording.events == []


@for_cases(Feature.SCRIPTED)
async def test_failure_after_some_events(case: Case) -> None:
    async with case.open() as provider:
        _, recording = start(provider, case.request(text=["a", "b", "c"], fail_after={"after": 2, "message": "broke"}))
        failure = await recording.end()
    assert failure is not None
    assert failure.reason == "PROVIDER_FAILED"
    assert failure.message == "broke"
    assert recording.text == "ab"
    assert recording.finished is None


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("after", [1, 2])
async def test_a_lost_connection_is_a_failure(case: Case, after: int) -> None:
    async with case.open() as provider:
        _, recording = start(provider, case.request(text=["a", "b"], drop_after=after))
        failure = await recording.end()
    assert failure is not None
    assert failure.reason == "PROVIDER_PROTOCOL"
    assert recording.text == "ab"[:after]
    assert recording.finished is None


@for_cases(Feature.SCRIPTED)
async def test_iterate_raises_the_failure(case: Case) -> None:
    async with case.open() as provider:
        batches = iterate(provider, case.request(text=["a", "b"], fail_after=1))
        assert [event.text_delta.text for event in (await anext(batches)).events] == ["a"]
        with pytest.raises(GenerationFailed) as raised:
            await anext(batches)
    assert raised.value.failure.reason == "PROVIDER_FAILED"
