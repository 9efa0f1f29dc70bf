"""The shortcuts for the commonest chat completions: they give what the long way gives."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import Message, Part, ReasoningPart, RefusalPart, Role, TextPart
from dragoman.v1.run_pb2 import ChatSpec, Choice, Run
from dragoman.v1.usage_pb2 import InputTokenDetails, OutputTokenDetails, Usage
from dragoman_edge.dialects.openai import plain
from dragoman_edge.dialects.openai.answer import AnswerOptions, completion_object, options_of, render_completion
from dragoman_edge.dialects.openai.messages import add_message
from dragoman_edge.dialects.openai.plain import read_plain
from dragoman_edge.dialects.openai.request import check_request
from dragoman_edge.dialects.openai.to_proto import fill_chat_spec
from dragoman_edge.errors import EdgeError

TEXTS = st.text(max_size=8)  # surrogates excepted, as in JSON
NUMBERS = st.integers(-3, 200) | st.sampled_from([2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1])
FLOATS = st.floats(-1, 3).map(lambda number: number or 0.0)  # of -0.0, see below
VALUES = st.none() | st.booleans() | NUMBERS | FLOATS | TEXTS | st.lists(TEXTS, max_size=2)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "nobody"])
MESSAGES = st.fixed_dictionaries(
    {"role": ROLES | VALUES, "content": TEXTS | VALUES}, optional={"name": TEXTS, "tool_call_id": TEXTS}
) | st.dictionaries(st.sampled_from(["role", "content", "name"]), TEXTS)
GOOD = {
    "model": TEXTS,
    "stream": st.booleans(),
    "temperature": st.floats(0, 2) | st.integers(0, 2),
    "top_p": st.floats(0, 1) | st.integers(0, 1),
    "max_tokens": st.integers(1, 2**31 - 1),
    "max_completion_tokens": st.integers(1, 2**31 - 1),
    "n": st.integers(1, 128),
    "seed": st.integers(-(2**63), 2**63 - 1),
}
SAID = st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": TEXTS})
PLAIN_BODIES = st.fixed_dictionaries({"messages": st.lists(SAID, min_size=1, max_size=3)}, optional=GOOD).filter(
    lambda body: not {"max_tokens", "max_completion_tokens"} <= body.keys()  # which a rule refuses
)
OTHER_BODIES = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=3) | VALUES},
    optional={name: values | VALUES for name, values in GOOD.items()} | {"stop": VALUES, "top_k": VALUES, "x": VALUES},
)


def spec_of(request: Any) -> ChatSpec:
    spec = ChatSpec()
    fill_chat_spec(spec, request)
    return spec


@given(PLAIN_BODIES)
def test_plain_bodies_are_read_in_one_walk_as_in_two(body: dict[str, Any]) -> None:
    read = read_plain(body)
    assert read is not None
    request = check_request(body)
    assert request == body
    spec, options, streams = read
    assert ChatSpec.FromString(spec) == spec_of(request)
    assert options == options_of(request)
    assert streams is bool(request.get("stream"))


@given(OTHER_BODIES)
def test_what_passes_for_plain_is_what_the_schema_accepts(body: dict[str, Any]) -> None:
    read = read_plain(body)
    if read is not None:
        request = check_request(body)
        spec, *rest = read
        assert ChatSpec.FromString(spec) == spec_of(request)
        assert rest == [options_of(request), bool(request.get("stream"))]


@pytest.mark.parametrize("first", [-0.0, 0.0])
def test_zero_has_no_sign_whoever_asks_first(first: float) -> None:
    for name in ("temperature", "top_p"):
        plain._number.cache_clear()
        for value in (first, -first):
            read = read_plain({"messages": [{"role": "user", "content": "Hi"}], name: value})
            assert read is not None
            assert str(getattr(ChatSpec.FromString(read[0]).sampling, name)) == "0.0"


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": None}, {"model": "m"}])
def test_a_request_without_messages_is_not_plain(body: dict[str, Any]) -> None:
    assert read_plain(body) is None


def test_a_request_that_breaks_a_rule_is_not_plain() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "max_completion_tokens": 1}
    assert read_plain(body) is None
    with pytest.raises(EdgeError, match="must not be used at the same time"):
        check_request(body)


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_long_texts_go_the_long_way(size: int) -> None:
    assert (read_plain({"messages": [{"role": "user", "content": "x" * size}]}) is None) is (size > 65_536)


ANY_TEXT = st.text(max_size=40) | st.sampled_from(["", "\0", "é\0", "x" * 127, "x" * 128, "é" * 9_000, "é" * 65_537])
NAMED = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": ANY_TEXT, "name": TEXTS}
)
LISTED = st.fixed_dictionaries(
    {"role": st.just("user"), "content": st.lists(st.builds(lambda text: {"type": "text", "text": text}, ANY_TEXT))}
)
TALK = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": ANY_TEXT}),
    NAMED,
    LISTED,
    st.fixed_dictionaries({"role": st.just("tool"), "content": ANY_TEXT, "tool_call_id": TEXTS}),
    st.fixed_dictionaries({"role": st.just("assistant"), "function_call": st.just({"name": "f", "arguments": "{}"})}),
)


@given(st.lists(TALK, max_size=6))
def test_messages_are_the_same_one_by_one(messages: list[Any]) -> None:
    expected = ChatSpec()
    calls: dict[str, str] = {}
    for index, message in enumerate(messages):
        add_message(expected.messages.add(), message, index, calls)
    spec = spec_of({"messages": messages})
    assert list(spec.messages) == list(expected.messages)
    assert [[part.WhichOneof("kind") for part in message.parts] for message in spec.messages] == [
        [part.WhichOneof("kind") for part in message.parts] for message in expected.messages
    ]


@pytest.mark.parametrize("more", [{}, {"name": "n"}])
def test_a_lone_surrogate_is_refused_in_any_message(more: dict[str, str]) -> None:
    with pytest.raises(UnicodeEncodeError):
        spec_of({"messages": [{"role": "user", "content": "\ud800"} | more]})


PARTS = st.builds(
    Part, text=st.none() | st.builds(TextPart, text=TEXTS), refusal=st.none() | st.builds(RefusalPart, text=TEXTS)
) | st.builds(Part, reasoning=st.builds(ReasoningPart, text=TEXTS))
CHOICES = st.builds(
    Choice,
    index=st.integers(0, 3),
    message=st.builds(Message, role=st.just(Role.ROLE_ASSISTANT), parts=st.lists(PARTS, max_size=2)),
    finish_reason=st.sampled_from(
        [
            FinishReason.FINISH_REASON_STOP,
            FinishReason.FINISH_REASON_LENGTH,
            FinishReason.FINISH_REASON_TOOL_CALLS,
            FinishReason.FINISH_REASON_CONTENT_FILTER,
        ]
    ),
)
COUNTS = st.just(0) | st.integers(0, 9)
READ = st.builds(
    InputTokenDetails,
    cached_tokens=COUNTS,
    audio_tokens=COUNTS,
    cache_write_tokens=COUNTS,
    image_tokens=st.sampled_from([0, 0, 1]),
    text_tokens=st.sampled_from([0, 0, 1]),
)
WRITTEN = st.builds(
    OutputTokenDetails,
    reasoning_tokens=COUNTS,
    audio_tokens=COUNTS,
    accepted_prediction_tokens=COUNTS,
    rejected_prediction_tokens=COUNTS,
    text_tokens=st.sampled_from([0, 0, 1]),
)
USAGES = st.builds(
    Usage,
    input_tokens=st.integers(0, 9),
    output_tokens=st.integers(0, 9),
    input_details=st.none() | READ,
    output_details=st.none() | WRITTEN,
)
RUNS = st.builds(
    Run,
    id=st.text("0123456789abcdef", max_size=8).map("run_".__add__) | TEXTS.map("run_".__add__) | TEXTS,
    state=st.just(Run.STATE_COMPLETED),
    model=TEXTS,
    choices=st.lists(CHOICES, max_size=2) | st.lists(CHOICES, min_size=1, max_size=1),
    usage=st.none() | USAGES,
)


@given(RUNS, st.builds(AnswerOptions, TEXTS, st.booleans(), st.booleans(), st.booleans()))
def test_a_plain_answer_is_rendered_as_any_other(run: Run, options: AnswerOptions) -> None:
    run.create_time.seconds = 1_760_000_000
    assert render_completion(run, options) == orjson.dumps(completion_object(run, options))
