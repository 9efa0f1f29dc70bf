"""Renders the events of a run as the dialect's stream, in frames of its own or in OpenAI's chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import orjson

from dragoman.v1.event_pb2 import FINISH_REASON_STOP
from dragoman.v1.usage_pb2 import Usage
from dragoman_edge.calls import error_of_cancellation, error_of_failure, error_of_restart, error_of_unknown_event
from dragoman_edge.dialects.openai.errors import error_body
from dragoman_edge.dialects.soke.answer import finish_reason, services_object, usage_object
from dragoman_edge.dialects.soke.errors import error_object
from dragoman_edge.dialects.soke.headers import credits_text
from dragoman_edge.dialects.soke.ids import completion_id
from dragoman_edge.dialects.text import EVENT_STREAM, PING, one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman.v1.usage_pb2 import Charge
    from dragoman_edge.dialects.soke.answer import AnswerOptions
    from dragoman_edge.errors import EdgeError

DONE = b"data: [DONE]\n\n"

_CONTENT_TAIL = b'},"finish_reason":null}]}\n\n'
"""What comes after the text in a chunk."""
_CONTENT = b'data: {"type":"content","content":%b}\n\n'


class _Summary:
    """What a stream tells at its end.

    Attributes:
        results: What the content services found, by service.
        usage: What the run consumed.
        finish_reason: Why the answer ended.
        charge: What the run cost; None where nothing is charged.
    """

    __slots__ = ("charge", "finish_reason", "results", "usage")

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.usage = Usage()
        self.finish_reason: int = FINISH_REASON_STOP
        self.charge: Charge | None = None


class _Frames(Protocol):
    """The words of a stream."""

    def start(self, run_id: str, created: int) -> None:
        """Takes note of the run. Nothing is told yet."""

    def content(self, text: str) -> bytes:
        """Tells a piece of the answer."""

    def service(self, name: str, result: Any) -> bytes:
        """Tells what a content service found."""

    def end(self, summary: _Summary) -> bytes:
        """Tells that the run ended well, and how."""

    def error(self, error: EdgeError) -> bytes:
        """Tells what went wrong."""


class _SokeFrames:
    """The dialect's own frames, each with a `type`."""

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options

    def start(self, run_id: str, created: int) -> None:
        """Does nothing: frames do not name the run."""

    def content(self, text: str) -> bytes:
        return _CONTENT % quoted(text)

    def service(self, name: str, result: Any) -> bytes:
        return _frame({"type": "data", "service": name, "result": result})

    def end(self, summary: _Summary) -> bytes:
        done: dict[str, Any] = {
            "type": "done",
            "services_used": list(summary.results),
            "conversation_id": self._options.conversation_id,
            "usage": usage_object(summary.usage),
        }
        if summary.finish_reason != FINISH_REASON_STOP:  # beside the documented members: an answer that was cut
            done["finish_reason"] = finish_reason(summary.finish_reason)
        if (charge := summary.charge) is not None:  # no header can tell it: the head has long been sent
            done["credits_used"] = orjson.Fragment(credits_text(charge.amount_micros))
            done["credits_remaining"] = orjson.Fragment(credits_text(charge.available_micros))
        return _frame(done)

    def error(self, error: EdgeError) -> bytes:
        return _frame({"type": "error", "error": error_object(error)})


