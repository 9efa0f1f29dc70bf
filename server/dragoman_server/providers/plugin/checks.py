"""Checks what a plugin says against the contract: it is written by others, and the log trusts what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError
from dragoman_server.providers.base import EventBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dragoman.v1.event_pb2 import RunEvent

_WITH_CHOICE = frozenset(
    {
        "text_delta",
        "reasoning_delta",
        "refusal_delta",
        "audio_delta",
        "tool_call_started",
        "tool_call_arguments_delta",
        "tool_call_completed",
        "choice_finished",
    }
)


class AnswerChecker:
    """Follows one answer of a plugin.

    Args:
        choice_index: The index that its events must carry.
        mark: Goes before its signatures.
    """

    def __init__(self, choice_index: int, mark: bytes) -> None:
        self._choice_index = choice_index
        self._mark = mark
        self._open_calls: set[int] = set()
        self._calls = 0
        self._finished = False

    def batches(self, events: Sequence[RunEvent]) -> Iterator[EventBatch]:
        """Yields the events as providers must hand them over: a report of usage ends its batch.

        Raises:
            ProviderError: At the first event that breaks the contract; those before it were yielded.
        """
        batch = EventBatch()
        try:
            for event in events:
                self._check(event)
                added = batch.events.add()
                added.CopyFrom(event)
                added.ClearField("sequence")
                added.ClearField("event_time")
                for signed in (added.reasoning_delta, added.tool_call_started):
                    if signed.signature:
                        signed.signature = self._mark + signed.signature
                if event.HasField("usage_reported"):
                    added.usage_reported.ClearField("run_total")
                    whole, batch = batch, EventBatch()
                    yield whole
        except ProviderError:
            if batch.events:
                yield batch
            raise
        if batch.events:
            yield batch

    def check_end(self) -> None:
        """Takes the end of the stream.

        Raises:
            ProviderError: If the answer is not finished.
        """
        if not self._finished:
            raise _broken("it ended without saying why")

    def _check(self, event: RunEvent) -> None:
        kind = event.WhichOneof("kind")
        if kind == "usage_reported":
            return
        if kind not in _WITH_CHOICE:
            raise _broken(f"an event of the kind {kind or 'unknown'} is not a backend's to send")
        value: Any = getattr(event, kind)
        if value.choice_index != self._choice_index:
            raise _broken(f"choice {self._choice_index} was asked for, not {value.choice_index}")
        if self._finished:
            raise _broken(f"{kind} came after the end of the choice")
        match kind:
            case "tool_call_started":
                self._start_call(value)
            case "tool_call_arguments_delta" | "tool_call_completed":
                if value.call_index not in self._open_calls:
                    raise _broken(f"{kind} is about call {value.call_index}, which is not open")
                if kind == "tool_call_completed":
                    self._open_calls.discard(value.call_index)
            case "choice_finished":
                if not value.finish_reason:
                    raise _broken("the choice ended without a finish reason")
                if self._open_calls:
                    raise _broken("the choice ended within a tool call")
                self._finished = True

    def _start_call(self, started: Any) -> None:
        if started.call_index != self._calls:
            raise _broken(f"call {started.call_index} was started; the next one is {self._calls}")
        if not started.call_id or not started.name:
            raise _broken("a tool call needs an id and a name")
        self._calls += 1
        self._open_calls.add(started.call_index)


def _broken(problem: str) -> ProviderError:
    return ProviderError(f"the plugin's answer makes no sense: {problem}", reason=Reason.PROVIDER_PROTOCOL)
