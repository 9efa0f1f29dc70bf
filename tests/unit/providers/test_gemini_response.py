from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import TOOL_KIND_FUNCTION, Citation
from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import ProviderError
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.providers.gemini.dialect import DIALECT
from tests.support.generation import Recording, assert_well_formed, chat
from tests.support.upstream_gemini import base64_of, chunk, error, retry_info, text
from tests.support.upstream_server import cut, event

STOP = chunk(finish="STOP")
MARK = b"~google~"


def read(*pieces: bytes, choice_index: int = 0) -> Recording:
    reader = DIALECT.reader(GenerationRequest(chat("Hi"), "m", choice_index), MARK)
    batches = []
    for piece in pieces:
        batches.append(EventBatch())
        reader.read_stream(piece, batches[-1])
    batches.append(EventBatch())
    reader.end_stream(batches[-1])
    recording = Recording(batches=[batch for batch in batches if batch.events], starting=False)
    assert_well_formed(recording, choice_index)
    return recording


def frames(*payloads: Any) -> bytes:
    return b"".join(map(event, payloads))


def stream(*chunks: Any, choice_index: int = 0) -> Recording:
    return read(frames(*chunks), choice_index=choice_index)


def whole(answer: Any) -> Recording:
    batch = EventBatch()
    DIALECT.reader(GenerationRequest(chat("Hi"), "m", incremental=False), MARK).read_whole(
        json.dumps(answer).encode(), batch
    )
    recording = Recording(batches=[batch], starting=False)
    assert_well_formed(recording, 0)
    return recording


def failure(*chunks: Any) -> tuple[ProviderError, Recording]:
    """Returns how a stream fails, and what came before."""
    batch = EventBatch()
    reader = DIALECT.reader(GenerationRequest(chat("Hi"), "m"), MARK)

    def read_all() -> None:
        reader.read_stream(frames(*chunks), batch)
        reader.end_stream(batch)

    with pytest.raises(ProviderError) as caught:
        read_all()
    return caught.value, Recording(batches=[batch], starting=False)


async def test_text_in_chunks() -> None:
    recording = read(frames(text("Hel"), text("lo"), chunk({"text": ""}, finish="STOP")))
    assert [len(batch.events) for batch in recording.batches] == [2, 1]
    assert recording.text == "Hello"
    assert recording.finished is not None
    assert recording.finished.finish_reason == FinishReason.FINISH_REASON_STOP


async def test_the_choice_index() -> None:
    parts: list[dict[str, Any]] = [{"text": "a"}, {"text": "b", "thought": True}, {"functionCall": {"name": "f"}}]
    stream(chunk(*parts), STOP, choice_index=128)


async def test_the_last_usage_counts() -> None:
    recording = stream(
        text("a", usage={"promptTokenCount": 5, "totalTokenCount": 5}),
        chunk(
            finish="STOP",
            usage={
                "promptTokenCount": 100,
                "toolUsePromptTokenCount": 7,
                "cachedContentTokenCount": 64,
                "candidatesTokenCount": 10,
                "thoughtsTokenCount": 30,
                "totalTokenCount": 147,
                "serviceTier": "flex",
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 80},
                    {"modality": "IMAGE", "tokenCount": 20},
                    {"modality": "SMELL", "tokenCount": 1},
                ],
                "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}],
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 10}],
            },
        ),
    )
    expected = Usage(input_tokens=107, output_tokens=40, service_tier="flex")
    expected.input_details.cached_tokens = 64
    expected.input_details.text_tokens = 87
    expected.input_details.image_tokens = 20
    expected.output_details.reasoning_tokens = 30
    expected.output_details.text_tokens = 10
    assert recording.usage == expected


def test_usage_so_far_is_that_of_the_last_chunk() -> None:
    reader = DIALECT.reader(GenerationRequest(chat("Hi"), "m"), MARK)
    assert reader.usage is None
    for written in (0, 2, 4):
        counts = {"promptTokenCount": 5, "candidatesTokenCount": written, "thoughtsTokenCount": 1}
        reader.read_stream(frames(text("a", usage=counts)), EventBatch())
        assert reader.usage is not None
        assert (reader.usage.input_tokens, reader.usage.output_tokens) == (5, written + 1)


async def test_usage_after_the_finish_and_no_usage() -> None:
    assert stream(text("a"), STOP, {"usageMetadata": {"promptTokenCount": 3}}).usage == Usage(input_tokens=3)
    assert stream(text("a"), STOP, {"usageMetadata": {"cachedContentTokenCount": 9}}).usage is None
    assert stream(text("a"), STOP).usage is None
    odd = {"promptTokenCount": -1, "candidatesTokenCount": "2", "promptTokensDetails": 3}
    assert stream(text("a"), chunk(finish="STOP", usage=odd)).usage == Usage()


