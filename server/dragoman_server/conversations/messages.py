"""Messages and conversations between the contract and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from dragoman.v1.conversation_service_pb2 import Conversation, StoredMessage
from dragoman.v1.message_pb2 import Message
from dragoman.v1.run_pb2 import MessageNote
from dragoman_server.conversations.checks import MESSAGE_ID
from dragoman_server.conversations.titles import text_of
from dragoman_server.errors import InvalidRequest
from dragoman_server.ids import new_id
from dragoman_server.messages import check_message
from dragoman_server.store.conversations.records import NewMessage
from dragoman_server.store.conversations.search import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from dragoman.v1.conversation_service_pb2 import NewMessage as NewMessageSpec
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.store.conversations.records import ConversationRecord, MessageRecord

MAX_DETAILS_BYTES = 64 * 1024
_NO_NOTE = MessageNote()


def new_message(
    message: Message,
    now: int,
    *,
    state: StoredMessage.State = StoredMessage.STATE_COMPLETE,
    run_id: str = "",
    model: str = "",
    details: str = "",
    client_id: str = "",
) -> NewMessage:
    """Returns a message as it is stored."""
    return NewMessage(
        id=new_id("msg"),
        body=message.SerializeToString(),
        words=fold(text_of(message)),
        state=state,
        run_id=run_id,
        model=model,
        details=details,
        client_id=client_id or None,
        create_time=now,
    )


def new_messages(specs: Iterable[NewMessageSpec], now: int) -> tuple[NewMessage, ...]:
    """Returns messages that a caller gives, as they are stored.

    Raises:
        InvalidRequest: If one is not as the contract says; `field` names where.
    """
    stored: list[NewMessage] = []
    client_ids: set[str] = set()
    for number, spec in enumerate(specs):
        check_message(spec.message, number, "messages[{}].message")
        where = f"messages[{number}]"
        check_details(spec.details_json, f"{where}.details_json")
        if spec.client_id:
            check_client_id(spec.client_id, f"{where}.client_id")
            if spec.client_id in client_ids:
                raise _invalid(f"{where}.client_id", "is another message's too")
            client_ids.add(spec.client_id)
        stored.append(new_message(spec.message, now, details=spec.details_json, client_id=spec.client_id))
    return tuple(stored)


def asked_messages(chat: ChatSpec, new: Sequence[Message], taken: Set[str], now: int) -> tuple[NewMessage, ...]:
    """Returns the new messages of a request as they are stored, with what the client keeps with them.

    Args:
        chat: The request.
        new: Those of its messages that are new: the last ones.
        taken: Ids of clients that the conversation has; they are not kept twice.
        now: The time.

    Raises:
        InvalidRequest: If a note is not as the contract says; `field` names where.
    """
    first = len(chat.messages) - len(new)
    notes: dict[int, MessageNote] = {}
    client_ids = set(taken)
    for number, note in enumerate(chat.message_notes):
        where = f"spec.chat.message_notes[{number}]"
        if not 0 <= note.message_index < len(chat.messages) or note.message_index in notes:
            raise _invalid(f"{where}.message_index", "names no message, or one that has a note")
        notes[note.message_index] = note
        check_details(note.details_json, f"{where}.details_json")
        if note.client_id:
            check_client_id(note.client_id, f"{where}.client_id")
    asked: list[NewMessage] = []
    for index, message in enumerate(new, first):
        note = notes.get(index, _NO_NOTE)
        client_id = "" if note.client_id in client_ids else note.client_id
        client_ids.add(client_id)
        asked.append(new_message(message, now, details=note.details_json, client_id=client_id))
    return tuple(asked)


def check_details(text: str, field: str) -> None:
    """Checks what a client keeps with a message.

    Raises:
        InvalidRequest: If it is too long, or no JSON.
    """
    if not text:
        return
    if len(text.encode()) > MAX_DETAILS_BYTES:
        raise _invalid(field, f"is longer than {MAX_DETAILS_BYTES} bytes")
    try:
        orjson.loads(text)  # stricter than others: what is kept can be read by all of them
    except orjson.JSONDecodeError as error:
        raise _invalid(field, f"is not JSON: {error}") from None


def check_client_id(text: str, field: str) -> None:
    """Checks a message's id that a client chose.

    Raises:
        InvalidRequest: If it has not the form of one.
    """
    if not MESSAGE_ID.fullmatch(text):
        raise _invalid(field, "must be 1 to 64 letters, digits, `_` and `-`")


def shown_message(record: MessageRecord) -> StoredMessage:
    """Returns a message as callers see it."""
    return StoredMessage(
        id=record.id,
        parent_id=record.parent_id or "",
        message=Message.FromString(record.body),
        create_time=timestamp(record.create_time),
        run_id=record.run_id,
        model=record.model,
        state=StoredMessage.State.Name(record.state),
        details_json=record.details,
        client_id=record.client_id or "",
    )


def shown(record: ConversationRecord) -> Conversation:
    """Returns a conversation as callers see it."""
    conversation = Conversation() if record.labels is None else Conversation.FromString(record.labels)
    conversation.MergeFrom(
        Conversation(
            id=record.id,
            short_id=record.short_id,
            user_id=record.user_id,
            title=record.title,
            pinned=record.pinned,
            source=record.source,
            persona=record.persona,
            head_message_id=record.head_message_id or "",
            message_count=record.message_count,
            forked_from_id=record.forked_from_id,
            forked_at_message_id=record.forked_at_message_id,
            etag=str(record.version),
            create_time=timestamp(record.create_time),
            update_time=timestamp(record.update_time),
            delete_time=None if record.delete_time is None else timestamp(record.delete_time),
        )
    )
    return conversation


def timestamp(micros: int) -> Timestamp:
    """Returns a time of the store as the contract has it."""
    time = Timestamp()
    time.FromMicroseconds(micros)
    return time


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {problem}", field=field)
