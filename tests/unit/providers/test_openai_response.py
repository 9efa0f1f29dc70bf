from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.errors import ProviderError
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.openai_chat.response import ResponseReader
from dragoman_server.providers.signatures import mark_of
from dragoman_server.providers.wire import text_batch, whole_batch
from tests.support.generation import Recording
from tests.support.upstream_server import DONE, chunk, cut, event

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = mark_of("google")


def read(*pieces: bytes, choice_index: int = 0) -> Recording:
    reader = ResponseReader(choice_index, MARK)
    batches = []
    for piece in pieces:
        batches.append(EventBatch())
        reader.read_stream(piece, batches[-1])
    batches.append(EventBatch())
    reader.end_stream(batches[-1])
    return Recording(batches=batches, starting=False)


def frames(*payloads: Any) -> bytes:
    return b"".join(map(event, payloads))


def whole(answer: Any) -> Recording:
    batch = EventBatch()
    ResponseReader(0, MARK).read_whole(json.dumps(answer).encode(), batch)
    return Recording(batches=[batch], starting=False)


STOP = chunk({}, "stop")


async def test_text_from_many_frames_of_one_read_is_one_batch() -> None:
    recording = read(frames(*(chunk({"content": word}) for word in "abc"), STOP) + DONE)
    assert [len(batch.events) for batch in recording.batches] == [3, 1]
    assert recording.text == "abc"


@pytest.mark.parametrize(
    "word", ["a", 'quo"te', "back\\slash", "\n", "é", "🐪", "\u2028", "\x00", "</s>", "", "data: x\n\n"]
)
async def test_any_text_survives_among_others_like_it(word: str) -> None:
    for ascii_only in (True, False):
        texts = ["one", " two", word, " three", word, word, "end"]
        encoded = [json.dumps(chunk({"content": text}), ensure_ascii=ascii_only).encode() for text in texts]
        assert read(*map(event, encoded), event(STOP)).text == "".join(texts)
        assert read(b"".join(map(event, encoded)) + event(STOP)).text == "".join(texts)


TEXT = st.text(max_size=6)


@given(
    st.lists(TEXT | st.sampled_from(['"', "\\", '"}', '","content":"x'])),
    st.booleans(),
    st.integers(1, 400),
    st.integers(0, 200),
)
async def test_any_texts_in_any_packets(texts: list[str], ascii_only: bool, size: int, choice_index: int) -> None:
    encoded = [json.dumps(chunk({"content": text}), ensure_ascii=ascii_only).encode() for text in texts]
    stream = b"".join(map(event, [*encoded, STOP])) + DONE
    recording = read(*cut(stream, size), choice_index=choice_index)
    assert [each.text_delta.text for each in recording.events if each.HasField("text_delta")] == [t for t in texts if t]
    assert {each.text_delta.choice_index for each in recording.events if each.HasField("text_delta")} <= {choice_index}


async def test_fields_of_a_chunk_that_change_between_chunks() -> None:
    texts = [f"t{index}" for index in range(40)]
    payloads = [
        {**chunk({"content": text}), "created": index // 7, "obfuscation": "x" * (index % 5)}
        for index, text in enumerate(texts)
    ]
    assert read(frames(*payloads, STOP)).text == "".join(texts)


async def test_a_chunk_like_the_ones_before_but_with_more_in_it() -> None:
    plain = [chunk({"content": word}) for word in ("a", "b", "c", "d")]
    last = chunk({"content": "e"}, "length")
    recording = read(*(event(each) for each in [*plain, last]))
    assert recording.text == "abcde"
    assert recording.finished is not None
    assert recording.finished.finish_reason == 2


async def test_thoughts_under_both_names_are_taken_once() -> None:
    both = chunk({"reasoning_content": "hm", "reasoning": "hm"})
    assert read(frames(both, chunk({"reasoning": "!"}), STOP)).reasoning == "hm!"


async def test_thoughts_then_text_of_the_same_shape() -> None:
    thoughts = [chunk({"content": None, "reasoning_content": word}) for word in "abcd"]
    texts = [chunk({"content": word, "reasoning_content": None}) for word in "efgh"]
    recording = read(*(event(each) for each in [*thoughts, *texts, STOP]))
    assert (recording.reasoning, recording.text) == ("abcd", "efgh")


async def test_content_as_parts() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    recording = read(frames(chunk({"content": parts}), STOP))
    assert (recording.reasoning, recording.text) == ("hm", "yes")


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("stop", 1),
        ("length", 2),
        ("tool_calls", 3),
        ("function_call", 3),
        ("content_filter", 4),
        ("eos", 1),
        ("new", 1),
    ],
)
async def test_finish_reasons(word: str, finish: int) -> None:
    recording = read(frames(chunk({"content": "a"}), chunk({}, word), chunk({}, "stop")))
    assert recording.finished is not None
    assert recording.finished.finish_reason == finish


