from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.message_pb2 import Citation
from dragoman_server.errors import ProviderError
from dragoman_server.providers.anthropic_messages.response import ResponseReader
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.failures import failure_of_status
from tests.support.generation import Recording, assert_well_formed
from tests.support.upstream_anthropic import PING, block, delta, end, error, event, start, stop
from tests.support.upstream_server import cut

MARK = b"~anthropic~"


def read(*pieces: bytes, choice_index: int = 0) -> Recording:
    """Reads a stream that comes in these pieces."""
    reader = ResponseReader(choice_index, MARK)
    batches = []
    for piece in pieces:
        batches.append(EventBatch())
        reader.read_stream(piece, batches[-1])
    batches.append(EventBatch())
    reader.end_stream(batches[-1])
    recording = Recording(batches=batches, starting=False)
    assert_well_formed(recording, choice_index)
    return recording


def stream(*payloads: dict[str, Any]) -> list[bytes]:
    return [event(payload) for payload in payloads]


def whole(answer: Any) -> Recording:
    batch = EventBatch()
    ResponseReader(0, MARK).read_whole(json.dumps(answer).encode(), batch)
    return Recording(batches=[batch], starting=False)


def said(*texts: str, index: int = 0) -> list[dict[str, Any]]:
    return [block(index, type="text", text=""), *(delta(index, "text", text=text) for text in texts), stop(index)]


