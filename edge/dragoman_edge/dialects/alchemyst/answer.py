"""Renders finished runs as answers of the chat API, and the pieces that streams share with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FinishReason
from dragoman_edge.calls import raise_unless_completed
from dragoman_edge.dialects.text import said_in
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from dragoman.v1.run_pb2 import Run

NO_RESEARCH: dict[str, Any] = {"searchResults": []}
"""What `json` holds: nothing is searched."""


class AnswerOptions(NamedTuple):
    """What of a request shapes its answer.

    Attributes:
        persona: Who answers.
        chat_id: The chat; empty if nothing is stored.
        title: Its title.
        research_mode: What the request says of it.
        research: Whether research is wanted, by whichever name.
        tools: Whether other tools are wanted.
        context: How many pieces of context there are.
        streams: Whether the answer is a stream.
        deltas: Whether the stream shows the answer while it grows.
    """

    persona: str
    chat_id: str = ""
    title: str = ""
    research_mode: bool = False
    research: bool = False
    tools: bool = False
    context: int = 0
    streams: bool = False
    deltas: bool = False


def render_generated(run: Run, options: AnswerOptions) -> bytes:
    """Renders the answer of a stored chat.

    Raises:
        EdgeError: If the run did not end well, or the model said nothing.
    """
    text = _answer(run)
    kwargs: dict[str, Any] = {
        "content": text,
        "additional_kwargs": {},
        "response_metadata": {
            "model_name": run.upstream_model or run.model,
            "finish_reason": finish_reason(run.choices[0].finish_reason),
        },
    }
    if run.message_ids:
        kwargs["id"] = run.message_ids[-1]
    if run.HasField("usage"):
        kwargs["usage_metadata"] = {
            "input_tokens": run.usage.input_tokens,
            "output_tokens": run.usage.output_tokens,
            "total_tokens": run.usage.input_tokens + run.usage.output_tokens,
        }
    response = {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain_core", "messages", "AIMessage"],
        "kwargs": kwargs,
        "content": text,
    }
    result = {"response": response, "message": text, "persona": options.persona, "json": NO_RESEARCH}
    return orjson.dumps(
        {
            "result": result,
            "chatId": options.chat_id,
            "title": options.title,
            "researchMode": options.research_mode,
            "stream": options.streams,
        }
    )


def render_direct(run: Run, options: AnswerOptions) -> bytes:
    """Renders an answer that is not stored.

    Raises:
        EdgeError: If the run did not end well, or the model said nothing.
    """
    text = _answer(run)
    taken = run.end_time.ToMilliseconds() - run.create_time.ToMilliseconds()
    result = {"message": text, "persona": options.persona}
    return orjson.dumps({"result": result, "metadata": {"timeTaken": max(taken, 0)}})


def no_answer(run_id: str) -> EdgeError:
    """Returns the error for a run that ended well without a word, for example with the call of a tool."""
    message = "No response could be made: the model ended without saying anything."
    return EdgeError(message, reason=Reason.NOT_FOUND, run_id=run_id, retryable=False)


def finish_reason(reason: int) -> str:
    """Returns why an answer ended."""
    return FinishReason.Name(FinishReason.ValueType(reason)).removeprefix("FINISH_REASON_").lower()


def _answer(run: Run) -> str:
    raise_unless_completed(run)
    text = said_in(run.choices[0].message) if run.choices else ""
    if not text:
        raise no_answer(run.id)
    return text
