"""Times of the contract, and those of the core: microseconds since the Unix epoch, UTC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    from google.protobuf.message import Message


def micros_of(message: Message, field: str, path: str = "") -> int | None:
    """Returns a time of a message; None if it is not set.

    Args:
        message: The message.
        field: The name of the field.
        path: The path of the message in the request, with a dot at its end.

    Raises:
        InvalidRequest: If the time is none.
    """
    if not message.HasField(field):
        return None
    time: Timestamp = getattr(message, field)
    try:
        return time.ToMicroseconds()
    except ValueError:
        raise InvalidRequest(f"`{path}{field}` is no valid time", field=path + field) from None


def timestamp(micros: int | None) -> Timestamp | None:
    """Returns a time as the contract has it; None if there is none."""
    if micros is None:
        return None
    time = Timestamp()
    time.FromMicroseconds(micros)
    return time
