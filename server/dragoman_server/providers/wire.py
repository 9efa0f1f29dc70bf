"""The most frequent events in their wire form: to merge that into a batch costs a third of filling messages in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.event_pb2 import ChoiceFinished, FinishReason, RunEvent, TextDelta, UsageReported
from dragoman_server.providers.base import EventBatch

if TYPE_CHECKING:
    from google.protobuf.message import Message


def varint(value: int) -> bytes:
    """Returns a number that is not negative."""
    if value < 0x80:
        return _SMALL[value]
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


_SMALL = tuple(bytes((value,)) for value in range(0x80))


def number_tag(message: type[Message], field: str) -> bytes:
    """Returns what stands before the value of a field that is a number."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3)


def tag(message: type[Message], field: str) -> bytes:
    """Returns what stands before the length of a field that is a text or a message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def sized(tag: bytes, content: bytes) -> bytes:
    """Returns a field that is a text or a message."""
    size = len(content)
    return tag + (_SMALL[size] if size < 0x80 else varint(size)) + content


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


def usage_event(usage: bytes) -> bytes:
    """Returns a batch with a usage_reported, whose last call is a usage in its wire form."""
    return sized(_EVENTS, sized(_USAGE_REPORTED, sized(_LAST_CALL, usage)))
