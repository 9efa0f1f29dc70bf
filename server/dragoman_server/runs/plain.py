"""Reads plain conversations from their wire form.

To ask protobuf for each field of each message takes some thirty calls and half as many objects; this takes a few.
Whatever is not plain is left to those who ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.message_pb2 import ROLE_TOOL, Message, Part, TextPart
from dragoman.v1.run_pb2 import ChatSpec, RunSpec
from dragoman.wire import number_tag, tag
from dragoman_server.messages import ROLES
from dragoman_server.providers.base import PlainChat
from dragoman_server.sampling import check_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import FieldDescriptor

    _Fields = Sequence[tuple[FieldDescriptor, Any]]

MOST_BYTES = 16_384
"""Size of the largest request that is worth a copy."""

SPEAKERS = ROLES - {ROLE_TOOL}
"""Who says plain texts."""

_MOST_SAMPLINGS = 1024
_LONGEST_SAMPLING = 128

# All tags are single bytes: these fields have the lowest numbers.
_CHAT = tag(RunSpec, "chat")[0]
_MODEL = tag(ChatSpec, "model")[0]
_MESSAGES = tag(ChatSpec, "messages")[0]
_SAMPLING = tag(ChatSpec, "sampling")[0]
_ROLE = number_tag(Message, "role")[0]
_AROUND_TEXT = (tag(Message, "parts")[0], tag(Part, "text")[0], tag(TextPart, "text")[0])
"""What encloses the text of a message, from without."""

_SHORT_HEAD, _LONG_HEAD = (10, 2), (14, 3)
"""Bytes before the text of a message: its tag and size, the role, and the tags and sizes of what encloses the text; and
how many of them are the message's own tag and size. The sizes are of one byte each up to 0x7F, then of two, where what
encloses the text may yet have one."""

_MOST_HEADS = 4096
_heads: dict[bytes, tuple[int, int]] = {}
"""The role and the whole size of messages whose head came before, by that."""

_samplings: dict[bytes, _Fields] = {}
"""Sampling values that were checked, by their wire form: clients send the same ones again and again."""


def read_plain(spec: RunSpec) -> PlainChat | None:
    """Returns what a spec says, if that is a plain conversation by the rules and nothing else; else None.

    Args:
        spec: The spec, of at most `MOST_BYTES`.

    Raises:
        InvalidRequest: If its messages are plain and a sampling value breaks a rule; `field` names which.
    """
    data = spec.SerializeToString()
    try:
        return _read(spec, data)
    except IndexError:  # it ends where something was still looked for
        return None


def _read(spec: RunSpec, data: bytes) -> PlainChat | None:
    end = len(data)
    size, at = _size(data, 1)
    if data[0] != _CHAT or at + size != end:
        return None
    model = ""
    if data[at] == _MODEL:
        size, at = _size(data, at + 1)
        model = data[at : at + size].decode()
        at += size
    texts: list[tuple[int, str]] = []
    begin, around = at, 0
    while at < end and data[at] == _MESSAGES:
        width, own = _SHORT_HEAD if data[at + 1] < 0x80 else _LONG_HEAD
        around += own
        known = _heads.get(data[at : at + width])
        if known is not None:
            role, size = known
            texts.append((role, data[at + width : at + size].decode()))
            at += size
        elif (read := _read_message(data, at, width)) is not None:
            role, text, at = read
            texts.append((role, text))
        else:
            return None
    if not texts:
        return None
    message_bytes = at - begin - around
    sampling: _Fields = ()
    if at < end:
        size, start = _size(data, at + 1)
        if data[at] != _SAMPLING or start + size != end:
            return None
        values = data[start:]
        sampling = _samplings.get(values) or _check_sampling(spec, values)
    return PlainChat(spec.chat, model, texts, sampling, message_bytes)


def _read_message(data: bytes, at: int, width: int) -> tuple[int, str, int] | None:
    """Returns the role and the text of a message, and where it ends; None if there is more to it. Remembers its head.

    Args:
        data: The wire form.
        at: Where the message begins.
        width: Bytes of its head, most probably.
    """
    begin = at
    size, at = _size(data, at + 1)
    stop = at + size
    role = data[at + 1]
    if data[at] != _ROLE or role not in SPEAKERS:
        return None
    at += 2
    for field in _AROUND_TEXT:  # each must be all that is left of the message
        if data[at] != field:
            return None
        size, at = _size(data, at + 1)
        if at + size != stop:
            return None
    if not size:
        return None
    if at == begin + width:
        if len(_heads) >= _MOST_HEADS:
            _heads.clear()
        _heads[data[begin:at]] = role, stop - begin
    return role, data[at:stop].decode(), stop


def _size(data: bytes, at: int) -> tuple[int, int]:
    """Returns the size of a field, and where the field begins."""
    size = data[at]
    if size < 0x80:
        return size, at + 1
    size &= 0x7F
    shift = 7
    while (group := data[at := at + 1]) > 0x7F:
        size |= (group & 0x7F) << shift
        shift += 7
    return size | group << shift, at + 1


def _check_sampling(spec: RunSpec, values: bytes) -> _Fields:
    """Checks sampling values, and remembers them, if they are numbers.

    Raises:
        InvalidRequest: If one breaks a rule.
    """
    fields = spec.chat.sampling.ListFields()
    check_fields(fields)
    if len(values) <= _LONGEST_SAMPLING and all(isinstance(value, int | float) for _, value in fields):
        if len(_samplings) >= _MOST_SAMPLINGS:
            _samplings.clear()
        _samplings[values] = fields
    return fields