EVERYTHING = [
    start({"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}),
    PING,
    block(0, type="thinking", thinking="", signature=""),
    delta(0, "thinking", thinking="Let me"),
    delta(0, "thinking", thinking=" see"),
    delta(0, "signature", signature="EqoB"),
    stop(0),
    block(1, type="redacted_thinking", data="c2Vj"),
    stop(1),
    *said("Hé", "llo", "\n\n", "🐪", '"}}', index=2),
    block(3, type="tool_use", id="toolu_1", name="weather", input={}),
    delta(3, "input_json", partial_json=""),
    delta(3, "input_json", partial_json='{"city": '),
    delta(3, "input_json", partial_json='"Øslo"}'),
    stop(3),
    PING,
    block(4, type="tool_use", id="toolu_2", name="time", input={}),
    stop(4),
    *end("tool_use", {"output_tokens": 42, "output_tokens_details": {"thinking_tokens": 30}}),
]


def test_everything_that_a_stream_can_tell() -> None:
    recording = read(*stream(*EVERYTHING))
    assert recording.kinds == [
        *("reasoning_delta",) * 4,
        *("text_delta",) * 5,
        "tool_call_started",
        *("tool_call_arguments_delta",) * 2,
        "tool_call_completed",
        *("tool_call_started", "tool_call_arguments_delta", "tool_call_completed"),
        *("choice_finished", "usage_reported"),
    ]
    assert recording.reasoning == "Let me see"
    thoughts = [each.reasoning_delta for each in recording.events if each.HasField("reasoning_delta")]
    assert [(each.text, each.signature, each.redacted) for each in thoughts[2:]] == [
        ("", MARK + b"EqoB", False),
        ("", MARK + b"c2Vj", True),
    ]
    assert recording.text == 'Héllo\n\n🐪"}}'
    assert recording.calls() == [("toolu_1", "weather", '{"city": "Øslo"}'), ("toolu_2", "time", "{}")]
    assert recording.finished is not None
    assert recording.finished.finish_reason == 3
    usage = recording.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (17, 42)
    assert (usage.input_details.cached_tokens, usage.input_details.cache_write_tokens) == (5, 2)
    assert usage.output_details.reasoning_tokens == 30


def plain(recording: Recording) -> list[bytes]:
    return [each.SerializeToString(deterministic=True) for each in recording.events]


@given(st.data())
def test_any_pieces_give_the_same_events(data: st.DataObject) -> None:
    sent = b"".join(stream(*EVERYTHING))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=40)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert plain(read(*pieces)) == plain(read(sent))


@pytest.mark.parametrize("size", [1, 2, 7, 61, 4096])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_packets_and_line_ends(size: int, line_end: bytes) -> None:
    sent = b"".join(stream(*EVERYTHING))
    assert plain(read(*cut(sent.replace(b"\n", line_end), size))) == plain(read(sent))


def written(payload: dict[str, Any], style: str) -> bytes:
    """Returns an event as servers write it."""
    match style:
        case "spaced":
            encoded = json.dumps(payload).encode()
        case "utf-8":
            encoded = json.dumps(payload, ensure_ascii=False).encode()
        case "padded":
            encoded = json.dumps(payload, separators=(",", ":")).encode()
            encoded = encoded[:-1] + b" " * (len(encoded) % 7) + b"}"
        case "unnamed":
            return b"data: " + json.dumps(payload).encode() + b"\n\n"
        case _:
            encoded = json.dumps(dict(reversed(payload.items()))).encode()
    return f"event: {payload['type']}\n".encode() + b"data: " + encoded + b"\n\n"


STYLES = ["spaced", "utf-8", "padded", "unnamed", "reversed"]
TEXT = st.text(max_size=6) | st.sampled_from(['"', "\\", '\\"', '"}', '"}}', ' "}} ', '","text":"x', "data: x\n\n"])


@given(
    st.lists(TEXT), st.sampled_from(STYLES), st.sampled_from(["text", "thinking", "input_json"]), st.integers(1, 900)
)
def test_any_texts_in_any_style_and_packets(texts: list[str], style: str, kind: str, size: int) -> None:
    key = "partial_json" if kind == "input_json" else kind
    opening: dict[str, dict[str, Any]] = {
        "text": {"text": ""},
        "thinking": {"thinking": ""},
        "input_json": {"id": "a", "name": "f", "input": {}},
    }
    block_type = "tool_use" if kind == "input_json" else kind
    payloads = [
        start(),
        block(0, type=block_type, **opening[kind]),
        *(delta(0, kind, **{key: text}) for text in texts),
        stop(0),
        *end("end_turn"),
    ]
    sent = b"".join(written(payload, style) for payload in payloads)
    for pieces in ([sent], list(cut(sent, size)), [written(payload, style) for payload in payloads]):
        recording = read(*pieces, choice_index=3)
        got = [
            each.text_delta.text or each.reasoning_delta.text or each.tool_call_arguments_delta.arguments
            for each in recording.events
            if each.WhichOneof("kind") in ("text_delta", "reasoning_delta", "tool_call_arguments_delta")
        ]
        expected = [text for text in texts if text]
        assert got == (expected or ["{}"] if kind == "input_json" else expected)


def test_many_events_of_one_read_are_one_batch() -> None:
    sent = b"".join(stream(start(), *said(*"abcdef")))
    recording = read(sent, *stream(*end("end_turn")))
    assert [len(batch.events) for batch in recording.batches] == [6, 0, 0, 1]


def test_blocks_follow_each_other_whatever_their_kind() -> None:
    recording = read(
        *stream(
            start(),
            *said("a", "b", "c"),
            block(1, type="thinking", thinking=""),
            *(delta(1, "thinking", thinking=word) for word in "xyz"),
            delta(1, "signature", signature="s"),
            stop(1),
            *said("d", "e", "f", index=2),
            *end("end_turn"),
        )
    )
    assert (recording.text, recording.reasoning) == ("abcdef", "xyz")
    signatures = [each.reasoning_delta.signature for each in recording.events if each.reasoning_delta.signature]
    assert signatures == [MARK + b"s"]


def test_pings_do_not_count_as_progress() -> None:
    reader, batch = ResponseReader(0, MARK), EventBatch()
    assert reader.read_stream(event(start()), batch)
    assert not reader.read_stream(event(PING), batch)
    assert not reader.read_stream(event(PING)[:9], batch)
    assert not reader.read_stream(event(PING)[9:] + b": comment\n\n", batch)
    assert reader.read_stream(event(PING) + event(block(0, type="text", text="")), batch)
    assert reader.read_stream(event(delta(0, "text", text="a")), batch)
    assert not batch.events[1:]


def test_events_and_blocks_of_unknown_kinds_are_passed_over() -> None:
    recording = read(
        *stream(
            start(),
            {"type": "new_event", "of": [1]},
            block(0, type="server_tool_use", id="srvtoolu_1", name="web_search", input={}),
            delta(0, "input_json", partial_json='{"query"'),
            delta(0, "new", text="?"),
            stop(0),
            block(1, type="web_search_tool_result", content=[]),
            stop(1),
            *said("a", index=2),
            *end("end_turn"),
        )
    )
    assert recording.kinds == ["text_delta", "choice_finished"]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", 1),
        ("stop_sequence", 1),
        ("max_tokens", 2),
        ("model_context_window_exceeded", 2),
        ("pause_turn", 2),
        ("tool_use", 3),
        ("refusal", 4),
        ("new_reason", 1),
    ],
)
def test_stop_reasons(reason: str, finish: int) -> None:
    recording = read(*stream(start(), *said("a"), *end(reason)))
    assert recording.finished is not None
    assert recording.finished.finish_reason == finish
    assert recording.finished.stop_sequence == ""


