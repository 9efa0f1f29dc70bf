"""Whole answers, and what they share with streams: both tell the same run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from openai.types.chat import ChatCompletion

from dragoman.v1.run_pb2 import Run
from dragoman_edge.dialects.openai.answer import AnswerOptions, render_completion
from dragoman_edge.dialects.openai.answers import ANSWERS

RUN = {"id": "run_01", "state": "STATE_COMPLETED", "model": "local/small", "create_time": "2026-01-02T03:04:05Z"}
FUNCTION = {"tool_call": {"id": "call_a", "name": "f", "arguments": "{}"}}
PLAIN = AnswerOptions()
CUSTOM = {"tool_call": {"id": "call_b", "name": "c", "arguments": "x", "kind": "TOOL_KIND_CUSTOM"}}


def completion(choices: list[dict[str, Any]], options: AnswerOptions = PLAIN, **run: Any) -> Any:
    body = json.loads(render_completion(ParseDict(RUN | {"choices": choices} | run, Run()), options))
    ANSWERS["ChatCompletion"].validate_python(body)
    ChatCompletion.model_validate(body)
    return body


def choice(*parts: Any, reason: str = "STOP", **members: Any) -> dict[str, Any]:
    return {"message": {"role": "ROLE_ASSISTANT", "parts": parts}, "finish_reason": f"FINISH_REASON_{reason}"} | members


def test_text() -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "output_details": {"reasoning_tokens": 1, "text_tokens": 3}}
    body = completion(
        [choice({"reasoning": {"text": "hm"}}, {"text": {"text": "a"}}, {"text": {"text": "b"}})], usage=usage
    )
    assert body == {
        "id": "chatcmpl-01",
        "object": "chat.completion",
        "created": 1767323045,
        "model": "local/small",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "hm"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "completion_tokens_details": {
                "reasoning_tokens": 1,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
                "text_tokens": 3,
            },
        },
    }


def test_the_model_is_what_the_client_asked_for() -> None:
    assert completion([choice()], AnswerOptions(model="alias"))["model"] == "alias"


def test_an_empty_answer_has_empty_content() -> None:
    assert completion([choice(reason="LENGTH")])["choices"][0]["message"]["content"] == ""


def test_several_choices() -> None:
    body = completion([choice({"text": {"text": "a"}}), choice({"text": {"text": "b"}}, index=1)])
    assert [(one["index"], one["message"]["content"]) for one in body["choices"]] == [(0, "a"), (1, "b")]


def test_tool_calls() -> None:
    message = completion([choice(FUNCTION, CUSTOM, reason="TOOL_CALLS")])["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "call_b", "type": "custom", "custom": {"name": "c", "input": "x"}},
    ]


def test_signed_tool_calls() -> None:
    parts = [{"tool_call": part["tool_call"] | {"signature": "cHJvb2Y+"}} for part in (FUNCTION, CUSTOM)]
    body = completion([choice(*parts, FUNCTION, reason="TOOL_CALLS")])
    signed = {"google": {"thought_signature": "cHJvb2Y+"}}
    for told in (body, ChatCompletion.model_validate(body).model_dump()):  # the SDK keeps it for who sends it back
        calls = told["choices"][0]["message"]["tool_calls"]
        assert [call.get("extra_content") for call in calls] == [signed, signed, None]


def test_deprecated_function_call() -> None:
    options = AnswerOptions(legacy_functions=True)
    one = completion([choice(FUNCTION, reason="TOOL_CALLS")], options)["choices"][0]
    assert one["finish_reason"] == "function_call"
    assert one["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert "tool_calls" not in one["message"]


def test_refusal_and_logprobs() -> None:
    token = {"token": "no", "logprob": -0.25, "token_bytes": "bm8="}
    answer = choice({"refusal": {"text": "no"}}, refusal_logprobs=[token])
    one = completion([answer], AnswerOptions(logprobs=True))["choices"][0]
    assert completion([answer])["choices"][0]["logprobs"] is None  # not asked for
    assert one["message"] == {"role": "assistant", "content": None, "refusal": "no"}
    assert one["logprobs"] == {
        "content": None,
        "refusal": [{"token": "no", "logprob": -0.25, "bytes": [110, 111], "top_logprobs": []}],
    }


def test_audio() -> None:
    part = {"audio": {"data": "YWJj", "format": "wav", "transcript": "abc"}}
    message = completion([choice(part)])["choices"][0]["message"]
    assert message["content"] is None
    assert message["audio"]["data"] == "YWJj"
    assert message["audio"]["transcript"] == "abc"


@pytest.mark.parametrize(
    ("reason", "word"),
    [("STOP", "stop"), ("LENGTH", "length"), ("TOOL_CALLS", "tool_calls"), ("CONTENT_FILTER", "content_filter")],
)
def test_finish_reasons(reason: str, word: str) -> None:
    assert completion([choice(reason=reason)])["choices"][0]["finish_reason"] == word
