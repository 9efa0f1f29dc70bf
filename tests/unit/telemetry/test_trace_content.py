from __future__ import annotations

import json

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import ChatSpec, Run
from dragoman_server.telemetry.trace_content import input_messages, output_messages


def test_a_conversation_with_everything_in_it() -> None:
    spec = ChatSpec()
    system = spec.messages.add(role=Role.ROLE_SYSTEM, name="boss")
    system.parts.add().text.text = "be brief"
    user = spec.messages.add(role=Role.ROLE_USER)
    user.parts.add().image.url = "https://example.com/a.png"
    user.parts.add().image.data = b"12345"
    user.parts.add().file.file_id = "file-1"
    model = spec.messages.add(role=Role.ROLE_ASSISTANT)
    model.parts.add().reasoning.text = "hm"
    call = model.parts.add().tool_call
    call.id, call.name, call.arguments = "c1", "look", '{"a":1}'
    model.parts.add().refusal.text = "no"
    result = spec.messages.add(role=Role.ROLE_TOOL).parts.add().tool_result
    result.call_id = "c1"
    result.parts.add().text.text = "seen"
    assert json.loads(input_messages(spec)) == [
        {"role": "system", "name": "boss", "parts": [{"type": "text", "content": "be brief"}]},
        {
            "role": "user",
            "parts": [
                {"type": "uri", "modality": "image", "uri": "https://example.com/a.png"},
                {"type": "blob", "modality": "image", "size": 5},
                {"type": "file", "modality": "file", "file_id": "file-1"},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "tool_call", "id": "c1", "name": "look", "arguments": '{"a":1}'},
                {"type": "refusal", "content": "no"},
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": [{"type": "text", "content": "seen"}]}],
        },
    ]


def test_an_answer_is_a_message_for_each_choice() -> None:
    record = Run()
    for text in ("a", "b"):
        choice = record.choices.add(finish_reason=FinishReason.FINISH_REASON_TOOL_CALLS)
        choice.message.parts.add().text.text = text
    said = json.loads(output_messages(record))
    assert [message["parts"][0]["content"] for message in said] == ["a", "b"]
    assert {(message["role"], message["finish_reason"]) for message in said} == {("assistant", "tool_calls")}
