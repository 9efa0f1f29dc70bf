"""Renders finished runs as answers, and the pieces that streams share with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from dragoman_edge.calls import raise_unless_completed
from dragoman_edge.dialects.openai.answer import AnswerOptions as OpenAIOptions
from dragoman_edge.dialects.openai.answer import finish_reason as openai_finish_reason
from dragoman_edge.dialects.soke.ids import completion_id
from dragoman_edge.dialects.text import said_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.run_pb2 import Run
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_edge.dialects.soke.schemas import ChatRequest

MODEL = "soke-v1"
"""The model that is meant where none is named."""

_NO_OPTIONS = OpenAIOptions()


class AnswerOptions(NamedTuple):
    """What of a request shapes its answer.

    Attributes:
        model: The model, as the client named it.
        conversation_id: The conversation, as a GUID; None if nothing is stored.
        chunks: Whether its stream is one of OpenAI's chunks.
        include_usage: Whether that ends with the usage.
    """

    model: str = MODEL
    conversation_id: str | None = None
    chunks: bool = False
    include_usage: bool = False


def options_of(request: ChatRequest, conversation_id: str | None) -> AnswerOptions:
    """Returns what of a request shapes its answer.

    Args:
        request: The request.
        conversation_id: The conversation, as a GUID; None if nothing is stored.
    """
    stream = request.get("stream_options") or {}
    return AnswerOptions(
        request.get("model") or MODEL,
        conversation_id,
        stream.get("format") == "openai",
        bool(stream.get("include_usage")),
    )


def render_completion(run: Run, options: AnswerOptions) -> bytes:
    """Renders a run that has ended.

    Raises:
        EdgeError: If it failed or was cancelled.
    """
    raise_unless_completed(run)
    choice = run.choices[0]
    # No content service runs yet, and a run has no record of one.
    message = {"role": "assistant", "content": said_in(choice.message), "data": services_object({})}
    return orjson.dumps(
        {
            "id": completion_id(run.id),
            "object": "chat.completion",
            "created": run.create_time.seconds,
            "model": options.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(choice.finish_reason)}],
            "usage": usage_object(run.usage),
            "conversation_id": options.conversation_id,
        }
    )


def services_object(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the content services found, by service, in the order in which they answered."""
    return {"services_used": list(results), "results": results}


def usage_object(usage: Usage) -> dict[str, int]:
    """Returns what a run consumed; zeros if nobody knows."""
    read, written = usage.input_tokens, usage.output_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def finish_reason(reason: int) -> str:
    """Returns why an answer ended."""
    return openai_finish_reason(reason, _NO_OPTIONS)