async def test_a_finish_that_says_failure_is_one() -> None:
    with pytest.raises(ProviderError) as raised:
        read(frames(chunk({"content": "a"}), chunk({}, "error")))
    assert raised.value.reason == "PROVIDER_FAILED"


@pytest.mark.parametrize(
    "usage",
    [
        [chunk({}, "stop", **{}) | {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}],
        [STOP, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}],
        [STOP, {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}],
        [
            {**chunk({"content": "x"}), "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
            STOP,
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}},
        ],
    ],
)
async def test_usage_wherever_it_stands(usage: list[Any]) -> None:
    recording = read(frames(*usage) + DONE)
    assert recording.usage is not None
    assert (recording.usage.input_tokens, recording.usage.output_tokens) == (5, 2)


def test_usage_so_far_is_that_of_the_last_chunk() -> None:
    reader = ResponseReader(0, MARK)
    assert reader.usage is None
    for written in (1, 2):
        counts = {"prompt_tokens": 5, "completion_tokens": written, "prompt_tokens_details": {"cached_tokens": 3}}
        reader.read_stream(frames({**chunk({"content": "x"}), "usage": counts}), EventBatch())
        assert reader.usage is not None
        assert (reader.usage.input_tokens, reader.usage.output_tokens) == (5, written)
        assert reader.usage.input_details.cached_tokens == 3


async def test_details_of_usage() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1, "new_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 8, "accepted_prediction_tokens": 2, "audio_tokens": None},
    }
    got = read(frames(STOP, {"choices": [], "usage": usage})).usage
    assert got is not None
    assert (got.input_details.cached_tokens, got.input_details.audio_tokens) == (4, 1)
    assert (got.output_details.reasoning_tokens, got.output_details.accepted_prediction_tokens) == (8, 2)


@pytest.mark.parametrize("usage", [{"prompt_tokens": "many"}, {"prompt_tokens": -1}, {"prompt_tokens": 1.5}])
async def test_usage_that_makes_no_sense_counts_nothing(usage: dict[str, Any]) -> None:
    got = read(frames(STOP, {"choices": [], "usage": usage})).usage
    assert got is not None
    assert got.input_tokens == 0


async def test_unknown_frames_are_skipped() -> None:
    strange = [{"warning": "slow"}, {"choices": []}, {"choices": None}, {"object": "ping"}]
    assert read(b": ping\n\nevent: ping\n\n" + frames(*strange, chunk({"content": "a"}), *strange, STOP)).text == "a"


async def test_text_after_the_finish_reason_is_kept_and_precedes_it() -> None:
    recording = read(frames(chunk({"content": "a"}), STOP, chunk({"content": "b"})) + DONE)
    assert recording.kinds == ["text_delta", "text_delta", "choice_finished"]


async def test_nothing_is_read_after_done() -> None:
    recording = read(frames(chunk({"content": "a"}), STOP) + DONE + b"data: junk\n\n")
    assert recording.text == "a"


async def test_done_without_a_blank_line_is_the_end() -> None:
    assert read(frames(chunk({"content": "a"}), STOP) + b"data: [DONE]").finished is not None


