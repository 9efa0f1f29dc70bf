"""What was said, as spans hold it when that is wanted: the JSON of OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.event_pb2 import FinishReason
from dragoman.v1.message_pb2 import Role

if TYPE_CHECKING:
    from dragoman.v1.message_pb2 import Message, Part
    from dragoman.v1.run_pb2 import ChatSpec, Run


def input_messages(spec: ChatSpec) -> str:
    """Returns the conversation of a request."""
    return orjson.dumps([_message(message) for message in spec.messages]).decode()


def output_messages(record: Run) -> str:
    """Returns the answer of a run, one message for each choice."""
    messages = []
    for choice in record.choices:
        reason = FinishReason.Name(choice.finish_reason).removeprefix("FINISH_REASON_").lower()
        messages.append(_message(choice.message) | {"role": "assistant", "finish_reason": reason})
    return orjson.dumps(messages).decode()


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {
        "role": Role.Name(message.role).removeprefix("ROLE_").lower(),
        "parts": [_part(part) for part in message.parts],
    }
    if message.name:
        written["name"] = message.name
    return written


def _part(part: Part) -> dict[str, Any]:
    kind = part.WhichOneof("kind")
    match kind:
        case "text":
            return {"type": "text", "content": part.text.text}
        case "reasoning":
            return {"type": "reasoning", "content": part.reasoning.text}
        case "refusal":
            return {"type": "refusal", "content": part.refusal.text}
        case "tool_call":
            call = part.tool_call
            return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
        case "tool_result":
            result = part.tool_result
            return {"type": "tool_call_response", "id": result.call_id, "response": [_part(p) for p in result.parts]}
        case None:
            return {"type": "unknown"}
    medium = getattr(part, kind)
    if url := getattr(medium, "url", ""):
        return {"type": "uri", "modality": kind, "uri": url}
    if file_id := getattr(medium, "file_id", ""):
        return {"type": "file", "modality": kind, "file_id": file_id}
    return {"type": "blob", "modality": kind, "size": len(medium.data)}  # the bytes themselves would be too many