class _ChunkFrames:
    """OpenAI's `chat.completion.chunk` objects.

    What the services found goes with the finish reason: every chunk but that of the usage has a choice, which simple
    clients rely on.
    """

    def __init__(self, options: AnswerOptions) -> None:
        self._options = options
        self._head: dict[str, Any]
        self._content_head: bytes
        self._opened = False

    def start(self, run_id: str, created: int) -> None:
        self._head = {
            "id": completion_id(run_id),
            "object": "chat.completion.chunk",
            "created": created,
            "model": self._options.model,
        }
        head = one_line(orjson.dumps(self._head))[:-1]
        self._content_head = b'data: %b,"choices":[{"index":0,"delta":{"content":' % head

    def content(self, text: str) -> bytes:
        return self._open() + self._content_head + quoted(text) + _CONTENT_TAIL

    def service(self, name: str, result: Any) -> bytes:
        return b""

    def end(self, summary: _Summary) -> bytes:
        told = {"data": services_object(summary.results), "conversation_id": self._options.conversation_id}
        wire = self._open() + self._chunk({}, finish_reason(summary.finish_reason), **told)
        if self._options.include_usage:
            wire += _frame({**self._head, "choices": [], "usage": usage_object(summary.usage)})
        return wire

    def error(self, error: EdgeError) -> bytes:
        return b"data: %b\n\n" % error_body(error)

    def _open(self) -> bytes:
        """Returns the chunk that says who speaks, before the first of the others."""
        if self._opened:
            return b""
        self._opened = True
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        return _frame({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


class StreamRenderer:
    """Renders one run for one client. It does no I/O and knows nothing but the events it was given.

    Attributes:
        media_type: The media type of the stream.
        keep_alive: What is sent when there is nothing to say.
        ended: Whether the run has ended: nothing follows.
        failure: Why the run failed, once it has; `fail` renders it.
        said: Whether anything was told of the answer.
    """

    __slots__ = ("_frames", "_last_word", "_run_id", "_summary", "ended", "failure", "said")
    media_type = EVENT_STREAM
    keep_alive = PING

    def __init__(self, options: AnswerOptions) -> None:
        self.ended = False
        self.failure: EdgeError | None = None
        self.said = False
        self._frames: _Frames = _ChunkFrames(options) if options.chunks else _SokeFrames(options)
        self._summary = _Summary()
        self._run_id = ""
        self._last_word = 0  # the sequence of the last one

    def render(self, batch: StreamRunResponse) -> bytes:
        """Returns the frames of a batch; empty if the client need not know of it."""
        frames: list[bytes] = []
        for event in batch.events[:]:
            if event.HasField("text_delta"):
                if text := event.text_delta.text:
                    frames.append(self.render_text(text, event.sequence))
                continue
            kind = event.WhichOneof("kind")
            if (render := _RENDER.get(kind)) is not None:
                self._run_id = batch.run_id
                frames.append(render(self, event))
            elif kind is None and not event.ignorable:
                self._fail(error_of_unknown_event())
            if self.ended:
                break
        return b"".join(frames)

    def render_text(self, text: str, sequence: int) -> bytes:
        """Returns the frame of a piece of text."""
        self.said = True
        self._last_word = sequence
        return self._frames.content(text)

    def fail(self, error: EdgeError) -> bytes:
        """Returns the end of a stream that went wrong after it began."""
        return self._frames.error(error) + DONE

    def _fail(self, error: EdgeError) -> bytes:
        self.ended = True
        self.failure = error
        error.run_id = self._run_id
        return b""

    def _run_started(self, event: RunEvent) -> bytes:
        self._frames.start(self._run_id, event.event_time.seconds)
        return b""

    def _refusal(self, event: RunEvent) -> bytes:
        text = event.refusal_delta.text
        return self.render_text(text, event.sequence) if text else b""

    def _service_result(self, event: RunEvent) -> bytes:
        told = event.service_result
        result = self._summary.results[told.service] = orjson.loads(told.result_json or "null")
        self.said = True
        self._last_word = event.sequence
        return self._frames.service(told.service, result)

    def _choice_finished(self, event: RunEvent) -> bytes:
        self._summary.finish_reason = event.choice_finished.finish_reason
        return b""

    def _usage_reported(self, event: RunEvent) -> bytes:
        self._summary.usage = event.usage_reported.run_total
        return b""

    def _step_restarted(self, event: RunEvent) -> bytes:
        if self._last_word >= event.step_restarted.discards_from_sequence:
            return self._fail(error_of_restart(self._run_id))
        return b""

    def _run_completed(self, event: RunEvent) -> bytes:
        self.ended = True
        if event.run_completed.HasField("charge"):
            self._summary.charge = event.run_completed.charge
        return self._frames.end(self._summary) + DONE

    def _run_failed(self, event: RunEvent) -> bytes:
        return self._fail(error_of_failure(event.run_failed.failure, self._run_id))

    def _run_cancelled(self, event: RunEvent) -> bytes:
        return self._fail(error_of_cancellation(event.run_cancelled.reason, self._run_id))


def _frame(told: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % one_line(orjson.dumps(told))


# Kinds that are not here are for those who watch the run itself; this dialect has no words for them.
_RENDER: dict[str | None, Callable[[StreamRenderer, RunEvent], bytes]] = {
    "run_started": StreamRenderer._run_started,
    "refusal_delta": StreamRenderer._refusal,
    "service_result": StreamRenderer._service_result,
    "choice_finished": StreamRenderer._choice_finished,
    "usage_reported": StreamRenderer._usage_reported,
    "step_restarted": StreamRenderer._step_restarted,
    "run_completed": StreamRenderer._run_completed,
    "run_failed": StreamRenderer._run_failed,
    "run_cancelled": StreamRenderer._run_cancelled,
}
