"""Renders the events of a run as chat completion chunks: the hot path of every stream.

A chunk is bytes that were rendered once per answer, around text that is escaped once: no object is built for it.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.reasons import Reason
from dragoman.v1.message_pb2 import TOOL_KIND_CUSTOM
from dragoman_edge.calls import (
    error_of_cancellation,
    error_of_failure,
    error_of_restart,
    error_of_unknown_event,
)
from dragoman_edge.dialects.openai.answer import (
    call_object,
    completion_id,
    finish_reason,
    logprobs_object,
    usage_object,
)
from dragoman_edge.dialects.openai.errors import error_body
from dragoman_edge.dialects.text import EVENT_STREAM, PING, quoted
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.dialects.openai.answer import AnswerOptions

DONE = b"data: [DONE]\n\n"

_dumps = orjson.dumps


class _Choice:
    """What is known of one choice so far.

    Attributes:
        content: What comes before the escaped text of a content chunk.
        delta: What comes before the delta of any other chunk.
        audio_rest: Bytes of sound that do not fill a base64 group yet.
        custom_calls: Indexes of the calls of custom tools.
    """

    __slots__ = ("audio_rest", "content", "custom_calls", "delta")

    def __init__(self, head: bytes, index: int) -> None:
        self.delta = b'%b[{"index":%d,"delta":' % (head, index)
        self.content = self.delta + b'{"content":'
        self.audio_rest = b""
        self.custom_calls: set[int] = set()


class ChatRenderer:
    """Renders one run for one client. It does no I/O and knows nothing but the events it was given.

    Attributes:
        media_type: The media type of the stream.
        keep_alive: What is sent when there is nothing to say.
        ended: Whether the run has ended: nothing follows.
        failure: Why the run failed, once it has; `fail` renders it.
    """

    __slots__ = (
        "_choices",
        "_content_tail",
        "_error_body",
        "_head",
        "_last_sequence",
        "_logprobs",
        "_options",
        "_run_id",
        "_tail",
        "_usage",
        "ended",
        "failure",
    )
    media_type = EVENT_STREAM
    keep_alive = PING

    def __init__(self, options: AnswerOptions, error_body: Callable[[EdgeError], bytes] = error_body) -> None:
        self.ended = False
        self.failure: EdgeError | None = None
        self._options = options
        self._error_body = error_body
        self._logprobs = options.logprobs
        self._run_id = ""
        self._head = b""
        self._tail = b',"usage":null}\n\n' if options.include_usage else b"}\n\n"
        self._content_tail = b'},"logprobs":null,"finish_reason":null}]' + self._tail
        self._usage: dict[str, Any] | None = None
        self._choices: dict[int, _Choice] = {}
        self._last_sequence = 0  # of what was rendered

    def render(self, batch: StreamRunResponse) -> bytes:
        """Returns the chunks of a batch, as they go on the wire; empty if the client need not know of it."""
        chunks: list[bytes] = []
        choices = self._choices
        for event in batch.events[:]:  # one list is cheaper than to ask the field for each of its items
            if event.HasField("text_delta"):  # most are, and to ask for one kind is cheaper than to ask which
                delta = event.text_delta
                index, said = delta.choice_index, delta.text
                choice = choices.get(index) or self._open(chunks, index, b'""')
                if self._logprobs and delta.logprobs:
                    logprobs = _dumps(logprobs_object(delta.logprobs, ()))
                    self._chunk(chunks, choice, b'{"content":%b}' % quoted(said), logprobs)
                else:
                    chunks += (choice.content, _dumps(said) if said.isascii() else quoted(said), self._content_tail)
                continue
            kind = event.WhichOneof("kind")
            if (render := _RENDER.get(kind)) is not None:
                self._run_id = batch.run_id
                render(self, event, chunks)
            elif kind is None and not event.ignorable:
                self._fail(error_of_unknown_event())
            if self.ended:
                break
        if not chunks:
            return b""
        self._last_sequence = event.sequence
        return b"".join(chunks)

    def render_text(self, text: str, sequence: int) -> bytes:
        """Returns the chunk of a piece of text of choice 0."""
        self._last_sequence = sequence
        said = _dumps(text) if text.isascii() else quoted(text)
        choice = self._choices.get(0)
        if choice is None:
            chunks: list[bytes] = []
            choice = self._open(chunks, 0, b'""')
            return b"".join((*chunks, choice.content, said, self._content_tail))
        return choice.content + said + self._content_tail

    def fail(self, error: EdgeError) -> bytes:
        """Returns the end of a stream that went wrong after it began."""
        return b"data: %b\n\n%b" % (self._error_body(error), DONE)

    def _fail(self, error: EdgeError) -> None:
        self.ended = True
        self.failure = error
        error.run_id = self._run_id

    def _open(self, chunks: list[bytes], index: int, content: bytes) -> _Choice:
        """Returns a choice; the first chunk of each says who speaks, in the same write as its first content."""
        choice = self._choices.get(index)
        if choice is None:
            if not self._head:
                raise ValueError("a run speaks before it started")
            choice = self._choices[index] = _Choice(self._head, index)
            self._chunk(chunks, choice, b'{"role":"assistant","content":%b,"refusal":null}' % content)
        return choice

    def _chunk(
        self, chunks: list[bytes], choice: _Choice, delta: bytes, logprobs: bytes = b"null", finish: bytes = b"null"
    ) -> None:
        chunks.append(
            b'%b%b,"logprobs":%b,"finish_reason":%b}]%b' % (choice.delta, delta, logprobs, finish, self._tail)
        )

    def _run_started(self, event: RunEvent, _chunks: list[bytes]) -> None:
        frame = {
            "id": completion_id(self._run_id),
            "object": "chat.completion.chunk",
            "created": event.event_time.seconds,
            "model": self._options.model or event.run_started.model,
        }
        self._head = b'data: %b,"choices":' % _dumps(frame)[:-1]

    def _reasoning(self, event: RunEvent, chunks: list[bytes]) -> None:
        delta = event.reasoning_delta
        if delta.text:
            choice = self._open(chunks, delta.choice_index, b'""')
            self._chunk(chunks, choice, b'{"reasoning_content":%b}' % quoted(delta.text))

    def _refusal(self, event: RunEvent, chunks: list[bytes]) -> None:
        delta = event.refusal_delta
        choice = self._open(chunks, delta.choice_index, b'""')
        logprobs = _dumps(logprobs_object((), delta.logprobs)) if self._logprobs else b"null"
        self._chunk(chunks, choice, b'{"refusal":%b}' % quoted(delta.text), logprobs)

    def _tool_call_started(self, event: RunEvent, chunks: list[bytes]) -> None:
        call = event.tool_call_started
        choice = self._open(chunks, call.choice_index, b"null")
        if call.tool_kind == TOOL_KIND_CUSTOM:
            choice.custom_calls.add(call.call_index)
        if self._options.legacy_functions:
            if call.call_index > 0:
                self._fail(EdgeError("The model made a second function call.", reason=Reason.PROVIDER_PROTOCOL))
                return
            delta: dict[str, Any] = {"function_call": {"name": call.name, "arguments": ""}}
        else:
            head = call_object(call.call_id, call.name, "", call.tool_kind, call.signature)
            delta = {"tool_calls": [{"index": call.call_index, **head}]}
        self._chunk(chunks, choice, _dumps(delta))

    def _tool_call_arguments(self, event: RunEvent, chunks: list[bytes]) -> None:
        more = event.tool_call_arguments_delta
        choice = self._open(chunks, more.choice_index, b"null")
        text = quoted(more.arguments)
        if self._options.legacy_functions:
            delta = b'{"function_call":{"arguments":%b}}' % text
        elif more.call_index in choice.custom_calls:
            delta = b'{"tool_calls":[{"index":%d,"custom":{"input":%b}}]}' % (more.call_index, text)
        else:
            delta = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (more.call_index, text)
        self._chunk(chunks, choice, delta)

    def _audio(self, event: RunEvent, chunks: list[bytes]) -> None:
        more = event.audio_delta
        choice = self._open(chunks, more.choice_index, b"null")
        sound = choice.audio_rest + more.data
        # Whole groups of base64 only: then clients may join the pieces before or after they decode them.
        whole = len(sound) if more.HasField("expire_time") else len(sound) - len(sound) % 3
        choice.audio_rest = sound[whole:]
        audio: dict[str, Any] = {}
        if more.audio_id:
            audio["id"] = more.audio_id
        if whole:
            audio["data"] = base64.b64encode(sound[:whole]).decode()
        if more.transcript:
            audio["transcript"] = more.transcript
        if more.HasField("expire_time"):
            audio["expires_at"] = more.expire_time.seconds
        if audio:
            self._chunk(chunks, choice, _dumps({"audio": audio}))

    def _choice_finished(self, event: RunEvent, chunks: list[bytes]) -> None:
        finished = event.choice_finished
        choice = self._open(chunks, finished.choice_index, b'""')
        if choice.audio_rest:
            rest = base64.b64encode(choice.audio_rest).decode()
            self._chunk(chunks, choice, _dumps({"audio": {"data": rest}}))
            choice.audio_rest = b""
        reason = finish_reason(finished.finish_reason, self._options)
        self._chunk(chunks, choice, b"{}", finish=b'"%b"' % reason.encode())

    def _usage_reported(self, event: RunEvent, _chunks: list[bytes]) -> None:
        if self._options.include_usage:
            self._usage = usage_object(event.usage_reported.run_total)

    def _step_restarted(self, event: RunEvent, chunks: list[bytes]) -> None:
        if chunks or self._last_sequence >= event.step_restarted.discards_from_sequence:
            self._fail(error_of_restart(self._run_id))

    def _run_completed(self, _event: RunEvent, chunks: list[bytes]) -> None:
        self.ended = True
        if self._usage is not None:
            chunks.append(b'%b[],"usage":%b}\n\n' % (self._head, _dumps(self._usage)))
        chunks.append(DONE)

    def _run_failed(self, event: RunEvent, _chunks: list[bytes]) -> None:
        self._fail(error_of_failure(event.run_failed.failure, self._run_id))

    def _run_cancelled(self, event: RunEvent, _chunks: list[bytes]) -> None:
        self._fail(error_of_cancellation(event.run_cancelled.reason, self._run_id))


# Kinds that are not here are for those who watch the run itself; this dialect has no words for them.
_RENDER: dict[str | None, Callable[[ChatRenderer, RunEvent, list[bytes]], None]] = {
    "run_started": ChatRenderer._run_started,
    "reasoning_delta": ChatRenderer._reasoning,
    "refusal_delta": ChatRenderer._refusal,
    "audio_delta": ChatRenderer._audio,
    "tool_call_started": ChatRenderer._tool_call_started,
    "tool_call_arguments_delta": ChatRenderer._tool_call_arguments,
    "choice_finished": ChatRenderer._choice_finished,
    "usage_reported": ChatRenderer._usage_reported,
    "step_restarted": ChatRenderer._step_restarted,
    "run_completed": ChatRenderer._run_completed,
    "run_failed": ChatRenderer._run_failed,
    "run_cancelled": ChatRenderer._run_cancelled,
}
