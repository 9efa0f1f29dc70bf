"""What an append does to a conversation, whatever keeps it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from dragoman_server.errors import Conflict, IdempotencyConflict, InvalidRequest, NotFound
from dragoman_server.store.conversations.records import Appended, MessageRecord, NewMessage
from dragoman_server.store.conversations.search import fold

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dragoman_server.store.conversations.records import Append, ConversationRecord

_FIELDS = tuple(field.name for field in fields(NewMessage))


def appended(append: Append, conversation: ConversationRecord | None, taken: Collection[str]) -> Appended:
    """Returns what an append makes of its conversation.

    Args:
        append: The append.
        conversation: The conversation as it is; None if there is none.
        taken: Those of the append's client ids that the conversation has.

    Raises:
        NotFound: If there is no such conversation, or it is deleted.
        Conflict: If its version is another one, or a client id is taken, unless even a deleted one takes the messages.
        InvalidRequest: If it would have too many messages, or too large ones.
    """
    if conversation is None or (conversation.delete_time is not None and not append.even_deleted):
        raise NotFound(f"conversation {append.conversation_id!r} does not exist", field="conversation_id")
    if append.version is not None and append.version != conversation.version:
        raise Conflict("the conversation has changed; its etag is another one", field="etag")
    if taken and not append.even_deleted:
        raise Conflict(f"the conversation has a message with the client id {min(taken)!r}", field="messages")
    count = conversation.message_count + len(append.messages)
    if 0 < append.max_messages < count:
        raise InvalidRequest(f"a conversation may have at most {append.max_messages} messages", field="messages")
    size = conversation.byte_count + sum(message.size for message in append.messages)
    if 0 < append.max_bytes < size:
        raise InvalidRequest(f"a conversation may have at most {append.max_bytes} bytes", field="messages")
    messages = [replace(one, client_id=None) if one.client_id in taken else one for one in append.messages]
    placed = place(conversation, messages, append.request_key)
    titled = not conversation.title and bool(append.title)
    return Appended(
        replace(
            conversation,
            head_message_id=placed[-1].id if placed else conversation.head_message_id,
            message_count=count,
            byte_count=size,
            title=append.title if titled else conversation.title,
            words=fold(append.title) if titled else conversation.words,
            version=conversation.version + 1,
            update_time=max(append.now, conversation.update_time),
        ),
        placed,
        titled,
    )


def begun(
    conversation: ConversationRecord, first: Sequence[NewMessage]
) -> tuple[ConversationRecord, list[MessageRecord]]:
    """Returns a new conversation with its first messages, and those in their places."""
    placed = place(conversation, first)
    if not placed:
        return conversation, placed
    size = sum(message.size for message in placed)
    return replace(conversation, head_message_id=placed[-1].id, message_count=len(placed), byte_count=size), placed


def place(
    conversation: ConversationRecord, messages: Sequence[NewMessage], request_key: str | None = None
) -> list[MessageRecord]:
    """Returns messages in their places behind a conversation's head."""
    placed: list[MessageRecord] = []
    parent = conversation.head_message_id
    for depth, message in enumerate(messages, conversation.message_count):
        record = MessageRecord(
            **{name: getattr(message, name) for name in _FIELDS},
            account_id=conversation.account_id,
            tree_id=conversation.tree_id,
            parent_id=parent,
            depth=depth,
            request_key=request_key,
        )
        placed.append(record)
        parent = record.id
    return placed


def repeated(append: Append, conversation: ConversationRecord, before: Sequence[MessageRecord]) -> Appended:
    """Returns what an append that came again did the first time.

    Args:
        append: The append.
        conversation: The conversation as it is.
        before: What was appended under its name.

    Raises:
        IdempotencyConflict: If that was something else.
    """
    if list(map(_said, before)) != list(map(_said, append.messages)):
        raise IdempotencyConflict("the request id was used to append other messages", field="request_id")
    return Appended(conversation, before)


def _said(message: NewMessage) -> tuple[bytes, str, str | None]:
    return message.body, message.details, message.client_id
