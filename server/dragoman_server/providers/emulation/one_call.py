"""Answers of one tool call at most, by models that cannot be held to one: the calls after the first are left out.

The model does not learn of it: in a conversation that goes on, it has made one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.providers.base import EventBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import FinishReason, RunEvent
    from dragoman.v1.failure_pb2 import Failure
    from dragoman_server.providers.base import Generation, GenerationRequest, GenerationSink

    Start = Callable[[GenerationRequest, GenerationSink], Generation]


def one_call_starter(start: Start) -> Start:
    """Returns what starts generations that tell of one tool call at most.

    Args:
        start: Starts a generation of the provider, which is not told that there must be no more.
    """
    return lambda request, sink: start(request, _FirstCall(sink))


class _FirstCall:
    """A sink that hands on everything but the calls after the first."""

    __slots__ = ("_sink",)

    def __init__(self, sink: GenerationSink) -> None:
        self._sink = sink

    def on_events(self, batch: EventBatch) -> None:
        """Hands the events on."""
        if any(map(_is_of_later_call, batch.events)):
            batch = EventBatch(events=[event for event in batch.events if not _is_of_later_call(event)])
        if batch.events:
            self._sink.on_events(batch)

    def on_text(self, text: str) -> None:
        """Hands the text on."""
        self._sink.on_text(text)

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        """Hands the answer on."""
        self._sink.on_whole(text, finish_reason, usage)

    def on_end(self, failure: Failure | None) -> None:
        """Hands the end on."""
        self._sink.on_end(failure)


def _is_of_later_call(event: RunEvent) -> bool:
    match event.WhichOneof("kind"):
        case "tool_call_started":
            return event.tool_call_started.call_index > 0
        case "tool_call_arguments_delta":
            return event.tool_call_arguments_delta.call_index > 0
        case "tool_call_completed":
            return event.tool_call_completed.call_index > 0
    return False
