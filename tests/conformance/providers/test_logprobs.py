from __future__ import annotations

import pytest

from dragoman.v1.sampling_pb2 import Sampling
from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate


@for_cases(Feature.LOGPROBS)
@pytest.mark.parametrize("incremental", [True, False])
async def test_log_probabilities_cover_the_text(case: Case, incremental: bool) -> None:
    spec = case.ask()
    spec.sampling.MergeFrom(Sampling(logprobs=True, top_logprobs=2))
    async with case.open() as provider:
        recording = await generate(provider, case.request(spec=spec, incremental=incremental))
    tokens = [token for event in recording.events for token in event.text_delta.logprobs]
    assert b"".join(token.token_bytes for token in tokens).decode().startswith(recording.text)
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top) == 2
        assert token.top[0].logprob >= token.top[1].logprob


@for_cases(Feature.LOGPROBS)
async def test_log_probabilities_come_only_when_asked_for(case: Case) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request())
    assert not any(event.text_delta.logprobs for event in recording.events)