def test_which_stop_text_ended_it() -> None:
    recording = read(*stream(start(), *said("a"), *end("stop_sequence", stop_sequence="END")))
    assert recording.finished is not None
    assert recording.finished.stop_sequence == "END"


def test_why_the_provider_refused() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "It could do harm."}
    recording = read(*stream(start(), *end("refusal", stop_details=details)))
    assert recording.refusal == "It could do harm."
    assert recording.kinds == ["refusal_delta", "choice_finished"]


@pytest.mark.parametrize(
    ("told", "citation"),
    [
        (
            {
                "type": "char_location",
                "cited_text": "q",
                "document_index": 0,
                "document_title": "T",
                "start_char_index": 9,
            },
            Citation(title="T", cited_text="q"),
        ),
        (
            {"type": "web_search_result_location", "cited_text": "q", "url": "https://x/y", "title": "T"},
            Citation(url="https://x/y", title="T", cited_text="q"),
        ),
        (
            {"type": "search_result_location", "cited_text": "q", "source": "https://x/z", "title": None},
            Citation(url="https://x/z", cited_text="q"),
        ),
    ],
)
def test_citations_are_for_the_text_of_their_block(told: dict[str, Any], citation: Citation) -> None:
    citation.start_index, citation.end_index = 4, 9
    cited = [
        block(1, type="text", text=""),
        delta(1, "citations", citation=told),
        delta(1, "text", text="grün🐪"),
        stop(1),
    ]
    recording = read(*stream(start(), *said("abc "), *cited, *said("d", index=2), *end("end_turn")))
    assert [list(each.text_delta.citations) for each in recording.events if each.text_delta.citations] == [[citation]]
    content = [{"type": "text", "text": "abc "}, {"type": "text", "text": "grün🐪", "citations": [told]}]
    at_once = whole({"type": "message", "content": content, "stop_reason": "end_turn"})
    assert [list(each.text_delta.citations) for each in at_once.events if each.text_delta.citations] == [[citation]]


def test_what_a_stream_tells_at_its_beginning_is_known_at_once_but_for_the_length_of_the_answer() -> None:
    reader = ResponseReader(0, MARK)
    assert reader.usage is None
    for payload in EVERYTHING[:-2]:
        reader.read_stream(event(payload), EventBatch())
        assert reader.usage is not None
        assert (reader.usage.input_tokens, reader.usage.output_tokens) == (17, 0)
        assert reader.usage.input_details.cached_tokens == 5
    reader.read_stream(event(EVERYTHING[-2]), EventBatch())
    usage = reader.usage
    assert usage is not None
    assert usage.output_tokens == 42


def test_usage_of_the_beginning_counts_if_the_end_tells_no_more() -> None:
    told = {"input_tokens": 10, "output_tokens": 1, "service_tier": "priority"}
    usage = read(*stream(start(told), *said("a"), *end("end_turn", {"output_tokens": 3}))).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.service_tier) == (10, 3, "priority")
    assert not usage.HasField("input_details")


@pytest.mark.parametrize("count", ["many", -1, 1.5, None])
def test_usage_that_makes_no_sense_counts_nothing(count: Any) -> None:
    usage = read(*stream(start({"input_tokens": count}), *end("end_turn", {"output_tokens": 3}))).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (0, 3)


def test_arguments_may_come_with_the_beginning_of_a_call() -> None:
    call = block(0, type="tool_use", name="f", input={"a": 1})
    ((call_id, name, arguments),) = read(*stream(start(), call, stop(0), *end("tool_use"))).calls()
    assert call_id
    assert (name, arguments) == ("f", '{"a":1}')


def test_blocks_that_are_not_closed_end_with_the_answer() -> None:
    payloads = [payload for payload in EVERYTHING if payload["type"] != "content_block_stop"]
    recording = read(*stream(*payloads))
    assert [call_id for call_id, _, _ in recording.calls()] == ["toolu_1", "toolu_2"]


def test_nothing_is_read_after_the_end() -> None:
    recording = read(*stream(start(), *said("a"), *end("end_turn")), b"data: junk\n\n")
    assert recording.text == "a"


