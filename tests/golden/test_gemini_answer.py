"""Whole answers in the dialect of Gemini; they tell what the streams tell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import Run
from dragoman_edge.dialects.gemini.answer import AnswerOptions, render_answer
from dragoman_edge.dialects.gemini.request import check_message
from dragoman_edge.errors import EdgeError

RUN = {"id": "run_01", "state": "STATE_COMPLETED", "model": "local/small"}
PLAIN = AnswerOptions()


def answer(*choices: Any, options: AnswerOptions = PLAIN, **run: Any) -> Any:
    body = json.loads(render_answer(ParseDict(RUN | {"choices": choices} | run, Run()), options))
    check_message(body, "GenerateContentResponse")
    return body


def choice(*parts: Any, reason: str = "STOP", **members: Any) -> dict[str, Any]:
    return {"message": {"role": "ROLE_ASSISTANT", "parts": parts}, "finish_reason": f"FINISH_REASON_{reason}"} | members


def parts_of(*parts: Any, options: AnswerOptions = PLAIN) -> Any:
    return answer(choice(*parts), options=options)["candidates"][0]["content"]["parts"]


def test_text() -> None:
    details = {"output_details": {"reasoning_tokens": 1}, "input_details": {"cached_tokens": 2}}
    body = answer(choice({"text": {"text": "a"}}), usage={"input_tokens": 3, "output_tokens": 5} | details)
    assert body == {
        "candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": 3,
            "candidatesTokenCount": 4,
            "thoughtsTokenCount": 1,
            "cachedContentTokenCount": 2,
            "totalTokenCount": 8,
        },
        "modelVersion": "local/small",
        "responseId": "run_01",
    }


def test_an_empty_answer_has_an_empty_part() -> None:
    assert parts_of() == [{"text": ""}]


def test_thoughts() -> None:
    thought = {"reasoning": {"text": "hm", "signature": "c2ln"}}
    shown = {"text": "hm", "thought": True, "thoughtSignature": "c2ln"}
    assert parts_of(thought, {"text": {"text": "a"}}, options=AnswerOptions(thoughts=True)) == [shown, {"text": "a"}]
    assert parts_of(thought) == [shown | {"text": ""}]
    assert parts_of({"reasoning": {"text": "hm"}}, {"text": {"text": "a"}}) == [{"text": "a"}]


def test_calls() -> None:
    call = {"id": "call_a", "name": "f", "arguments": '{"x": 1}', "signature": "c2ln"}
    body = answer(choice({"tool_call": call}, {"tool_call": {"id": "b", "name": "g"}}, reason="TOOL_CALLS"))
    [candidate] = body["candidates"]
    assert candidate["finishReason"] == "STOP"
    assert candidate["content"]["parts"] == [
        {"functionCall": {"id": "call_a", "name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"id": "b", "name": "g", "args": {}}},
    ]


@pytest.mark.parametrize("arguments", ['{"x":', "[1]", "5"])
def test_a_malformed_call(arguments: str) -> None:
    call = {"id": "call_a", "name": "f", "arguments": arguments}
    [candidate] = answer(choice({"tool_call": call}, reason="TOOL_CALLS"))["candidates"]
    assert candidate["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert arguments in candidate["finishMessage"]


def test_other_parts() -> None:
    found = parts_of({"refusal": {"text": "no"}}, {"audio": {"data": "YWJj", "format": "pcm16"}})
    sound = {"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": "YWJj"}}
    assert found == [{"text": "no"}, sound]


def test_citations_and_logprobs() -> None:
    source = {"url": "https://example.org", "start_index": 0, "end_index": 1}
    token = {"token": "a", "logprob": -0.5, "top": [{"token": "b", "logprob": -1.0}]}
    said = choice({"text": {"text": "a", "citations": [source]}}, logprobs=[token, token | {"logprob": -0.25}])
    [candidate] = answer(said, options=AnswerOptions(logprobs=True))["candidates"]
    sources = [{"startIndex": 0, "endIndex": 1, "uri": "https://example.org"}]
    assert candidate["citationMetadata"] == {"citationSources": sources}
    assert candidate["avgLogprobs"] == -0.375
    assert [one["logProbability"] for one in candidate["logprobsResult"]["chosenCandidates"]] == [-0.5, -0.25]
    assert candidate["logprobsResult"]["topCandidates"][0] == {"candidates": [{"token": "b", "logProbability": -1.0}]}
    assert "logprobsResult" not in answer(said)["candidates"][0]


@pytest.mark.parametrize(
    ("reason", "word"),
    [("STOP", "STOP"), ("LENGTH", "MAX_TOKENS"), ("CONTENT_FILTER", "SAFETY"), ("TOOL_CALLS", "STOP")],
)
def test_finish_reasons(reason: str, word: str) -> None:
    assert answer(choice(reason=reason))["candidates"][0]["finishReason"] == word


def test_a_request_that_a_filter_refused() -> None:
    body = answer(state="STATE_FAILED", failure={"reason": "CONTENT_FILTERED"}, usage={"input_tokens": 3})
    assert body["promptFeedback"] == {"blockReason": "SAFETY"}
    assert "candidates" not in body


def test_a_failed_run_is_an_error() -> None:
    with pytest.raises(EdgeError) as caught:
        answer(state="STATE_FAILED", failure={"reason": "PROVIDER_FAILED", "message": "It broke."})
    assert caught.value.reason is Reason.PROVIDER_FAILED
    with pytest.raises(EdgeError):
        answer(state="STATE_CANCELLED")
