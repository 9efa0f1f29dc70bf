from __future__ import annotations

import json
from typing import Any

import pytest

from dragoman.v1.event_pb2 import FinishReason
from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate

CALLS = [
    {"name": "weather", "arguments": ['{"city"', ': "Øslo"', "}"], "id": "one"},
    {"name": "weather", "arguments": ["{}"], "id": "two"},
    {"name": "time", "arguments": [], "id": "three"},
]


def meaning(call: tuple[str, str, str]) -> tuple[str, str, Any]:
    return call[0], call[1], json.loads(call[2] or "{}")


@for_cases(Feature.SCRIPTED, Feature.TOOL_CALLS)
@pytest.mark.parametrize("incremental", [True, False])
async def test_calls_are_started_fed_and_completed(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        recording = await generate(
            provider, case.request(text=["Let me see."], tool_calls=CALLS, incremental=incremental)
        )
    expected = [("one", "weather", '{"city": "Øslo"}'), ("two", "weather", "{}"), ("three", "time", "")]
    if Feature.RAW_ARGUMENTS in case.features:
        assert recording.calls() == expected
    else:
        assert [meaning(call) for call in recording.calls()] == [meaning(call) for call in expected]
    assert recording.text == "Let me see."
    assert recording.finished is not None
    assert recording.finished.finish_reason == FinishReason.FINISH_REASON_TOOL_CALLS


@for_cases(Feature.SCRIPTED, Feature.TOOL_CALLS)
async def test_every_call_has_an_id_of_its_own(case: Case) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(tool_calls=[{"name": "f"}, {"name": "f"}]))
    ids = [call_id for call_id, _, _ in recording.calls()]
    assert all(ids)
    assert len(set(ids)) == 2
