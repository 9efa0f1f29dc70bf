"""JSON answers of models that have no JSON mode: asked for in words, checked, and asked for again.

Nothing is shown before the whole answer is right. An answer that was cut off, calls tools or is a refusal is passed on
as it is: it says by itself that it is not the JSON that was asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import FINISH_REASON_STOP
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_DEVELOPER, ROLE_SYSTEM, ROLE_USER, Message
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import DragomanError, ProviderError
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.usage import sum_of_calls
from dragoman_server.providers.wire import text_batch, whole_batch
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dragoman.v1.event_pb2 import FinishReason, RunEvent, TextDelta
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.message_pb2 import Role
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import Generation, GenerationRequest, GenerationSink
    from dragoman_server.providers.emulation.json_schema import Schema

    Start = Callable[[GenerationRequest, GenerationSink], Generation]

logger = get_logger(__name__)

MAX_ASKED = 3
"""Times that a model is asked before its answer counts as a failure."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Most bytes of an answer's events: all of them are kept until it is whole."""

_INSTRUCTION = "Answer with one JSON {what} and nothing else: no explanation before or after it, and no code fence."
_CORRECTION = "That was not what I asked for: {problem}. Answer again, with the corrected JSON {what} and nothing else."

_FENCE = re.compile(r"\A```[a-zA-Z0-9]*\s*\n(.*?)\n?```\Z", re.DOTALL)


def json_starter(start: Start) -> Start:
    """Returns what starts generations whose answers are the JSON that the request asks for.

    Args:
        start: Starts a generation of the provider, which gets no response format.
    """

    def start_json(request: GenerationRequest, sink: GenerationSink) -> Generation:
        generation = _JsonGeneration(start, request, sink)
        generation.ask()
        return generation

    return start_json


class _JsonGeneration:
    """A generation that asks until the answer is JSON. It is the sink of the provider's generations."""

    def __init__(self, start: Start, request: GenerationRequest, sink: GenerationSink) -> None:
        self._start = start
        self._schema, self._what = _form(request.spec)
        self._spec = _instructed(request.spec, self._what)
        self._request = request
        self._sink = sink
        self._usage: Usage | None = None
        self._asked = 0
        self._events: list[RunEvent] = []
        self._size = 0
        self._current: Generation | None = None
        self._paused = False

    def ask(self) -> None:
        """Asks the model.

        Raises:
            DragomanError: If the provider refuses the request.
        """
        self._asked += 1
        self._events = []
        self._size = 0
        self._current = self._start(self._request._replace(spec=self._spec, incremental=False), self)
        if self._paused:
            self._current.pause()

    # Generation

    def cancel(self) -> None:
        """Stops."""
        if self._current is not None:
            self._current.cancel()

    def pause(self) -> None:
        """Asks the provider to hold back events."""
        self._paused = True
        if self._current is not None:
            self._current.pause()

    def resume(self) -> None:
        """Lifts `pause`."""
        self._paused = False
        if self._current is not None:
            self._current.resume()

    @property
    def usage_so_far(self) -> Usage | None:
        """What the answers so far have cost; None if nothing was told."""
        current = None if self._current is None else self._current.usage_so_far
        return self._usage if current is None else sum_of_calls(current, self._usage)

    # The sink of an answer

    def on_events(self, batch: EventBatch) -> None:
        """Keeps the events; an answer that gets too large is broken off."""
        self._size += batch.ByteSize()
        if self._size <= MAX_ANSWER_BYTES:
            self._events += batch.events
        elif self._current is not None:
            self._current.cancel()

    def on_text(self, text: str) -> None:
        """Keeps the text."""
        self.on_events(text_batch(text))

    def on_whole(self, text: str, finish_reason: FinishReason, usage: bytes | None) -> None:
        """Does what `on_events` and `on_end` do."""
        self.on_events(whole_batch(text, finish_reason, usage))
        self.on_end(None)

    def on_end(self, failure: Failure | None) -> None:
        """Passes the answer on, or asks again, or gives up."""
        self._count_usage()
        self._current = None
        if self._size > MAX_ANSWER_BYTES:
            failure = _wrong(f"its answer has more than {MAX_ANSWER_BYTES:,} bytes").to_failure()
        if failure is None:
            failure = self._settle()
            if failure is None:
                return
        if self._usage is not None:
            self._sink.on_events(self._with_usage(EventBatch()))
        self._sink.on_end(failure)

    def _settle(self) -> Failure | None:
        """Passes the answer on or asks again; returns a failure if neither is possible."""
        try:
            answer, problem = _checked(self._events, self._schema)
            if not problem:
                self._sink.on_events(self._with_usage(answer))
                self._sink.on_end(None)
            elif self._asked < MAX_ASKED:
                self._spec = _corrected(self._spec, self._events, problem, self._what)
                self.ask()
            else:
                raise _wrong(f"its answer was wrong {self._asked} times: {problem}")
        except DragomanError as error:
            return error.to_failure()
        except Exception as error:  # a sink never raises
            logger.exception("a provider is at fault", exc_info=error)
            return DragomanError(f"an internal error ended the answer ({type(error).__name__})").to_failure()
        return None

    def _count_usage(self) -> None:
        """Counts what the answer reports, or has told of itself before it broke off."""
        if self._events and self._events[-1].HasField("usage_reported"):
            self._usage = sum_of_calls(self._events.pop().usage_reported.last_call, self._usage)
        else:
            self._usage = self.usage_so_far

    def _with_usage(self, batch: EventBatch) -> EventBatch:
        if self._usage is not None:
            batch.events.add().usage_reported.last_call.CopyFrom(self._usage)
        return batch


