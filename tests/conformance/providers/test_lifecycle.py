from __future__ import annotations

import asyncio

import pytest

from dragoman.v1.sampling_pb2 import MODALITY_AUDIO
from dragoman_server.errors import DragomanError
from tests.conformance.providers.cases import Case, for_cases
from tests.support.generation import Recording, generate, start


@for_cases()
async def test_the_sink_hears_nothing_from_within_start(case: Case) -> None:
    """`Recording` notes such calls, on other threads or after the end too; `end` asserts that there was none."""
    async with case.open() as provider:
        for incremental in (True, False):
            _, recording = start(provider, case.request(incremental=incremental))
            assert recording.batches == []
            assert recording.ends == []
            assert await recording.end() is None


@for_cases()
async def test_the_request_is_not_changed(case: Case) -> None:
    async with case.open() as provider:
        request = case.request()
        before = request.spec.SerializeToString(deterministic=True)
        await generate(provider, request)
    assert request.spec.SerializeToString(deterministic=True) == before


@for_cases()
async def test_nothing_starts_after_close(case: Case) -> None:
    async with case.open() as provider:
        await generate(provider, case.request())
        await provider.close()
        recording = Recording()
        with pytest.raises(DragomanError):
            provider.start(case.request(), recording)
        await asyncio.sleep(0.05)
        assert recording.ends == []


@for_cases()
async def test_a_provider_says_what_it_is(case: Case) -> None:
    async with case.open() as provider:
        assert provider.name
        assert provider.ready
        assert provider.serves_any or provider.models
        for model in provider.models:
            assert model.id


@for_cases()
async def test_a_form_that_the_provider_cannot_give_is_refused_or_failed(case: Case) -> None:
    """Never an answer in another form: an unknown grammar language is refused before the sink hears anything."""
    spec = case.ask()
    spec.response_format.grammar.definition = "start: 'a'"
    recording = Recording()
    async with case.open() as provider:
        with pytest.raises(DragomanError) as refused:
            provider.start(case.request(spec=spec), recording)
        await asyncio.sleep(0)
    assert refused.value.field.startswith("response_format")
    assert recording.ends == []


@for_cases()
async def test_sound_is_refused_by_providers_of_text(case: Case) -> None:
    spec = case.ask()
    spec.modalities.append(MODALITY_AUDIO)
    async with case.open() as provider:
        if not provider.models:
            return  # a remote server decides by itself
        with pytest.raises(DragomanError):
            provider.start(case.request(spec=spec), Recording())
