from __future__ import annotations

import pytest

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.sampling_pb2 import Sampling
from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
async def test_the_finish_reason_is_kept(case: Case, reason: str, incremental: bool) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(text=["a", "b"], finish=reason, incremental=incremental))
    assert recording.finished is not None
    assert recording.finished.finish_reason == FinishReason.Value(f"FINISH_REASON_{reason.upper()}")
    assert recording.text == "ab"


@for_cases()
@pytest.mark.parametrize("incremental", [True, False])
async def test_the_token_limit_ends_an_answer(case: Case, incremental: bool) -> None:
    spec = case.ask()
    spec.sampling.MergeFrom(Sampling(max_output_tokens=3))
    async with case.open() as provider:
        whole = await generate(provider, case.request())
        cut = await generate(provider, case.request(spec=spec, incremental=incremental))
    assert cut.finished is not None
    assert cut.finished.finish_reason == FinishReason.FINISH_REASON_LENGTH
    assert whole.text.startswith(cut.text)
    assert cut.text != whole.text
    assert cut.usage is not None
    assert cut.usage.output_tokens == 3


@for_cases()
@pytest.mark.parametrize("incremental", [True, False])
async def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        whole = (await generate(provider, case.request())).text
        middle = len(whole) // 2
        stop = whole[middle : middle + 4]
        spec = case.ask()
        spec.sampling.MergeFrom(Sampling(stop=[stop, "never said"]))
        cut = await generate(provider, case.request(spec=spec, incremental=incremental))
    assert cut.finished is not None
    assert cut.finished.finish_reason == FinishReason.FINISH_REASON_STOP
    assert cut.finished.stop_sequence in (stop, "")
    assert cut.text == whole[: whole.index(stop)]
