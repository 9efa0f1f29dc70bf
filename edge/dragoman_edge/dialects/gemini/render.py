"""Renders the events of a run as partial `GenerateContentResponse`s: the hot path of every stream.

A piece of text is bytes that were rendered once per answer, around text that is escaped once. The last frame has the
reasons why the candidates finished, and the usage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.message_pb2 import ToolCall
from dragoman_edge.calls import (
    error_of_cancellation,
    error_of_failure,
    error_of_restart,
    error_of_unknown_event,
)
from dragoman_edge.dialects.gemini.answer import (
    BLOCKED,
    FINISH_REASONS,
    MALFORMED,
    call_part,
    citation_metadata,
    is_blocked,
    logprobs_result,
    malformed_message,
    sound_part,
    thought_part,
    usage_metadata,
)
from dragoman_edge.dialects.gemini.errors import error_body
from dragoman_edge.dialects.text import EVENT_STREAM, one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.dialects.gemini.answer import AnswerOptions
    from dragoman_edge.dialects.gemini.request import Json
    from dragoman_edge.errors import EdgeError

_dumps = orjson.dumps

_TEXT = b'{"candidates":[{"content":{"parts":[{"text":'
"""What comes before the escaped text of a frame."""


class _Candidate:
    """What is known of one candidate so far.

    Attributes:
        index: Its index.
        tail: What comes after the escaped text of a frame.
        calls: Calls that are not complete yet, by index.
        finish: What its last frame says.
        logprob: Sum of the log probabilities of its tokens.
        tokens: Number of tokens with a log probability.
    """

    __slots__ = ("calls", "finish", "index", "logprob", "tail", "tokens")

    def __init__(self, index: int, tail: bytes) -> None:
        self.index = index
        self.tail = b'}],"role":"model"},"index":%d}]%b' % (index, tail)
        self.calls: dict[int, ToolCall] = {}
        self.finish: Json = {}
        self.logprob = 0.0
        self.tokens = 0


class GenerateContentRenderer:
    """Renders one run for one client. It does no I/O and knows nothing but the events it was given.

    Attributes:
        media_type: The media type of the stream.
        keep_alive: What is sent when there is nothing to say. No comment: Google's SDKs choke on those. An empty event
            and white space in an array are what everybody skips.
        ended: Whether the run has ended: nothing follows.
        failure: Why the run failed, once it has; `fail` renders it.
    """

    __slots__ = (
        "_after",
        "_before",
        "_before_next",
        "_candidates",
        "_close",
        "_last_rendered",
        "_options",
        "_run_id",
        "_tail",
        "_usage",
        "ended",
        "failure",
        "keep_alive",
        "media_type",
    )

    def __init__(self, options: AnswerOptions) -> None:
        self.ended = False
        self.failure: EdgeError | None = None
        self._options = options
        if options.array:
            self.media_type, self.keep_alive = "application/json", b"\n"
            self._before, self._before_next, self._after, self._close = b"[", b",\n", b"", b"]"
        else:
            self.media_type, self.keep_alive = EVENT_STREAM, b"\n\n"
            self._before, self._before_next, self._after, self._close = b"data: ", b"data: ", b"\n\n", b""
        self._run_id = ""
        self._tail = b""  # what ends every frame, once the run has started
        self._usage: Json | None = None
        self._candidates: dict[int, _Candidate] = {}
        self._last_rendered = 0

    def render(self, batch: StreamRunResponse) -> bytes:
        """Returns the frames of a batch, as they go on the wire; empty if the client need not know of it."""
        chunks: list[bytes] = []
        candidates = self._candidates
        for event in batch.events[:]:  # one list is cheaper than to ask the field for each of its items
            kind = event.WhichOneof("kind")
            if kind == "text_delta":
                delta = event.text_delta
                candidate = candidates.get(delta.choice_index) or self._candidate(delta.choice_index)
                if delta.logprobs or delta.citations:
                    self._annotated(delta, candidate, chunks)
                else:
                    chunks += (self._before, _TEXT, quoted(delta.text), candidate.tail)
                    self._before = self._before_next
            elif (render := _RENDER.get(kind)) is not None:
                self._run_id = batch.run_id
                render(self, event, chunks)
            elif kind is None and not event.ignorable:
                self._fail(error_of_unknown_event())
            if self.ended:
                break
        if chunks:
            self._last_rendered = event.sequence
        return b"".join(chunks)

    def render_text(self, text: str, sequence: int) -> bytes:
        """Returns the frame of a piece of text of the first candidate."""
        self._last_rendered = sequence
        candidate = self._candidates.get(0) or self._candidate(0)
        frame = b"".join((self._before, _TEXT, quoted(text), candidate.tail))
        self._before = self._before_next
        return frame

    def fail(self, error: EdgeError) -> bytes:
        """Returns the end of a stream that went wrong after it began."""
        return b"%b%b%b%b" % (self._before, error_body(error), self._after, self._close)

    def _fail(self, error: EdgeError) -> None:
        self.ended = True
        self.failure = error
        error.run_id = self._run_id

    def _candidate(self, index: int) -> _Candidate:
        """Returns what is known of a candidate."""
        candidate = self._candidates.get(index)
        if candidate is None:
            if not self._tail:
                raise ValueError("a run speaks before it started")
            candidate = self._candidates[index] = _Candidate(index, self._tail)
        return candidate

    def _frame(self, chunks: list[bytes], members: Json) -> None:
        """Adds a frame with these members, and those that every frame has."""
        chunks += (self._before, one_line(_dumps(members))[:-1], self._tail)
        self._before = self._before_next

    def _part(self, chunks: list[bytes], index: int, part: Json | None) -> None:
        if part is not None:
            index = self._candidate(index).index
            self._frame(chunks, {"candidates": [{"content": {"parts": [part], "role": "model"}, "index": index}]})

    def _annotated(self, delta: Any, candidate: _Candidate, chunks: list[bytes]) -> None:
        content = {"parts": [{"text": delta.text}], "role": "model"}
        frame: Json = {"content": content, "index": candidate.index}
        if delta.citations:
            frame["citationMetadata"] = citation_metadata(delta.citations[:])
        if delta.logprobs and self._options.logprobs:
            tokens = delta.logprobs[:]
            frame["logprobsResult"] = logprobs_result(tokens)
            candidate.logprob += sum(token.logprob for token in tokens)
            candidate.tokens += len(tokens)
        self._frame(chunks, {"candidates": [frame]})

    def _run_started(self, event: RunEvent, _chunks: list[bytes]) -> None:
        every = {"modelVersion": event.run_started.model, "responseId": self._run_id}
        self._tail = b",%b%b" % (_dumps(every)[1:], self._after)

    def _reasoning(self, event: RunEvent, chunks: list[bytes]) -> None:
        delta = event.reasoning_delta
        text = delta.text if self._options.thoughts else ""
        self._part(chunks, delta.choice_index, thought_part(text, delta.signature))

    def _refusal(self, event: RunEvent, chunks: list[bytes]) -> None:
        self._part(chunks, event.refusal_delta.choice_index, {"text": event.refusal_delta.text})

    def _audio(self, event: RunEvent, chunks: list[bytes]) -> None:
        if data := event.audio_delta.data:
            self._part(chunks, event.audio_delta.choice_index, sound_part(data))

    def _tool_call_started(self, event: RunEvent, _chunks: list[bytes]) -> None:
        started = event.tool_call_started
        call = ToolCall(id=started.call_id, name=started.name, signature=started.signature)
        self._candidate(started.choice_index).calls[started.call_index] = call

    def _tool_call_arguments(self, event: RunEvent, _chunks: list[bytes]) -> None:
        more = event.tool_call_arguments_delta
        self._candidate(more.choice_index).calls[more.call_index].arguments += more.arguments

    def _tool_call_completed(self, event: RunEvent, chunks: list[bytes]) -> None:
        completed = event.tool_call_completed
        candidate = self._candidate(completed.choice_index)
        call = candidate.calls.pop(completed.call_index)
        part = call_part(call)
        self._part(chunks, completed.choice_index, part)
        if part is None and not candidate.finish:
            candidate.finish = {"finishReason": MALFORMED, "finishMessage": malformed_message(call)}

    def _choice_finished(self, event: RunEvent, _chunks: list[bytes]) -> None:
        finished = event.choice_finished
        candidate = self._candidate(finished.choice_index)
        if not candidate.finish:
            candidate.finish = {"finishReason": FINISH_REASONS[finished.finish_reason]}

    def _usage_reported(self, event: RunEvent, _chunks: list[bytes]) -> None:
        self._usage = usage_metadata(event.usage_reported.run_total)

    def _step_restarted(self, event: RunEvent, chunks: list[bytes]) -> None:
        if chunks or self._last_rendered >= event.step_restarted.discards_from_sequence:
            self._fail(error_of_restart(self._run_id))

    def _end(self, chunks: list[bytes], members: Json) -> None:
        self.ended = True
        if self._usage is not None:
            members["usageMetadata"] = self._usage
        self._frame(chunks, members)
        chunks.append(self._close)

    def _run_completed(self, _event: RunEvent, chunks: list[bytes]) -> None:
        last = []
        for candidate in sorted(self._candidates.values(), key=lambda one: one.index):
            frame = {"content": {"parts": [{"text": ""}], "role": "model"}, "index": candidate.index}
            if candidate.tokens:
                frame["avgLogprobs"] = candidate.logprob / candidate.tokens
            last.append(frame | candidate.finish)
        self._end(chunks, {"candidates": last})

    def _run_failed(self, event: RunEvent, chunks: list[bytes]) -> None:
        failure = event.run_failed.failure
        if is_blocked(failure.reason) and not self._candidates:
            self._end(chunks, dict(BLOCKED))
        else:
            self._fail(error_of_failure(failure, self._run_id))

    def _run_cancelled(self, event: RunEvent, _chunks: list[bytes]) -> None:
        self._fail(error_of_cancellation(event.run_cancelled.reason, self._run_id))


# Kinds that are not here are for those who watch the run itself; this dialect has no words for them.
_RENDER: dict[str | None, Callable[[GenerateContentRenderer, RunEvent, list[bytes]], None]] = {
    "run_started": GenerateContentRenderer._run_started,
    "reasoning_delta": GenerateContentRenderer._reasoning,
    "refusal_delta": GenerateContentRenderer._refusal,
    "audio_delta": GenerateContentRenderer._audio,
    "tool_call_started": GenerateContentRenderer._tool_call_started,
    "tool_call_arguments_delta": GenerateContentRenderer._tool_call_arguments,
    "tool_call_completed": GenerateContentRenderer._tool_call_completed,
    "choice_finished": GenerateContentRenderer._choice_finished,
    "usage_reported": GenerateContentRenderer._usage_reported,
    "step_restarted": GenerateContentRenderer._step_restarted,
    "run_completed": GenerateContentRenderer._run_completed,
    "run_failed": GenerateContentRenderer._run_failed,
    "run_cancelled": GenerateContentRenderer._run_cancelled,
}
