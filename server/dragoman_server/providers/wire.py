"""The most frequent events in their wire form: to merge that into a batch costs a third of filling messages in."""

from __future__ import annotations

from dragoman.v1.event_pb2 import ChoiceFinished, FinishReason, RunEvent, TextDelta, UsageReported
from dragoman.wire import number_tag, sized, tag, varint
from dragoman_server.providers.base import EventBatch

_EVENTS = tag(EventBatch, "events")
_TEXT_DELTA = tag(RunEvent, "text_delta")
_TEXT = tag(TextDelta, "text")
_CHOICE_FINISHED = tag(RunEvent, "choice_finished")
_FINISH_REASON = number_tag(ChoiceFinished, "finish_reason")
_USAGE_REPORTED = tag(RunEvent, "usage_reported")
_LAST_CALL = tag(UsageReported, "last_call")


def _text_event(text: bytes) -> bytes:
    return sized(_EVENTS, sized(_TEXT_DELTA, sized(_TEXT, text)))


TEXT_HEADS = tuple(_text_event(bytes(size))[: -size or None] for size in range(128))
"""What stands before the text of a text_delta of choice 0, by the text's size in bytes."""

FINISHED = {
    reason: sized(_EVENTS, sized(_CHOICE_FINISHED, _FINISH_REASON + varint(reason))) for reason in FinishReason.values()
}
"""A choice_finished of choice 0, by its reason."""


def text_event(text: str) -> bytes:
    """Returns a batch with a text_delta of choice 0."""
    data = text.encode()
    size = len(data)
    return TEXT_HEADS[size] + data if size < len(TEXT_HEADS) else _text_event(data)


def text_batch(text: str) -> EventBatch:
    """Returns that as a message."""
    return EventBatch.FromString(text_event(text))


def whole_batch(text: str, finish_reason: FinishReason, usage: bytes | None) -> EventBatch:
    """Returns a whole answer as the batch that it is; see `GenerationSink.on_whole`."""
    events = text_event(text) + FINISHED[finish_reason]
    return EventBatch.FromString(events if usage is None else events + usage_event(usage))


def sole_text(batch: EventBatch) -> str:
    """Returns the text of a batch that is that and nothing more; of any other an empty string."""
    events = batch.events
    if len(events) != 1 or not (text := events[0].text_delta.text):
        return ""
    return text if batch.ByteSize() == len(text_event(text)) else ""  # whatever else it says would take room


def usage_event(usage: bytes) -> bytes:
    """Returns a batch with a usage_reported, whose last call is a usage in its wire form."""
    return sized(_EVENTS, sized(_USAGE_REPORTED, sized(_LAST_CALL, usage)))
