"""Stored conversations, as the dialect shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER
from dragoman_edge.dialects.soke.ids import guid_of
from dragoman_edge.dialects.text import said_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

    from dragoman.v1.conversation_service_pb2 import Conversation, StoredMessage

_ROLES = {ROLE_USER: "user", ROLE_ASSISTANT: "assistant"}


def list_entry(conversation: Conversation) -> dict[str, Any]:
    """Returns what the list of conversations tells of one."""
    return {
        "id": guid_of(conversation.id),
        "title": conversation.title,
        "createdAt": _iso(conversation.create_time),
        "updatedAt": _iso(conversation.update_time),
        "messageCount": conversation.message_count,
    }


def conversation_object(conversation: Conversation, messages: Iterable[StoredMessage]) -> dict[str, Any]:
    """Returns a conversation with its messages. Results of tools are left out: the dialect has no such role."""
    return {
        "id": guid_of(conversation.id),
        "title": conversation.title,
        "messages": [_message(message) for message in messages if message.message.role != ROLE_TOOL],
    }


def _message(stored: StoredMessage) -> dict[str, Any]:
    return {
        "role": _ROLES.get(stored.message.role, "system"),
        "content": said_in(stored.message),
        "createdAt": _iso(stored.create_time),
    }


def _iso(time: Timestamp) -> str:
    return time.ToDatetime().isoformat(timespec="milliseconds") + "Z"
