"""Traces attempts: what starts generations is wrapped, so that routing knows nothing of spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.telemetry.propagation import outgoing_trace

if TYPE_CHECKING:
    from dragoman.v1.event_pb2 import FinishReason
    from dragoman.v1.failure_pb2 import Failure
    from dragoman_server.providers.base import EventBatch, Generation, GenerationRequest, GenerationSink
    from dragoman_server.providers.routing.adaptation import Start
    from dragoman_server.telemetry.tracing import AttemptTrace, Tracer


def traced(start: Start, tracer: Tracer, provider: str, number: int) -> Start:
    """Returns what starts generations and makes a span of each.

    Args:
        start: Starts a generation of the provider.
        tracer: Makes the spans.
        provider: Name of the provider.
        number: Number of the attempt, from 1.
    """

    def start_traced(request: GenerationRequest, sink: GenerationSink) -> Generation:
        trace = tracer.attempt(request.run_id, provider, request.model, number, request.choice_index)
        token = outgoing_trace.set(trace.carrier)
        try:
            return start(request, _TracedSink(sink, trace))
        finally:
            outgoing_trace.reset(token)

    return start_traced


class _TracedSink:
    """Passes a generation on, and takes note of its first piece and its end."""

    __slots__ = ("_answered", "_sink", "_trace")

    def __init__(self, sink: GenerationSink, trace: AttemptTrace) -> None:
        self._sink = sink
        self._trace = trace
        self._answered = False

    def on_events(self, batch: EventBatch) -> None:
        self._answer()
        self._sink.on_events(batch)

    def on_text(self, text: str) -> None:
        self._answer()
        self._sink.on_text(text)

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        self._answer()
        self._trace.ended(None)
        self._sink.on_whole(text, finish_reason, usage)

    def on_end(self, failure: Failure | None) -> None:
        self._trace.ended(failure)
        self._sink.on_end(failure)

    def _answer(self) -> None:
        if not self._answered:
            self._answered = True
            self._trace.answered()
