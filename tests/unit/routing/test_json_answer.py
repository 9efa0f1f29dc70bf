from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP, FINISH_REASON_TOOL_CALLS, FinishReason
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.providers.emulation import json_answer
from dragoman_server.providers.emulation.json_answer import json_starter
from dragoman_server.providers.emulation.json_schema import Schema
from tests.support.generation import chat
from tests.support.routing import AttemptRecording, Played, PlayedProvider, route_over

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def asked(schema: dict[str, Any] | None = None) -> ChatSpec:
    spec = chat("Where?")
    if schema is None:
        spec.response_format.json_object.SetInParent()
    else:
        spec.response_format.json_schema.name = "answer"
        spec.response_format.json_schema.schema_json = json.dumps(schema)
    return spec


def start(spec: ChatSpec) -> tuple[PlayedProvider, AttemptRecording, Any]:
    provider, recording = PlayedProvider("one"), AttemptRecording()
    generation = json_starter(provider.start)(GenerationRequest(spec, "m", 2), recording)
    recording.starting = False
    return provider, recording, generation


def answer(played: Played, text: str, finish: FinishReason = FINISH_REASON_STOP, usage: int = 7) -> None:
    batch = EventBatch()
    for piece in (text[:3], text[3:]):
        delta = batch.events.add().text_delta
        delta.choice_index, delta.text = 2, piece
        delta.logprobs.add().token = piece
    played.sink.on_events(batch)
    batch = EventBatch()
    batch.events.add().choice_finished.finish_reason = finish
    reported = batch.events.add().usage_reported.last_call
    reported.input_tokens, reported.output_tokens, reported.output_details.reasoning_tokens = usage, 2, 1
    played.sink.on_events(batch)
    played.end(None)


async def test_a_right_answer_is_passed_on_whole() -> None:
    provider, recording, _ = start(asked(SCHEMA))
    assert recording.batches == []
    sent = provider.last.request
    assert not sent.spec.HasField("response_format")
    assert not sent.incremental
    assert [message.role for message in sent.spec.messages] == [ROLE_SYSTEM, ROLE_USER]
    assert json.dumps(SCHEMA) in sent.spec.messages[0].parts[0].text.text
    answer(provider.last, '{"city": "Bern"}')
    assert await recording.end() is None
    assert recording.text == '{"city": "Bern"}'
    assert recording.kinds == ["text_delta", "text_delta", "choice_finished", "usage_reported"]
    assert len(provider.played) == 1


async def test_a_wrong_answer_is_asked_for_again_and_all_usage_counts() -> None:
    provider, recording, _ = start(asked(SCHEMA))
    answer(provider.last, "It is Bern.")
    assert recording.batches == [], "nothing is shown before it is right"
    answer(provider.last, '{"city": 3}')
    again = provider.last.request.spec.messages
    assert [message.role for message in again[1:]] == [
        ROLE_USER, ROLE_ASSISTANT, ROLE_USER, ROLE_ASSISTANT, ROLE_USER
    ]  # fmt: skip
    assert "not JSON" in again[3].parts[0].text.text
    assert "3 is not of type 'string'" in again[5].parts[0].text.text
    answer(provider.last, '{"city": "Bern"}')
    assert await recording.end() is None
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (21, 6)
    assert recording.usage.output_details.reasoning_tokens == 3


async def test_all_questions_so_far_are_part_of_what_was_consumed() -> None:
    provider, _, generation = start(asked())
    assert generation.usage_so_far is None
    provider.last.told = Usage(input_tokens=4)
    assert generation.usage_so_far == Usage(input_tokens=4)
    answer(provider.last, "no")
    asked_once = generation.usage_so_far
    assert asked_once is not None
    assert (asked_once.input_tokens, asked_once.output_tokens) == (7, 2)
    provider.last.told = Usage(input_tokens=5)
    asked_again = generation.usage_so_far
    assert asked_again is not None
    assert (asked_again.input_tokens, asked_again.output_tokens) == (12, 2)


async def test_an_answer_that_never_gets_right_is_a_clear_failure() -> None:
    provider, recording, _ = start(asked())
    for text in ("no", "[1]", '"x"'):
        answer(provider.last, text)
    failure = await recording.end()
    assert failure is not None
    assert (failure.reason, failure.retryable, failure.field) == (Reason.PROVIDER_FAILED, False, "response_format")
    assert recording.kinds == ["usage_reported"]
    assert recording.usage is not None
    assert recording.usage.input_tokens == 21


async def test_a_code_fence_is_taken_off() -> None:
    provider, recording, _ = start(asked())
    answer(provider.last, '\n```json\n{"a": 1}\n```\n')
    assert await recording.end() is None
    assert recording.text == '{"a": 1}'
    (delta,) = (event.text_delta for event in recording.events if event.HasField("text_delta"))
    assert (delta.choice_index, len(delta.logprobs)) == (2, 2)


@pytest.mark.parametrize("finish", [FINISH_REASON_LENGTH, FINISH_REASON_TOOL_CALLS])
async def test_what_says_by_itself_that_it_is_no_json_is_passed_on(finish: FinishReason) -> None:
    provider, recording, _ = start(asked(SCHEMA))
    answer(provider.last, '{"ci', finish)
    assert await recording.end() is None
    assert recording.text == '{"ci'