def _wrong(what: str) -> ProviderError:
    return ProviderError(
        f"the model has no JSON format of its own, and {what}",
        reason=Reason.PROVIDER_FAILED,
        field="response_format",
        retryable=False,
    )


def _form(spec: ChatSpec) -> tuple[Schema | None, str]:
    """Returns the schema that the answer must follow, if any, and what it is called.

    Raises:
        InvalidRequest: If the schema is wrong.
        UnsupportedFeature: If it cannot be checked here.
    """
    text = spec.response_format.json_schema.schema_json
    if not text:
        return None, "object"
    from dragoman_server.providers.emulation.json_schema import Schema

    return Schema(text), "value"


def _instructed(spec: ChatSpec, what: str) -> ChatSpec:
    """Returns the request with the format in words, after the other instructions."""
    form = spec.response_format.json_schema
    text = [_INSTRUCTION.format(what=what)]
    if form.description:
        text.append(f"It is for this: {form.description}")
    if form.schema_json:
        text.append(f"It must follow this JSON Schema:\n{form.schema_json}")
    instructed = ChatSpec()
    instructed.CopyFrom(spec)
    instructed.ClearField("response_format")
    roles = [message.role for message in spec.messages]
    place = next((at for at, role in enumerate(roles) if role not in (ROLE_SYSTEM, ROLE_DEVELOPER)), len(roles))
    instructed.messages.insert(place, _message(ROLE_SYSTEM, "\n".join(text)))
    return instructed


def _corrected(spec: ChatSpec, events: Iterable[RunEvent], problem: str, what: str) -> ChatSpec:
    """Returns the request with the wrong answer, and what is wrong with it."""
    corrected = ChatSpec()
    corrected.CopyFrom(spec)
    said = "".join(event.text_delta.text for event in events)
    if said:
        corrected.messages.append(_message(ROLE_ASSISTANT, said))
    corrected.messages.append(_message(ROLE_USER, _CORRECTION.format(problem=problem, what=what)))
    return corrected


def _message(role: Role, text: str) -> Message:
    message = Message(role=role)
    message.parts.add().text.text = text
    return message


def _checked(events: Sequence[RunEvent], schema: Schema | None) -> tuple[EventBatch, str]:
    """Returns the answer to pass on, or what is wrong with it.

    Raises:
        InvalidRequest: If the schema turns out to be wrong.
    """
    answer = EventBatch(events=events)
    kinds = {event.WhichOneof("kind") for event in events}
    finished = events[-1].choice_finished if "choice_finished" in kinds else None
    if finished is None or finished.finish_reason != FINISH_REASON_STOP:
        return answer, ""
    if kinds & {"refusal_delta", "tool_call_started"}:
        return answer, ""
    said = "".join(event.text_delta.text for event in events)
    text = _bare(said)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return answer, f"it is not JSON ({error})"
    problem = schema.problem(value) if schema is not None else _no_object(value)
    return (answer if text == said else _as_one_text(events, text)), problem


def _bare(text: str) -> str:
    """Returns a text without white space around it, and without the code fence that models are fond of."""
    text = text.strip()
    fenced = _FENCE.match(text)
    return fenced.group(1).strip() if fenced else text


def _no_object(value: object) -> str:
    return "" if isinstance(value, dict) else "it is not a JSON object"


def _as_one_text(events: Iterable[RunEvent], text: str) -> EventBatch:
    """Returns events with another text in place of their pieces of text; whatever those carried stays with it."""
    batch = EventBatch()
    whole: TextDelta | None = None
    for event in events:
        if not event.HasField("text_delta"):
            batch.events.append(event)
            continue
        if whole is None:
            whole = batch.events.add().text_delta
            whole.choice_index = event.text_delta.choice_index
            whole.text = text
        whole.logprobs.extend(event.text_delta.logprobs)
        whole.citations.extend(event.text_delta.citations)
    return batch