@pytest.mark.parametrize(
    "end",
    [
        b"",
        DONE,
        b"data: {junk\n\n",
        b"data: [1]\n\n",
        b'data: {"choices": 3}\n\n',
        b'data: {"choices": [3]}\n\n',
        b'data: {"choices": [{"delta": []}]}\n\n' + DONE,
        b'data: {"choices": [{"delta": "x"}]}\n\n',
        b'data: {"choices": [{"delta": {"tool_calls": [3]}}]}\n\n',
        b'data: {"choi',
    ],
)
async def test_what_ends_without_a_finish_or_makes_no_sense_is_a_failure(end: bytes) -> None:
    reader, batch = ResponseReader(0, MARK), EventBatch()
    reader.read_stream(event(chunk({"content": "kept"})), batch)

    def finish() -> None:
        reader.read_stream(end, batch)
        reader.end_stream(batch)

    with pytest.raises(ProviderError) as raised:
        finish()
    assert raised.value.reason == "PROVIDER_PROTOCOL"
    assert batch.events[0].text_delta.text == "kept"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (event({"error": {"message": "no", "type": "server_error", "code": None}}), "PROVIDER_FAILED"),
        (b'event: error\ndata: {"error": {"message": "no", "code": 429}}\n\n', "PROVIDER_RATE_LIMITED"),
        (b'event: error\ndata: {"message": "no", "code": "503"}\n\n', "PROVIDER_FAILED"),
        (b"event: error\ndata: no\n\n", "PROVIDER_FAILED"),
        (event({"error": "no"}), "PROVIDER_FAILED"),
        (event({"error": {"message": "no", "type": "rate_limit_error"}}), "PROVIDER_RATE_LIMITED"),
        (event({"error": {"message": "no", "code": "context_length_exceeded"}}), "CONTEXT_LENGTH_EXCEEDED"),
        (event({"choices": [], "error": {"message": "no", "code": 400}}), "PROVIDER_REJECTED"),
    ],
)
async def test_error_frames(frame: bytes, reason: str) -> None:
    reader, batch = ResponseReader(0, MARK), EventBatch()
    with pytest.raises(ProviderError) as raised:
        reader.read_stream(event(chunk({"content": "kept"})) + frame, batch)
    assert raised.value.reason == reason
    assert raised.value.message == "no"
    assert batch.events[0].text_delta.text == "kept"


async def test_log_probabilities_of_incomplete_characters() -> None:
    tokens = [
        {"token": "\\xf0", "logprob": -0.5, "bytes": [0xF0, 0x9F], "top_logprobs": [{"token": "x", "logprob": -1}]}
    ]
    recording = read(frames(chunk({"content": ""}, None, logprobs={"content": tokens}), STOP))
    (token,) = recording.events[0].text_delta.logprobs
    assert (token.token_bytes, token.logprob) == (b"\xf0\x9f", -0.5)
    assert token.top[0].token == "x"


async def test_sound_in_pieces_that_are_no_whole_base64() -> None:
    sound = bytes(range(50))
    encoded = base64.b64encode(sound).decode()
    deltas = [chunk({"audio": {"id": "a1"}})]
    deltas += [chunk({"audio": {"data": encoded[at : at + 7], "transcript": "la"}}) for at in range(0, len(encoded), 7)]
    deltas += [chunk({"audio": {"expires_at": 1_700_000_000}})]
    recording = read(frames(*deltas, STOP))
    audio = [each.audio_delta for each in recording.events if each.HasField("audio_delta")]
    assert b"".join(each.data for each in audio) == sound
    assert audio[0].audio_id == "a1"
    assert audio[-1].expire_time.seconds == 1_700_000_000


async def test_function_call_of_old() -> None:
    recording = read(
        frames(
            chunk({"function_call": {"name": "f", "arguments": "{"}}),
            chunk({"function_call": {"arguments": "}"}}),
            chunk({}, "function_call"),
        )
    )
    ((_, name, arguments),) = recording.calls()
    assert (name, arguments) == ("f", "{}")


async def test_a_whole_answer() -> None:
    message = {
        "role": "assistant",
        "content": "hi",
        "reasoning_content": "hm",
        "refusal": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    recording = whole(
        {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 1}}
    )
    assert recording.kinds == [
        *("reasoning_delta", "text_delta", "tool_call_started", "tool_call_arguments_delta", "tool_call_completed"),
        *("choice_finished", "usage_reported"),
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"error": {"message": "no", "code": 429}}, "PROVIDER_RATE_LIMITED"),
        ({}, "PROVIDER_PROTOCOL"),
        ([], "PROVIDER_PROTOCOL"),
        ({"choices": []}, "PROVIDER_PROTOCOL"),
        ({"choices": [{}]}, "PROVIDER_PROTOCOL"),
        ({"choices": [{"message": {"content": "x"}}]}, "PROVIDER_PROTOCOL"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]}, "PROVIDER_FAILED"),
    ],
)
async def test_a_whole_answer_that_is_none(answer: Any, reason: str) -> None:
    with pytest.raises(ProviderError) as raised:
        whole(answer)
    assert raised.value.reason == reason


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(0, 2))
def test_one_piece_of_text_at_a_time_is_what_the_whole_stream_says(text: str, choice_index: int) -> None:
    event_of_text = event(chunk({"content": text}))
    reader, general = ResponseReader(choice_index, MARK), ResponseReader(choice_index, MARK)
    for each in (reader, general):
        each.read_stream(event(chunk({"content": "first"})), EventBatch())
    expected = EventBatch()
    general.read_stream(event_of_text, expected)
    told = reader.read_text(event_of_text)
    if choice_index == 0 and text:
        assert told == text
        assert text_batch(text) == expected
    else:
        assert told is None
    assert reader.read_text(event_of_text[:-1]) is None


