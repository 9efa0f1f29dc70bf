"""Whole answers of Soke's chat API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import CANCEL_REASON_REQUESTED, FINISH_REASON_LENGTH
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.run_pb2 import Run
from dragoman_edge.dialects.soke.answer import AnswerOptions, options_of, render_completion
from dragoman_edge.errors import EdgeError
from tests.support.fake_core import CREATED, finished_run

GUID = "0192f0c1-aaaa-7bbb-8ccc-ddddeeee0001"


PLAIN = AnswerOptions()


def rendered(run: Run, options: AnswerOptions = PLAIN) -> Any:
    return json.loads(render_completion(run, options))


def test_an_answer() -> None:
    assert rendered(finished_run("Hello"), AnswerOptions(conversation_id=GUID)) == {
        "id": f"chatcmpl-{GUID}",
        "object": "chat.completion",
        "created": CREATED,
        "model": "soke-v1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "data": {"services_used": [], "results": {}}},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "conversation_id": GUID,
    }


def test_an_answer_that_nobody_keeps_or_counts() -> None:
    run = finished_run("Hello")
    run.ClearField("usage")
    answer = rendered(run, AnswerOptions("fast"))
    assert (answer["model"], answer["conversation_id"]) == ("fast", None)
    assert answer["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_refusals_and_thoughts() -> None:
    run = finished_run("a")
    run.choices[0].finish_reason = FINISH_REASON_LENGTH
    run.choices[0].message.parts.add().reasoning.text = "hm"
    run.choices[0].message.parts.add().refusal.text = " No."
    (choice,) = rendered(run)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a No.", "length")


def test_runs_that_did_not_end_well() -> None:
    failed = Run(state=Run.STATE_FAILED, failure=Failure(reason="PROVIDER_FAILED", message="It failed."))
    cancelled = Run(state=Run.STATE_CANCELLED, cancel_reason=CANCEL_REASON_REQUESTED)
    for run, reason in ((failed, Reason.PROVIDER_FAILED), (cancelled, Reason.CANCELLED)):
        with pytest.raises(EdgeError) as error:
            render_completion(run, PLAIN)
        assert error.value.reason is reason


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        ({}, AnswerOptions("soke-v1", None)),
        ({"model": "m", "stream_options": None}, AnswerOptions("m", None)),
        ({"stream_options": {"format": "soke", "include_usage": True}}, AnswerOptions(include_usage=True)),
        ({"stream_options": {"format": "openai"}}, AnswerOptions(chunks=True)),
    ],
)
def test_options(request_: Any, options: AnswerOptions) -> None:
    assert options_of(request_, None) == options