@pytest.mark.parametrize(
    "after",
    [
        b"",
        event({"type": "message_stop"}),
        event(end("end_turn")[0]),
        b"data: {junk\n\n",
        b"data: [1]\n\n",
        event(delta(7, "text", text="b")),
        event({"type": "content_block_delta", "index": 0, "delta": "b"}),
        event(delta(0, "text", text=3)),
        event({"type": "content_block_start", "content_block": {"type": "text"}}),
        event({"type": "content_block_start", "index": 1, "content_block": {}}),
        event(block(1, type="tool_use", id="a")),
        event(delta(0, "citations", citation=3)),
        event(delta(0, "text", text="b"))[:-3],
    ],
)
def test_what_breaks_off_or_makes_no_sense_is_a_failure(after: bytes) -> None:
    reader, batch = ResponseReader(0, MARK), EventBatch()
    for payload in (start(), block(0, type="text", text=""), delta(0, "text", text="kept")):
        reader.read_stream(event(payload), batch)

    def finish() -> None:
        reader.read_stream(after, batch)
        reader.end_stream(batch)

    with pytest.raises(ProviderError) as raised:
        finish()
    assert raised.value.reason == "PROVIDER_PROTOCOL"
    assert [each.text_delta.text for each in batch.events] == ["kept"]


@pytest.mark.parametrize(
    ("kind", "message", "reason", "retryable"),
    [
        ("overloaded_error", "Overloaded", "PROVIDER_FAILED", True),
        ("api_error", "Internal server error", "PROVIDER_FAILED", True),
        ("timeout_error", "Request timed out", "PROVIDER_TIMEOUT", True),
        ("rate_limit_error", "too many", "PROVIDER_RATE_LIMITED", True),
        ("billing_error", "no money", "PROVIDER_RATE_LIMITED", False),
        ("authentication_error", "invalid x-api-key", "PROVIDER_AUTH", False),
        ("permission_error", "not yours", "PROVIDER_AUTH", False),
        ("not_found_error", "model: claude-9", "MODEL_NOT_FOUND", False),
        ("request_too_large", "too large", "PROVIDER_REJECTED", False),
        ("invalid_request_error", "temperature is wrong", "PROVIDER_REJECTED", False),
        ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", "CONTEXT_LENGTH_EXCEEDED", False),
        (
            "invalid_request_error",
            "input and `max_tokens` exceed context limit: 9",
            "CONTEXT_LENGTH_EXCEEDED",
            False,
        ),
    ],
)
def test_errors(kind: str, message: str, reason: str, retryable: bool) -> None:
    body = error(kind, message)
    reader, batch = ResponseReader(0, MARK), EventBatch()
    with pytest.raises(ProviderError) as in_stream:
        reader.read_stream(b"".join(stream(start(), *said("kept"), body)), batch)
    with pytest.raises(ProviderError) as at_once:
        whole(body)
    for raised in (in_stream, at_once):
        assert (raised.value.reason, raised.value.retryable) == (reason, retryable)
        assert raised.value.metadata["type"] == kind
    assert batch.events[0].text_delta.text == "kept"


def test_the_numbers_of_a_prompt_that_is_too_long() -> None:
    body = json.dumps(error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")).encode()
    failure = failure_of_status(400, {}, body)
    assert failure.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert (failure.metadata["prompt_tokens"], failure.metadata["context_tokens"]) == ("210000", "200000")


def test_an_overloaded_provider_may_say_when_to_try_again() -> None:
    body = json.dumps(error("overloaded_error", "Overloaded")).encode()
    failure = failure_of_status(529, {b"retry-after": b"7"}, body)
    assert (failure.reason, failure.retryable, failure.retry_after) == ("PROVIDER_FAILED", True, 7)


def test_a_whole_answer() -> None:
    recording = whole(
        {
            "type": "message",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "hi", "citations": None},
                {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"b": [1]}},
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 2},
        }
    )
    assert recording.kinds == [
        *("reasoning_delta", "reasoning_delta", "reasoning_delta", "text_delta"),
        *("tool_call_started", "tool_call_arguments_delta", "tool_call_completed", "choice_finished", "usage_reported"),
    ]
    assert recording.calls() == [("a", "f", '{"b":[1]}')]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"content": {}},
        {"content": [3], "stop_reason": "end_turn"},
        {"content": [{"type": "text", "text": "a"}], "stop_reason": None},
        {"content": [{"type": "tool_use", "id": "a", "name": ""}], "stop_reason": "tool_use"},
    ],
)
def test_a_whole_answer_that_is_none(answer: Any) -> None:
    with pytest.raises(ProviderError) as raised:
        whole(answer)
    assert raised.value.reason == "PROVIDER_PROTOCOL"