async def test_thoughts_and_signatures() -> None:
    recording = stream(
        chunk({"text": "Let me ", "thought": True}),
        chunk({"text": "think.", "thought": True, "thoughtSignature": base64_of(b"\xff\xfe1")}),
        chunk({"text": "Done", "thoughtSignature": base64_of(b"2")}),
        chunk({"text": "", "thoughtSignature": "-_8"}, finish="STOP"),
        chunk({"thoughtSignature": base64_of(b"4")}),
    )
    assert recording.reasoning == "Let me think."
    assert recording.text == "Done"
    assert [each.reasoning_delta.signature for each in recording.events if each.HasField("reasoning_delta")] == [
        b"",
        MARK + b"\xff\xfe1",
        MARK + b"2",
        MARK + b"\xfb\xff",
        MARK + b"4",
    ]
    assert recording.kinds == [*["reasoning_delta"] * 2, "text_delta", *["reasoning_delta"] * 3, "choice_finished"]


async def test_calls() -> None:
    recording = stream(
        text("Let me see."),
        chunk(
            {"functionCall": {"id": "a", "name": "f", "args": {"city": "Øslo"}}, "thoughtSignature": base64_of(b"s")},
            {"functionCall": {"name": "g"}},
        ),
        chunk({"functionCall": {"id": "a", "name": "f", "args": {}}}, {"functionCall": {"name": "g"}}),
        STOP,
    )
    calls = recording.calls()
    assert [(name, arguments) for _, name, arguments in calls] == [
        ("f", '{"city":"Øslo"}'),
        ("g", "{}"),
        ("f", "{}"),
        ("g", "{}"),
    ]
    ids = [call_id for call_id, _, _ in calls]
    assert ids[0] == "a"
    assert all(ids)
    assert len(set(ids)) == 4
    started = [each.tool_call_started for each in recording.events if each.HasField("tool_call_started")]
    assert [each.signature for each in started] == [MARK + b"s", b"", b"", b""]
    assert {each.tool_kind for each in started} == {TOOL_KIND_FUNCTION}
    assert recording.finished is not None
    assert recording.finished.finish_reason == FinishReason.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "STOP"),
        ("MAX_TOKENS", "LENGTH"),
        *(
            (word, "CONTENT_FILTER")
            for word in (
                *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
                *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
            )
        ),
    ],
)
async def test_finish_reasons(word: str, reason: str) -> None:
    for recording in (stream(text("a"), chunk(finish=word)), whole(text("a", finish=word))):
        assert recording.text == "a"
        assert recording.finished is not None
        assert recording.finished.finish_reason == FinishReason.Value(f"FINISH_REASON_{reason}")


async def test_a_cut_off_call_is_no_call_to_answer() -> None:
    recording = stream(chunk({"functionCall": {"name": "f"}}, finish="MAX_TOKENS"))
    assert recording.finished is not None
    assert recording.finished.finish_reason == FinishReason.FINISH_REASON_LENGTH


@pytest.mark.parametrize(
    ("word", "reason", "retryable"),
    [
        ("MALFORMED_FUNCTION_CALL", "PROVIDER_FAILED", True),
        ("UNEXPECTED_TOOL_CALL", "PROVIDER_FAILED", True),
        ("OTHER", "PROVIDER_FAILED", True),
        ("FINISH_REASON_UNSPECIFIED", "PROVIDER_FAILED", True),
        ("SOMETHING_NEW", "PROVIDER_FAILED", True),
        ("MISSING_THOUGHT_SIGNATURE", "PROVIDER_REJECTED", False),
        ("PUP_LIMITED_DISABLED", "PROVIDER_AUTH", False),
    ],
)
async def test_ends_that_are_none(word: str, reason: str, retryable: bool) -> None:
    failed, before = failure(text("a"), text("b", finish=word, finishMessage="see https://example.org/x"))
    assert (failed.reason, failed.retryable) == (reason, retryable)
    assert failed.metadata == {"finish_reason": word}
    assert word in failed.message
    assert "example.org" not in failed.message
    assert before.text == "ab"
    assert before.finished is None


@pytest.mark.parametrize("chunks", [(), (text("a"),), ({"usageMetadata": {"promptTokenCount": 1}},)])
async def test_a_stream_without_a_finish_is_cut_off(chunks: tuple[Any, ...]) -> None:
    failed, before = failure(*chunks)
    assert failed.reason == "PROVIDER_PROTOCOL"
    assert before.finished is None


async def test_a_refused_prompt() -> None:
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 4}}
    failed, _ = failure(blocked)
    assert (failed.reason, failed.retryable) == ("CONTENT_FILTERED", False)
    assert failed.metadata == {"block_reason": "PROHIBITED_CONTENT"}
    with pytest.raises(ProviderError, match="PROHIBITED_CONTENT"):
        whole(blocked)
    fine: dict[str, Any] = {"promptFeedback": {"safetyRatings": []}}
    assert stream(fine, text("a"), STOP).text == "a"


