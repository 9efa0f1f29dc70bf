from __future__ import annotations

import asyncio

import pytest

from dragoman.v1.message_pb2 import Message, Part, Role, TextPart
from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate


@for_cases()
async def test_stream_and_whole_answer_say_the_same(case: Case) -> None:
    async with case.open() as provider:
        streamed = await generate(provider, case.request())
        whole = await generate(provider, case.request(incremental=False))
    assert streamed.text
    assert streamed.text == whole.text


@for_cases()
async def test_a_stream_comes_in_more_than_one_batch(case: Case) -> None:
    async with case.open() as provider:
        assert len((await generate(provider, case.request())).batches) > 1


@for_cases()
@pytest.mark.parametrize("incremental", [True, False])
async def test_events_carry_the_choice_index(case: Case, incremental: bool) -> None:
    async with case.open() as provider:
        for choice_index in (0, 1, 127, 128):
            await generate(provider, case.request(choice_index=choice_index, incremental=incremental))


@for_cases(Feature.SCRIPTED)
async def test_deltas_join_to_the_text(case: Case) -> None:
    text = ["Hé", "llo", " ", "wörld\n\n", "\u2028", '"quoted" \\ ', "\x00\x1f", "🐪", "\r\n"]
    async with case.open() as provider:
        streamed = await generate(provider, case.request(text=text))
        whole = await generate(provider, case.request(text=text, incremental=False))
    assert streamed.text == whole.text == "".join(text)
    assert [event.text_delta.text for event in streamed.events if event.HasField("text_delta")] == text


@for_cases(Feature.SCRIPTED)
@pytest.mark.parametrize("text", ["one piece", "é" * 300, " "])
async def test_a_text_in_one_piece_is_the_same_at_once(case: Case, text: str) -> None:
    async with case.open() as provider:
        streamed = await generate(provider, case.request(text=[text]))
        whole = await generate(provider, case.request(text=[text], incremental=False))
    assert streamed.text == whole.text == text
    assert (streamed.finished, streamed.usage) == (whole.finished, whole.usage)
    assert not streamed.whole


@for_cases(Feature.SCRIPTED)
async def test_repeated_deltas_are_kept(case: Case) -> None:
    async with case.open() as provider:
        recording = await generate(provider, case.request(text=["na "], repeat=300))
    assert recording.text == "na " * 300


@for_cases(Feature.SCRIPTED)
async def test_a_large_delta_arrives_whole(case: Case) -> None:
    text = ["ä" * 20_000, "b"]
    async with case.open() as provider:
        assert (await generate(provider, case.request(text=text))).text == "".join(text)


@for_cases()
@pytest.mark.parametrize("role", [Role.ROLE_SYSTEM, Role.ROLE_USER, Role.ROLE_ASSISTANT])
async def test_speakers_may_have_names(case: Case, role: Role) -> None:
    spec = case.ask()
    spec.messages.insert(0, Message(role=Role.ROLE_USER, parts=[Part(text=TextPart(text="Hi."))]))
    spec.messages.insert(1, Message(role=Role.ROLE_ASSISTANT, parts=[Part(text=TextPart(text="Hello."))]))
    if role == Role.ROLE_SYSTEM:
        spec.messages.insert(0, Message(role=role, parts=[Part(text=TextPart(text="Be kind."))]))
    next(message for message in spec.messages if message.role == role).name = "Ann"
    async with case.open() as provider:
        assert (await generate(provider, case.request(spec=spec))).text


@for_cases()
async def test_generations_run_side_by_side(case: Case) -> None:
    async with case.open() as provider:
        recordings = await asyncio.gather(*(generate(provider, case.request()) for _ in range(8)))
    assert len({recording.text for recording in recordings}) == 1