COUNT = st.integers(-2, 300) | st.integers(0, 2**63) | st.sampled_from([None, True, 1.5, "many", 0x3FFF, 0x4000])
ODD: st.SearchStrategy[Any] = st.sampled_from([None, "", "x", 0, 1, [], [1], {}, {"x": 1}, {"message": "x"}, True])
USAGE = ODD | st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "prompt_tokens_details": ODD | st.fixed_dictionaries({}, optional={"cached_tokens": COUNT}),
    },
)
WORD = st.sampled_from(["stop", "length", "tool_calls", "STOP", "eos", "new", "error", "", 7, None, ["stop"]])
MESSAGE: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"content": st.text(st.characters(exclude_categories=["Cs"]), max_size=200)},
    optional={"role": st.just("assistant"), "refusal": st.none(), "annotations": st.just([])},
)
ODD_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "content": ODD | st.just([{"type": "text", "text": "a"}]),
        "refusal": st.sampled_from(["no", None, {}]),
        "reasoning": ODD,
        "reasoning_content": ODD,
        "tool_calls": st.sampled_from([[], None, [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]]),
        "annotations": ODD,
    },
)
CHOICE = st.fixed_dictionaries(
    {"message": MESSAGE | MESSAGE | ODD_MESSAGE | ODD, "finish_reason": st.just("stop") | WORD},
    optional={
        "logprobs": st.sampled_from([None, {}, {"content": [{"token": "a", "logprob": -1}]}, "x"]),
        "stop_reason": st.sampled_from([None, "", "END", 7]),
    },
)
ANSWER = st.fixed_dictionaries(
    {"choices": CHOICE.map(lambda choice: [choice]) | st.lists(CHOICE | ODD, max_size=2) | ODD},
    optional={"usage": USAGE, "error": st.sampled_from([None, {}, {"message": "no"}, "no"]), "model": st.just("m")},
)


def outcome(read: Callable[[EventBatch], None]) -> tuple[EventBatch, str | None]:
    batch = EventBatch()
    try:
        read(batch)
    except ProviderError as error:
        return batch, str(error)
    return batch, None


def read_whole(reader: ResponseReader, data: bytes, batch: EventBatch) -> None:
    """Reads an answer as the provider does, and makes a batch of it whichever way it takes."""
    plain = reader.read_plain(data)
    if plain is None:
        reader.read_whole(data, batch)
    else:
        batch.MergeFrom(whole_batch(*plain))


@given(ANSWER, st.sampled_from([0, 0, 0, 1]))
def test_a_whole_answer_of_the_common_shape_is_read_like_any_other(answer: dict[str, Any], choice_index: int) -> None:
    data = json.dumps(answer).encode()
    got = outcome(lambda batch: read_whole(ResponseReader(choice_index, MARK), data, batch))
    assert got == outcome(lambda batch: ResponseReader(choice_index, MARK).read_whole(data, batch))


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    st.sampled_from(["stop", "length", "eos"]),
    st.none() | st.fixed_dictionaries({"prompt_tokens": COUNT, "completion_tokens": COUNT}),
)
def test_a_plain_answer_takes_the_short_way(text: str, word: str, usage: dict[str, Any] | None) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    answer = {"choices": [{"message": message, "logprobs": None, "finish_reason": word}], "usage": usage}
    data = json.dumps(answer).encode()
    plain = ResponseReader(0, MARK).read_plain(data)
    assert plain is not None
    expected = EventBatch()
    ResponseReader(0, MARK).read_whole(data, expected)
    assert whole_batch(*plain) == expected
