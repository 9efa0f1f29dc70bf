"""Whole answers of Alchemyst's chat API, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import Run
from dragoman_edge.dialects.alchemyst.answer import AnswerOptions, render_direct, render_generated
from dragoman_edge.errors import EdgeError

OPTIONS = AnswerOptions(persona="maya", chat_id="64a7f92e9b4f20c5d7f1aabc", title="Hi", research_mode=True)
HEAD = '{"result":{"response":{"lc":1,"type":"constructor","id":["langchain_core","messages","AIMessage"],"kwargs":'
TAIL = (
    '"persona":"maya","json":{"searchResults":[]}},"chatId":"64a7f92e9b4f20c5d7f1aabc","title":"Hi",'
    '"researchMode":true,"stream":false}'
)


def a_run(*parts: dict[str, Any], finish: str = "STOP", **fields: Any) -> Run:
    choice = {"message": {"role": "ROLE_ASSISTANT", "parts": parts}, "finish_reason": f"FINISH_REASON_{finish}"}
    return ParseDict(
        {
            "id": "run_0192f0c1aaaa7bbb8cccddddeeee0001",
            "state": "STATE_COMPLETED",
            "model": "fast",
            "choices": [choice],
            "create_time": "2026-11-22T04:00:00.100Z",
            "end_time": "2026-11-22T04:00:00.300Z",
            **fields,
        },
        Run(),
    )


@pytest.mark.parametrize(
    ("run", "kwargs", "text"),
    [
        (
            a_run(
                {"reasoning": {"text": "Hm."}},
                {"text": {"text": "Hel"}},
                {"text": {"text": "lo"}},
                upstream_model="echo",
                usage={"input_tokens": 3, "output_tokens": 2},
                message_ids=["msg_1", "msg_2"],
            ),
            '{"content":"Hello","additional_kwargs":{},"response_metadata":{"model_name":"echo","finish_reason":"stop"},'
            '"id":"msg_2","usage_metadata":{"input_tokens":3,"output_tokens":2,"total_tokens":5}}',
            '"Hello"',
        ),
        (
            a_run({"refusal": {"text": "No, „never“."}}, finish="LENGTH"),
            '{"content":"No, „never“.","additional_kwargs":{},'
            '"response_metadata":{"model_name":"fast","finish_reason":"length"}}',
            '"No, „never“."',
        ),
    ],
)
def test_an_answer_in_a_chat(run: Run, kwargs: str, text: str) -> None:
    expected = f'{HEAD}{kwargs},"content":{text}}},"message":{text},{TAIL}'
    assert render_generated(run, OPTIONS).decode() == expected


def test_an_answer_without_a_chat() -> None:
    answer = render_direct(a_run({"text": {"text": "Hello"}}), AnswerOptions("ada"))
    assert answer == b'{"result":{"message":"Hello","persona":"ada"},"metadata":{"timeTaken":200}}'


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (a_run(), Reason.NOT_FOUND),
        (a_run({"tool_call": {"id": "c", "name": "f"}}, finish="TOOL_CALLS"), Reason.NOT_FOUND),
        (a_run(choices=[]), Reason.NOT_FOUND),
        (a_run(state="STATE_FAILED", failure={"reason": "PROVIDER_FAILED"}), Reason.PROVIDER_FAILED),
        (a_run(state="STATE_CANCELLED", cancel_reason="CANCEL_REASON_SHUTDOWN"), Reason.SHUTTING_DOWN),
    ],
)
def test_a_run_without_an_answer_is_an_error(run: Run, reason: Reason) -> None:
    for render in (render_generated, render_direct):
        with pytest.raises(EdgeError) as caught:
            render(run, OPTIONS)
        assert (caught.value.reason, caught.value.run_id) == (reason, run.id)
