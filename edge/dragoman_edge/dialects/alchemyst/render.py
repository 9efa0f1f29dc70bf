"""Renders the events of a run as the chat API's stream.

Clients read it in several ways: some keep the last `content` that they see, some join every `final_response`. So there
is exactly one `final_response`, with the whole answer, and no text under the name `content` after it. What the stream
tells before that is what happens; nothing is made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from dragoman_edge.calls import error_of_cancellation, error_of_failure, error_of_restart, error_of_unknown_event
from dragoman_edge.dialects.alchemyst.answer import NO_RESEARCH, no_answer
from dragoman_edge.dialects.alchemyst.chat_errors import message_of
from dragoman_edge.dialects.text import EVENT_STREAM, PING, one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.event_pb2 import RunEvent
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.dialects.alchemyst.answer import AnswerOptions
    from dragoman_edge.errors import EdgeError

DONE = b"data: [DONE]\n\n"

_THINKING = b'data: {"type":"thinking_update","content":%b}\n\n'
_DELTA = b'data: {"type":"response_delta","delta":%b}\n\n'
_FINAL = b'data: {"type":"final_response","content":%%b,"json":%b}\n\n' % orjson.dumps(NO_RESEARCH)
_METADATA = b'data: {"type":"metadata","content":%b}\n\n'
_FAILED = b'data: {"content":null,"error":{"message":%b}}\n\n'


class ChatStreamRenderer:
    """Renders one run for one client. It does no I/O and knows nothing but the events it was given.

    Attributes:
        media_type: The media type of the stream.
        keep_alive: What is sent when there is nothing to say.
        ended: Whether the run has ended: nothing follows.
        failure: Why the run failed, once it has; `fail` renders it.
        said: Whether the model has said anything.
    """

    __slots__ = ("_last_word", "_options", "_run_id", "_text", "_thoughts", "ended", "failure", "said")
    media_type = EVENT_STREAM
    keep_alive = PING

    def __init__(self, options: AnswerOptions) -> None:
        self.ended = False
        self.failure: EdgeError | None = None
        self.said = False
        self._options = options
        self._run_id = ""
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._last_word = 0  # the sequence of the last one

    def render(self, batch: StreamRunResponse) -> bytes:
        """Returns the frames of a batch; empty if the client need not know of it."""
        frames: list[bytes] = []
        for event in batch.events[:]:
            if event.HasField("text_delta"):
                self._say(event.text_delta.text, event.sequence, frames)
                continue
            kind = event.WhichOneof("kind")
            if (render := _RENDER.get(kind)) is not None:
                self._run_id = batch.run_id
                render(self, event, frames)
            elif kind is None and not event.ignorable:
                self._fail(error_of_unknown_event())
            if self.ended:
                break
        return b"".join(frames)

    def fail(self, error: EdgeError) -> bytes:
        """Returns the end of a stream that went wrong after it began."""
        return _FAILED % quoted(message_of(error)) + DONE

    def _fail(self, error: EdgeError) -> None:
        self.ended = True
        self.failure = error
        error.run_id = self._run_id

    def _say(self, text: str, sequence: int, frames: list[bytes]) -> None:
        if not text:
            return
        self._tell_thoughts(frames)
        self.said = True
        self._last_word = sequence
        self._text.append(text)
        if self._options.deltas:
            frames.append(_DELTA % quoted(text))

    def _tell_thoughts(self, frames: list[bytes]) -> None:
        if self._thoughts:
            frames.append(_THINKING % quoted("".join(self._thoughts)))
            self._thoughts.clear()

    def _run_started(self, _event: RunEvent, frames: list[bytes]) -> None:
        options = self._options
        if options.context:
            pieces = "1 piece" if options.context == 1 else f"{options.context} pieces"
            frames.append(_THINKING % quoted(f"Added {pieces} of context"))
        for wanted, what in ((options.research, "research"), (options.tools, "tools")):
            if wanted:
                frames.append(_THINKING % quoted(f"This server has no {what} yet: answering without"))
        frames.append(_THINKING % quoted(f"Answering as {options.persona}"))

    def _step_started(self, event: RunEvent, frames: list[bytes]) -> None:
        step = event.step_started
        begin = f"Attempt {step.attempt}: asking" if step.attempt > 1 else "Asking"
        frames.append(_THINKING % quoted(f"{begin} {step.upstream_model} of {step.provider}"))

    def _reasoning(self, event: RunEvent, _frames: list[bytes]) -> None:
        if event.reasoning_delta.text:
            self._thoughts.append(event.reasoning_delta.text)

    def _refusal(self, event: RunEvent, frames: list[bytes]) -> None:
        self._say(event.refusal_delta.text, event.sequence, frames)

    def _step_restarted(self, event: RunEvent, _frames: list[bytes]) -> None:
        if self._last_word >= event.step_restarted.discards_from_sequence:
            self._fail(error_of_restart(self._run_id))

    def _run_completed(self, event: RunEvent, frames: list[bytes]) -> None:
        self._tell_thoughts(frames)
        if not self.said:
            self._fail(no_answer(self._run_id))
            return
        self.ended = True
        options, ids = self._options, event.run_completed.message_ids
        metadata = {"chatId": options.chat_id, "title": options.title, "replaySessionID": self._run_id}
        if ids:
            metadata["messageId"] = ids[-1]
        frames += (_FINAL % quoted("".join(self._text)), _METADATA % one_line(orjson.dumps(metadata)), DONE)

    def _run_failed(self, event: RunEvent, _frames: list[bytes]) -> None:
        self._fail(error_of_failure(event.run_failed.failure, self._run_id))

    def _run_cancelled(self, event: RunEvent, _frames: list[bytes]) -> None:
        self._fail(error_of_cancellation(event.run_cancelled.reason, self._run_id))


# Kinds that are not here are for those who watch the run itself; this dialect has no words for them.
_RENDER: dict[str | None, Callable[[ChatStreamRenderer, RunEvent, list[bytes]], None]] = {
    "run_started": ChatStreamRenderer._run_started,
    "step_started": ChatStreamRenderer._step_started,
    "reasoning_delta": ChatStreamRenderer._reasoning,
    "refusal_delta": ChatStreamRenderer._refusal,
    "step_restarted": ChatStreamRenderer._step_restarted,
    "run_completed": ChatStreamRenderer._run_completed,
    "run_failed": ChatStreamRenderer._run_failed,
    "run_cancelled": ChatStreamRenderer._run_cancelled,
}
