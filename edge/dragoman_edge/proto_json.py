"""Messages of the contract as JSON, with the field names of the contract, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from dragoman_edge.body import read_json_object
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange

MessageT = TypeVar("MessageT", bound="Message")

_WITHIN = re.compile(r"Failed to parse (\w+) field")
_PLACE = re.compile(r'\bat "?\w+\.([\w.\[\]]+)')
_UNKNOWN = re.compile(r'has no field named "([^"]*)"')
_BOOLEANS = {"true": True, "false": False}


def to_json(message: Message) -> bytes:
    """Returns a message in proto-JSON; members at their default are left out."""
    return orjson.dumps(MessageToDict(message, preserving_proto_field_name=True))


async def read_message(edge: Edge, exchange: Exchange, kind: type[MessageT], *, optional: bool = False) -> MessageT:
    """Reads a body that must be a message in proto-JSON.

    Args:
        edge: The parts of the edge.
        exchange: The request.
        kind: The kind of message.
        optional: Whether an absent body is an empty message.

    Raises:
        EdgeError: If it is none; the parameter at fault is named.
    """
    body = exchange.request.body
    if optional and body.complete and not body.unread:
        return kind()
    return from_json(kind, await read_json_object(exchange.request, edge.settings))


def read_query(exchange: Exchange, kind: type[MessageT]) -> MessageT:
    """Reads a message from the query: each field is a parameter, text, number or `true` and `false`.

    Raises:
        EdgeError: If it is none; the parameter at fault is named.
    """
    members: dict[str, Any] = {}
    for name, text in exchange.query().items():
        field = kind.DESCRIPTOR.fields_by_name.get(name)
        value: Any = text
        if field is not None and field.type == FieldDescriptor.TYPE_BOOL:
            value = _BOOLEANS.get(text, text)
        if field is not None and field.is_repeated:
            value = [part for part in text.split(",") if part]
        members[name] = value
    return from_json(kind, members)


def from_json(kind: type[MessageT], members: Mapping[str, Any]) -> MessageT:
    """Returns the message that the members of a JSON object are.

    Raises:
        EdgeError: If they are none; the parameter at fault is named.
    """
    for name in members:
        if name not in kind.DESCRIPTOR.fields_by_name:
            raise EdgeError(f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter")
    try:
        return ParseDict(dict(members), kind())
    except ParseError as error:
        text = str(error)
        path = _path_in(text)
        if unknown := _UNKNOWN.search(text):
            path = ".".join(filter(None, (path, unknown[1][:64])))
            raise EdgeError(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter") from None
        raise EdgeError(f"Invalid '{path}': it has a value of another kind.", param=path) from None


def _path_in(problem: str) -> str:
    """Returns the path of the member that protobuf complains about; it tells that in more than one way."""
    if (place := _PLACE.search(problem)) is not None:
        return place[1].rstrip(".")
    return ".".join(_WITHIN.findall(problem))
