"""The pieces of protobuf's wire form: to merge bytes into a message costs a third of filling small messages in."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def fixed_tag(message: type[Message], field: str) -> bytes:
    """Returns what stands before the value of a field that is a double: eight bytes."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 1)


def tag(message: type[Message], field: str) -> bytes:
    """Returns what stands before the length of a field that is a text or a message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def sized(tag: bytes, content: bytes) -> bytes:
    """Returns a field that is a text or a message."""
    size = len(content)
    return tag + (_SMALL[size] if size < 0x80 else varint(size)) + content