async def test_an_error_within_the_stream() -> None:
    overloaded = error(503, "overloaded", "UNAVAILABLE", retry_info("2.5s"))
    for payload in (overloaded, [overloaded]):
        failed, before = failure(text("a"), payload)
        assert (failed.reason, failed.message, failed.retryable) == ("PROVIDER_FAILED", "overloaded", True)
        assert failed.retry_after == 2.5
        assert before.text == "a"
    named = b"event: error\n" + event(overloaded)
    with pytest.raises(ProviderError, match="overloaded"):
        read(named)
    with pytest.raises(ProviderError, match="overloaded"):
        whole([text("a"), overloaded])


@pytest.mark.parametrize(
    "part",
    [
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK"}},
        {"inlineData": {"mimeType": "image/png", "data": "eA=="}},
        {"fileData": {"fileUri": "x"}},
        {"toolCall": {}, "thought": True},
    ],
)
async def test_what_the_contract_has_no_home_for(part: dict[str, Any]) -> None:
    failed, before = failure(chunk({"text": "a"}, part), STOP)
    assert (failed.reason, failed.retryable) == ("PROVIDER_PROTOCOL", False)
    assert next(iter(part)) in failed.message
    assert before.text == "a"


async def test_sound() -> None:
    sound = {"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": base64_of(b"\x01\x02")}}
    recording = stream(chunk(sound), chunk(sound, finish="STOP"))
    assert b"".join(each.audio_delta.data for each in recording.events) == b"\x01\x02\x01\x02"


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        [],
        3,
        {"candidates": {"a": 1}},
        {"candidates": [3]},
        chunk(content={"parts": 3}),
        chunk(content="x"),
        chunk(content={"parts": ["x"]}),
        chunk({"functionCall": {"name": ""}}),
        chunk({"functionCall": {"name": "f"}, "thoughtSignature": "*"}),
        chunk({"text": "a", "thoughtSignature": 3}),
        chunk({"inlineData": {"mimeType": "audio/wav", "data": "a"}}),
        chunk(logprobsResult={"chosenCandidates": 3}),
        chunk(logprobsResult={"chosenCandidates": [3]}),
        chunk(logprobsResult={"chosenCandidates": [{"logProbability": "x"}]}),
        chunk(finishReason=3),
    ],
)
async def test_answers_that_make_no_sense(payload: Any) -> None:
    failed, before = failure(payload)
    assert failed.reason in ("PROVIDER_PROTOCOL", "PROVIDER_FAILED")
    assert before.finished is None


async def test_empty_things_are_harmless() -> None:
    recording = stream(
        {"candidates": []}, {"responseId": "x"}, chunk(content={}), chunk(content={"role": "model"}), chunk({}), STOP
    )
    assert recording.kinds == ["choice_finished"]
    assert read(frames(text("a"), STOP) + b"data: [DONE]\n\n").text == "a"
    assert read(frames(text("a")) + event(STOP).rstrip(b"\n")).text == "a"


async def test_log_probabilities() -> None:
    scores = {
        "chosenCandidates": [{"token": "He", "logProbability": -0.5}, {"token": "\ufffd"}],
        "topCandidates": [{"candidates": [{"token": "He", "logProbability": -0.5}, {"token": "Ho"}]}, {}],
    }
    recording = stream(chunk({"text": "x", "thought": True}, {"text": "He"}, logprobsResult=scores), STOP)
    [tokens] = [each.text_delta.logprobs for each in recording.events if each.HasField("text_delta")]
    assert [(each.token, each.logprob, each.token_bytes) for each in tokens] == [
        ("He", -0.5, b"He"),
        ("\ufffd", 0, b""),
    ]
    assert [(each.token, each.logprob) for each in tokens[0].top] == [("He", -0.5), ("Ho", 0)]
    late = stream(text("He"), chunk(logprobsResult=scores, finish="STOP"))
    assert late.text == "He"
    assert [len(each.text_delta.logprobs) for each in late.events if each.HasField("text_delta")] == [0, 2]


def citations(recording: Recording) -> list[Citation]:
    return [citation for each in recording.events for citation in each.text_delta.citations]


