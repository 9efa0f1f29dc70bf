from __future__ import annotations

import pytest

from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate


@for_cases(Feature.SCRIPTED, Feature.REASONING)
@pytest.mark.parametrize("incremental", [True, False])
async def test_thoughts_are_apart_from_the_text_and_before_it(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        recording = await generate(
            provider, case.request(reasoning=["Let me ", "think."], text=["Done", "."], incremental=incremental)
        )
    assert recording.reasoning == "Let me think."
    assert recording.text == "Done."
    kinds = recording.kinds
    assert kinds.index("text_delta") > max(at for at, kind in enumerate(kinds) if kind == "reasoning_delta")


@for_cases(Feature.SCRIPTED, Feature.REFUSAL)
@pytest.mark.parametrize("incremental", [True, False])
async def test_a_refusal_is_not_text(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(refusal=["I will ", "not."], incremental=incremental))
    assert recording.refusal == "I will not."
    assert recording.text == ""
