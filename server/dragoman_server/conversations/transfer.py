"""Conversations as JSON, to be carried to another server or kept elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from dragoman.v1.conversation_service_pb2 import Conversation, StoredMessage
from dragoman_server.conversations import checks
from dragoman_server.conversations.messages import (
    check_client_id,
    check_details,
    new_message,
    shown,
    shown_message,
)
from dragoman_server.errors import InvalidRequest
from dragoman_server.messages import check_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message as ProtoMessage

    from dragoman_server.store.conversations.records import ConversationRecord, MessageRecord, NewMessage

    MessageT = TypeVar("MessageT", bound=ProtoMessage)

FORMAT = "dragoman.conversation.v1"
"""What the JSON says that it is."""

MAX_VALUES = 2_000_000
"""Most values in the JSON, commas in texts counted too: what would cost far more to hold than to send is not read."""
MAX_MODEL_CHARS = 256
_RUN_ID = re.compile(r"run_[0-9a-f]{32}", re.ASCII)


class Imported(NamedTuple):
    """What JSON says of a conversation."""

    title: str
    pinned: bool
    source: str
    persona: str
    labels: bytes | None
    messages: Sequence[NewMessage]


def exported(conversation: ConversationRecord, chain: Sequence[MessageRecord]) -> bytes:
    """Returns a conversation as JSON."""
    document = {
        "format": FORMAT,
        "conversation": _json(shown(conversation)),
        "messages": [_json(shown_message(message)) for message in chain],
    }
    return orjson.dumps(document)


def imported(data: bytes, now: int) -> Imported:
    """Reads what `exported` returned. Ids and places are not read: messages follow each other as they stand.

    Args:
        data: The JSON.
        now: When messages were said that do not tell it.

    Raises:
        InvalidRequest: If it is something else.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise InvalidRequest(f"`json` has more than {MAX_VALUES} values", field="json")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"`json` is not JSON: {error}", field="json") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidRequest(f"`json` must be an object whose `format` is `{FORMAT}`", field="json.format")
    conversation = _parse(document.get("conversation", {}), Conversation(), "json.conversation")
    messages = document.get("messages", [])
    if not isinstance(messages, list):
        raise InvalidRequest("`json.messages` must be a list", field="json.messages")
    return Imported(
        checks.title(conversation.title),
        conversation.pinned,
        checks.source(conversation.source),
        checks.persona(conversation.persona),
        checks.labels(conversation.labels),
        _messages(messages, now),
    )


def _messages(values: list[Any], now: int) -> list[NewMessage]:
    messages: list[NewMessage] = []
    client_ids: set[str] = set()
    for number, value in enumerate(values):
        where = f"json.messages[{number}]"
        stored = _parse(value, StoredMessage(), where)
        check_message(stored.message, number, "json.messages[{}].message")
        check_details(stored.details_json, f"{where}.details_json")
        if stored.client_id:
            check_client_id(stored.client_id, f"{where}.client_id")
            if stored.client_id in client_ids:
                raise InvalidRequest(f"`{where}.client_id` is another message's too", field=f"{where}.client_id")
            client_ids.add(stored.client_id)
        messages.append(_message(stored, where, now))
    return messages


def _message(stored: StoredMessage, where: str, now: int) -> NewMessage:
    if stored.run_id and not _RUN_ID.fullmatch(stored.run_id):
        raise InvalidRequest(f"`{where}.run_id` is no id of a run", field=f"{where}.run_id")
    if len(stored.model) > MAX_MODEL_CHARS or not stored.model.isprintable():
        text = f"`{where}.model` may have at most {MAX_MODEL_CHARS} characters, all of them printable"
        raise InvalidRequest(text, field=f"{where}.model")
    if stored.state not in StoredMessage.State.values():
        raise InvalidRequest(f"`{where}.state` is unknown", field=f"{where}.state")
    return new_message(
        stored.message,
        stored.create_time.ToMicroseconds() if stored.HasField("create_time") else now,
        state=stored.state or StoredMessage.STATE_COMPLETE,
        run_id=stored.run_id,
        model=stored.model,
        details=stored.details_json,
        client_id=stored.client_id,
    )


def _parse(value: object, message: MessageT, where: str) -> MessageT:
    if not isinstance(value, dict):
        raise InvalidRequest(f"`{where}` must be an object", field=where)
    try:
        return ParseDict(value, message)
    except (ParseError, RecursionError) as error:
        problem = str(error).partition("\n")[0].strip()
        raise InvalidRequest(f"`{where}` cannot be read: {problem}", field=where) from None


def _json(message: ProtoMessage) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
