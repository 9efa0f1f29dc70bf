"""Folding: the reducer that turns the events of a run into its record.

The fold is kept current beside the event log, so that an answer never depends on which events are still kept.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from dragoman.v1.event_pb2 import FINISH_REASON_UNSPECIFIED, FinishReason, RunEvent, TextDelta
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, TOOL_KIND_FUNCTION, ToolKind
from dragoman.v1.run_pb2 import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dragoman.v1.event_pb2 import CancelReason, RunCompleted, StepStarted, TokenLogprob
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.message_pb2 import Citation, Part
    from dragoman.v1.run_pb2 import Choice
    from dragoman.v1.usage_pb2 import RateState, Usage

CONTENT_KINDS = frozenset(
    {"text_delta", "reasoning_delta", "refusal_delta", "audio_delta", "tool_call_started", "service_result"}
)
"""Kinds of events after which a failed step can no longer be tried again unseen."""


_TEXT = TextDelta.DESCRIPTOR.fields_by_name["text"]


class Step(NamedTuple):
    """What the beginning of a step says; see `StepStarted`."""

    step_id: str
    provider: str
    upstream_model: str
    attempt: int
    dropped_params: Sequence[str]
    emulated_features: Sequence[str]

    def write(self, started: StepStarted) -> None:
        """Writes it into an event."""
        started.step_id = self.step_id
        started.provider = self.provider
        started.upstream_model = self.upstream_model
        started.attempt = self.attempt
        if self.dropped_params:
            started.dropped_params.extend(self.dropped_params)
        if self.emulated_features:
            started.emulated_features.extend(self.emulated_features)


def plain_text(event: RunEvent) -> str:
    """Returns the text of an event that is nothing but text of the first choice; of any other an empty string."""
    fields = event.text_delta.ListFields()  # cheaper than to ask for the kind of the event, and then for each field
    if len(fields) == 1 and fields[0][0] is _TEXT:
        text: str = fields[0][1]
        return text
    return ""


class _Audio:
    """What a spoken answer has beyond its transcript."""

    __slots__ = ("audio_id", "data", "expire_time")

    def __init__(self) -> None:
        self.audio_id = ""
        self.data: list[bytes] = []
        self.expire_time: Timestamp | None = None


class _Segment:
    """A run of deltas of one kind, which becomes one part of the message."""

    __slots__ = ("audio", "call", "citations", "kind", "redacted", "signature", "texts")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.texts: list[str] = []
        self.citations: list[Citation] | None = None
        self.call: tuple[str, str, ToolKind] | None = None  # id, name, kind
        self.signature = b""  # of a thought or a call; a signed thought is complete
        self.redacted = False
        self.audio: _Audio | None = None

    def fill(self, part: Part) -> None:
        text = "".join(self.texts)
        match self.kind:
            case "text":
                part.text.text = text
                if self.citations is not None:
                    part.text.citations.extend(self.citations)
            case "reasoning":
                part.reasoning.text = text
                part.reasoning.signature = self.signature
                part.reasoning.redacted = self.redacted
            case "refusal":
                part.refusal.text = text
            case "audio" if self.audio:
                part.audio.transcript = text
                part.audio.audio_id = self.audio.audio_id
                part.audio.data = b"".join(self.audio.data)
                if self.audio.expire_time is not None:
                    part.audio.expire_time.CopyFrom(self.audio.expire_time)
            case "tool_call" if self.call:
                call = part.tool_call
                call.id, call.name, call.kind = self.call
                call.arguments = text
                call.signature = self.signature


class _ChoiceState:
    """One choice so far."""

    __slots__ = ("calls", "finish_reason", "logprobs", "refusal_logprobs", "segments", "stop_sequence")

    def __init__(self) -> None:
        self.segments: list[_Segment] = []
        self.calls: dict[int, _Segment] = {}
        self.finish_reason: FinishReason = FINISH_REASON_UNSPECIFIED
        self.stop_sequence = ""
        self.logprobs: list[TokenLogprob] = []
        self.refusal_logprobs: list[TokenLogprob] = []

    def segment(self, kind: str) -> _Segment:
        """Returns the open segment of a kind, or begins one."""
        if self.segments and self.segments[-1].kind == kind:
            return self.segments[-1]
        segment = _Segment(kind)
        self.segments.append(segment)
        return segment

    def fill(self, index: int, choice: Choice) -> None:
        choice.index = index
        choice.finish_reason = self.finish_reason
        if self.stop_sequence:
            choice.stop_sequence = self.stop_sequence
        if self.logprobs:
            choice.logprobs.extend(self.logprobs)
        if self.refusal_logprobs:
            choice.refusal_logprobs.extend(self.refusal_logprobs)
        message = choice.message
        message.role = ROLE_ASSISTANT
        for segment in self.segments:
            segment.fill(message.parts.add())


class Fold:
    """The state of a run so far: `apply` it to every event, in order; `fill` a record at any time.

    Attributes:
        state: Where the run is.
        has_content: Whether the model has said anything.
        usage: What the run consumed so far, as reported.
        last_sequence: Sequence of the newest event applied.
        outcome: What the end of a run that ended well tells.
        rate_state: What was left of the caller's limits when the run began.
    """

    __slots__ = (
        "_choices",
        "_marks",
        "attempts",
        "cancel_reason",
        "dropped_params",
        "emulated_features",
        "end_time",
        "failure",
        "has_content",
        "last_sequence",
        "model",
        "outcome",
        "provider",
        "rate_state",
        "state",
        "upstream_model",
        "usage",
    )

    def __init__(self) -> None:
        self.state = Run.STATE_RUNNING
        self.has_content = False
        self.usage: Usage | None = None
        self.failure: Failure | None = None
        self.cancel_reason: CancelReason | None = None
        self.end_time: Timestamp | None = None
        self.last_sequence = 0
        self.model = ""
        self.provider = ""
        self.upstream_model = ""
        self.attempts = 0
        self.dropped_params: Sequence[str] = ()
        self.emulated_features: Sequence[str] = ()
        self.outcome: RunCompleted | None = None
        self.rate_state: RateState | None = None
        self._choices: dict[int, _ChoiceState] = {}
        self._marks: dict[str, dict[int, _ChoiceState]] = {}

    def apply(self, events: Sequence[RunEvent]) -> None:
        """Applies events, in order. They are referred to, not copied, and must not change any more.

        Raises:
            ValueError: If an event is of an unknown kind and may not be skipped; those before it are applied.
        """
        for event in events:
            if text := plain_text(event):
                self.add_text(text)
                continue
            kind = event.WhichOneof("kind")
            if kind == "text_delta":
                delta = event.text_delta
                choice = self._choices.get(delta.choice_index) or self._choice(delta.choice_index)
                segments = choice.segments
                segment = segments[-1] if segments and segments[-1].kind == "text" else choice.segment("text")
                segment.texts.append(delta.text)
                if delta.logprobs:
                    choice.logprobs.extend(delta.logprobs)
                if delta.citations:
                    segment.citations = [*(segment.citations or ()), *delta.citations]
                self.has_content = True
            elif kind is not None and (handler := _HANDLERS.get(kind)) is not None:
                handler(self, event)
                if kind in CONTENT_KINDS:
                    self.has_content = True
            elif kind is None and not event.ignorable:
                raise ValueError(f"event {event.sequence} is of an unknown kind and not ignorable")
        if events:
            self.last_sequence = event.sequence

    def begin(self, model: str, step: Step, rate_state: RateState | None = None) -> None:
        """Does what `apply` does for a `run_started` and the first `step_started`."""
        self.model = model
        self.rate_state = rate_state
        _, self.provider, self.upstream_model, self.attempts, self.dropped_params, self.emulated_features = step
        self._marks[step.step_id] = {}
        self.last_sequence = 2

    def complete(self, usage: Usage, nanos: int, outcome: RunCompleted | None = None) -> None:
        """Does what `apply` does for the last `usage_reported` and a `run_completed`, but for the sequence.

        Args:
            usage: What the run consumed.
            nanos: When it ended, in nanoseconds since the epoch.
            outcome: What its last event tells, if anything.
        """
        self.outcome = outcome
        self.usage = usage
        self.state = Run.STATE_COMPLETED
        end_time = self.end_time = Timestamp()
        end_time.seconds, end_time.nanos = divmod(nanos, 1_000_000_000)

    @property
    def end_nanos(self) -> int:
        """When the run ended, in nanoseconds since the epoch; 0 if it goes on."""
        end = self.end_time
        return 0 if end is None else end.seconds * 1_000_000_000 + end.nanos

    def add_text(self, text: str) -> None:
        """Does what `apply` does for an event that is plain text of the first choice, but for the sequence."""
        choice = self._choices.get(0) or self._choice(0)
        segments = choice.segments
        segment = segments[-1] if segments and segments[-1].kind == "text" else choice.segment("text")
        segment.texts.append(text)
        self.has_content = True

    def finished(self, choice_index: int) -> bool:
        """Returns whether the choice is complete."""
        choice = self._choices.get(choice_index)
        return choice is not None and choice.finish_reason != FINISH_REASON_UNSPECIFIED

    def fill(self, run: Run) -> None:
        """Writes the state into a record."""
        run.state = self.state
        run.model = self.model
        run.provider = self.provider
        run.upstream_model = self.upstream_model
        run.attempts = self.attempts
        if self.dropped_params:
            run.dropped_params.extend(self.dropped_params)
        if self.emulated_features:
            run.emulated_features.extend(self.emulated_features)
        run.last_sequence = self.last_sequence
        if self.usage is not None:
            run.usage.CopyFrom(self.usage)
        if self.failure is not None:
            run.failure.CopyFrom(self.failure)
        if self.cancel_reason is not None:
            run.cancel_reason = self.cancel_reason
        if self.end_time is not None:
            run.end_time.CopyFrom(self.end_time)
        if self.rate_state is not None:
            run.rate_state.CopyFrom(self.rate_state)
        if self.outcome is not None:
            _fill_outcome(run, self.outcome)
        for index in sorted(self._choices):
            self._choices[index].fill(index, run.choices.add())

    def _choice(self, index: int) -> _ChoiceState:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _ChoiceState()
        return choice

    def _run_started(self, event: RunEvent) -> None:
        started = event.run_started
        self.model = started.model
        if started.HasField("rate_state"):
            self.rate_state = started.rate_state

    def _step_started(self, event: RunEvent) -> None:
        started = event.step_started
        self.provider = started.provider
        self.upstream_model = started.upstream_model
        self.attempts = max(self.attempts, started.attempt)  # the last one to begin need not be the longest search
        self.dropped_params = started.dropped_params
        self.emulated_features = started.emulated_features
        if started.step_id not in self._marks:  # further attempts begin where the first one did
            self._marks[started.step_id] = deepcopy(self._choices) if self._choices else {}

    def _step_restarted(self, event: RunEvent) -> None:
        self._choices = deepcopy(self._marks[event.step_restarted.step_id])

    def _reasoning_delta(self, event: RunEvent) -> None:
        delta = event.reasoning_delta
        choice = self._choice(delta.choice_index)
        segment = choice.segment("reasoning")
        if segment.signature or (segment.texts and segment.redacted != delta.redacted):
            segment = _Segment("reasoning")
            choice.segments.append(segment)
        segment.texts.append(delta.text)
        segment.signature = delta.signature
        segment.redacted = delta.redacted

    def _refusal_delta(self, event: RunEvent) -> None:
        delta = event.refusal_delta
        choice = self._choice(delta.choice_index)
        choice.segment("refusal").texts.append(delta.text)
        choice.refusal_logprobs.extend(delta.logprobs)

    def _audio_delta(self, event: RunEvent) -> None:
        delta = event.audio_delta
        segment = self._choice(delta.choice_index).segment("audio")
        audio = segment.audio = segment.audio or _Audio()
        audio.data.append(delta.data)
        audio.audio_id = delta.audio_id or audio.audio_id
        if delta.HasField("expire_time"):
            audio.expire_time = delta.expire_time
        segment.texts.append(delta.transcript)

    def _tool_call_started(self, event: RunEvent) -> None:
        started = event.tool_call_started
        choice = self._choice(started.choice_index)
        segment = _Segment("tool_call")
        segment.call = (started.call_id, started.name, started.tool_kind or TOOL_KIND_FUNCTION)
        segment.signature = started.signature
        choice.segments.append(segment)
        choice.calls[started.call_index] = segment

    def _tool_call_arguments_delta(self, event: RunEvent) -> None:
        delta = event.tool_call_arguments_delta
        self._choice(delta.choice_index).calls[delta.call_index].texts.append(delta.arguments)

    def _choice_finished(self, event: RunEvent) -> None:
        finished = event.choice_finished
        choice = self._choice(finished.choice_index)
        choice.finish_reason = finished.finish_reason
        choice.stop_sequence = finished.stop_sequence

    def _usage_reported(self, event: RunEvent) -> None:
        self.usage = event.usage_reported.run_total

    def _run_completed(self, event: RunEvent) -> None:
        self.state, self.end_time = Run.STATE_COMPLETED, event.event_time
        self.outcome = event.run_completed

    def _run_failed(self, event: RunEvent) -> None:
        self.state, self.end_time = Run.STATE_FAILED, event.event_time
        self.failure = event.run_failed.failure

    def _run_cancelled(self, event: RunEvent) -> None:
        self.state, self.end_time = Run.STATE_CANCELLED, event.event_time
        self.cancel_reason = event.run_cancelled.reason


_HANDLERS: dict[str, Callable[[Fold, RunEvent], None]] = {
    field.name: handler
    for field in RunEvent.DESCRIPTOR.oneofs_by_name["kind"].fields
    if (handler := getattr(Fold, f"_{field.name}", None)) is not None
}
"""What each kind does to the state; kinds without an entry (progress, artifacts) leave the record as it is."""


def _fill_outcome(run: Run, outcome: RunCompleted) -> None:
    if outcome.HasField("charge"):
        run.charge.CopyFrom(outcome.charge)
    if outcome.conversation_id:
        run.conversation_id = outcome.conversation_id
        run.message_ids.extend(outcome.message_ids)


def fold(events: Iterable[RunEvent]) -> Run:
    """Returns the record that events amount to, without what no event carries (id, labels, time of creation).

    Raises:
        ValueError: If an event is of a kind that this reader does not know and that may not be skipped.
    """
    state = Fold()
    state.apply(list(events))
    run = Run()
    state.fill(run)
    return run