@pytest.mark.parametrize("as_text", [True, False])
async def test_an_answer_that_is_too_large_is_broken_off(as_text: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_answer, "MAX_ANSWER_BYTES", 100_000)
    provider, recording, generation = start(asked())
    played = provider.last
    said = 0
    while not played.cancelled and said < 1_000_000:
        if as_text:
            played.sink.on_text("x" * 1000)
        else:
            played.say("x" * 1000)
        said += 1000
    assert said < 110_000
    played.told = Usage(input_tokens=9, output_tokens=90)
    failure = await recording.end()
    assert failure is not None
    assert (failure.reason, failure.retryable, failure.field) == (Reason.PROVIDER_FAILED, False, "response_format")
    assert "more than 100,000 bytes" in failure.message
    assert recording.kinds == ["usage_reported"]
    assert recording.usage == Usage(input_tokens=9, output_tokens=90)
    assert generation.usage_so_far == recording.usage
    assert len(provider.played) == 1


async def test_the_bound_is_that_of_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_answer, "MAX_ANSWER_BYTES", 2000)
    provider, recording, _ = start(asked())
    answer(provider.last, "x" * 700)
    answer(provider.last, json.dumps({"a": "x" * 700}))
    assert await recording.end() is None
    assert len(recording.text) > 700


async def test_cancelling_and_pausing_reach_the_question_that_is_asked_now() -> None:
    provider, recording, generation = start(asked())
    generation.pause()
    answer(provider.last, "no")
    assert provider.last.paused
    generation.resume()
    assert not provider.last.paused
    generation.cancel()
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.CANCELLED


async def test_a_failure_of_the_provider_is_passed_on_for_the_router() -> None:
    provider, recording, _ = start(asked())
    answer(provider.last, "no")
    provider.last.fail(Reason.PROVIDER_UNREACHABLE)
    failure = await recording.end()
    assert failure is not None
    assert failure.reason == Reason.PROVIDER_UNREACHABLE


async def test_what_an_answer_that_broke_off_has_told_counts() -> None:
    provider, recording, _ = start(asked())
    answer(provider.last, "no")
    provider.last.told = Usage(input_tokens=3)
    provider.last.fail(Reason.PROVIDER_UNREACHABLE)
    assert await recording.end() is not None
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (10, 2)


async def test_the_router_stands_in_where_a_provider_has_no_format_and_says_so() -> None:
    def refuse(request: GenerationRequest) -> None:
        if request.spec.HasField("response_format"):
            raise UnsupportedFeature("no JSON here", field="response_format")

    provider, recording = PlayedProvider("one", refuse), AttemptRecording()
    generation = route_over(provider).start(GenerationRequest(asked(SCHEMA), ""), recording)
    recording.starting = False
    assert generation.emulated == ["response_format.json_schema"]
    answer(provider.last, '{"city": "Bern"}')
    assert await recording.end() is None
    assert recording.text == '{"city": "Bern"}'
    with pytest.raises(UnsupportedFeature):
        route_over(provider, emulate_json=False).start(GenerationRequest(asked(SCHEMA), ""), AttemptRecording())


# Schemas of strangers


@pytest.mark.parametrize(
    "text", ["{", '{"type": "objekt"}', '{"required": "a"}', "3", '{"not": ' * 600 + "{}" + "}" * 600]
)
def test_what_is_no_schema_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Schema(text)


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "(a+)+b"},
        {"properties": {"x": {"anyOf": [{"pattern": "a"}]}}},
        {"patternProperties": {"a": {}}},
        {"$defs": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
    ],
)
def test_what_cannot_be_checked_safely_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature):
        Schema(json.dumps(schema))


def test_a_property_may_have_any_name() -> None:
    schema = Schema(json.dumps({"properties": {"pattern": {"type": "string"}, "$schema": {"const": 1}}}))
    assert schema.problem({"pattern": "x"}) == ""
    assert schema.problem({"pattern": 3})


def test_nothing_is_fetched() -> None:
    with pytest.raises(InvalidRequest, match="does not hold"):
        Schema('{"$ref": "http://127.0.0.1:1/x"}').problem({})


@pytest.mark.parametrize("draft", ["", "http://json-schema.org/draft-07/schema#"])
def test_the_work_of_a_check_is_bounded(draft: str) -> None:
    definitions: dict[str, Any] = {
        f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(40)
    }
    definitions["a40"] = False
    explosive: dict[str, Any] = {"$ref": "#/$defs/a0", "$defs": definitions}
    if draft:
        explosive["$schema"] = draft
    for schema in (explosive, {"$ref": "#"}):
        with pytest.raises(InvalidRequest, match="too often"):
            Schema(json.dumps(schema)).problem({})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.booleans())
def test_any_object_passes_as_it_is(value: dict[str, Any], fenced: bool) -> None:
    async def play() -> str:
        provider, recording, _ = start(asked())
        text = json.dumps(value)
        answer(provider.last, f"```json\n{text}\n```" if fenced else text)
        assert await recording.end() is None
        return recording.text

    assert json.loads(asyncio.run(play())) == value