async def test_grounding() -> None:
    """Positions come in bytes, and go out in characters of the whole answer."""
    grounding = {
        "groundingChunks": [
            {"web": {"uri": "https://a.example", "title": "A"}},
            {"retrievedContext": {"uri": "https://b.example", "title": "B", "text": "passage"}},
            {"web": {"uri": "https://c.example"}},
        ],
        "groundingSupports": [
            {"segment": {"endIndex": 6, "text": "Øslo "}, "groundingChunkIndices": [0, 1]},
            {"segment": {"startIndex": 6, "endIndex": 10, "text": "is 🐪"}, "groundingChunkIndices": [1, 9]},
            {"segment": {"startIndex": 6, "endIndex": 999}, "groundingChunkIndices": [0]},
        ],
    }
    recording = stream(
        text("Øslo "), text("is 🐪", groundingMetadata={}), chunk(finish="STOP", groundingMetadata=grounding)
    )
    assert citations(recording) == [
        Citation(url="https://a.example", title="A", end_index=5),
        Citation(url="https://b.example", title="B", end_index=5, cited_text="passage"),
        Citation(url="https://b.example", title="B", start_index=5, end_index=9, cited_text="passage"),
        Citation(url="https://a.example", title="A"),
        Citation(url="https://c.example"),
    ]
    assert recording.kinds[-2:] == ["text_delta", "choice_finished"]
    assert recording.text == "Øslo is 🐪"


async def test_recitations_are_told_once() -> None:
    metadata = {"citationSources": [{"startIndex": 2, "endIndex": 3, "uri": "https://a.example", "license": "mit"}]}
    recording = stream(text("é", citationMetadata=metadata), text("b", finish="STOP", citationMetadata=metadata))
    assert citations(recording) == [Citation(url="https://a.example", start_index=1, end_index=2)]


_NAMES = (
    *("groundingChunks", "groundingSupports", "segment", "startIndex", "endIndex", "text", "web", "uri"),
    *("groundingChunkIndices", "citations"),
)
METADATA = st.recursive(
    st.none() | st.integers(-1, 9) | st.sampled_from(["", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner),
    max_leaves=12,
)
SEGMENTS = st.fixed_dictionaries({}, optional={"startIndex": METADATA, "endIndex": METADATA, "text": METADATA})
GROUNDING = st.fixed_dictionaries(
    {},
    optional={
        "groundingChunks": METADATA | st.lists(st.fixed_dictionaries({"web": METADATA}), max_size=2),
        "groundingSupports": METADATA
        | st.lists(st.fixed_dictionaries({"segment": SEGMENTS, "groundingChunkIndices": METADATA}), max_size=2),
        "citations": METADATA | st.lists(SEGMENTS, max_size=2),
    },
)


@given(METADATA | GROUNDING)
async def test_any_metadata_is_harmless(metadata: Any) -> None:
    recording = stream(text("abc", groundingMetadata=metadata, citationMetadata=metadata, finish="STOP"))
    for citation in citations(recording):
        assert 0 <= citation.start_index <= citation.end_index <= 3


TEXT = st.text(max_size=8)
PARTS = st.one_of(
    st.builds(lambda words: {"text": words}, TEXT),
    st.builds(lambda words: {"text": words, "thought": True}, TEXT),
    st.builds(lambda words, proof: {"text": words, "thoughtSignature": base64_of(proof)}, TEXT, st.binary(min_size=1)),
    st.builds(
        lambda number, arguments: {"functionCall": {"id": f"c{number}", "name": "f", "args": arguments}},
        st.uuids(),
        st.dictionaries(TEXT, TEXT, max_size=2),
    ),
)


@given(st.lists(PARTS, max_size=6), st.booleans(), st.sampled_from([b"\n", b"\r\n"]), st.data())
async def test_any_packets_give_the_same_events(
    parts: list[dict[str, Any]], ascii_only: bool, line_end: bytes, data: st.DataObject
) -> None:
    chunks = [*(chunk(part, usage={"promptTokenCount": 1}) for part in parts), STOP]
    encoded = b"".join(event(json.dumps(piece, ensure_ascii=ascii_only).encode()) for piece in chunks)
    encoded = encoded.replace(b"\n", line_end)
    once = read(encoded).events
    assert read(*cut(encoded, data.draw(st.integers(1, 60)))).events == once
    places = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    pieces = [encoded[start:end] for start, end in zip([0, *places], [*places, len(encoded)], strict=True)]
    assert read(*pieces).events == once
    assert whole(chunks).events == once  # a stream that comes as a list
    joined = chunk(*parts, finish="STOP", usage={"promptTokenCount": 1} if parts else None)
    assert whole(joined).events == once


async def test_the_reader_never_says_that_a_stream_is_done() -> None:
    """The API ends its streams by ending them; usage may still follow the finish reason."""
    reader = DIALECT.reader(GenerationRequest(chat("Hi"), "m"), MARK)
    assert reader.read_stream(frames(STOP), EventBatch())
    assert not reader.done
    assert not reader.read_stream(b": keep-alive\n\n", EventBatch())
    assert orjson.loads(orjson.dumps(STOP)) == STOP
