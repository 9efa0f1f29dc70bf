"""Stored chats, as the chat API shows them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER
from dragoman_edge.dialects.alchemyst.to_proto import SOURCE
from dragoman_edge.dialects.text import said_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

    from dragoman.v1.account_service_pb2 import GetCallerResponse
    from dragoman.v1.conversation_service_pb2 import Conversation, StoredMessage

_SCOPE = "private"
_ROLES = {ROLE_USER: "user", ROLE_ASSISTANT: "assistant"}


def object_id(name: str) -> str:
    """Returns the id of 24 hex digits that stands for a user or an account; always the same one."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def chat_object(conversation: Conversation, owner: str, forked_from: str = "") -> dict[str, Any]:
    """Returns a chat without its messages.

    Args:
        conversation: The chat.
        owner: The user or account whose it is.
        forked_from: The chat that it was forked from, if that is still there.
    """
    labels = conversation.labels
    chat: dict[str, Any] = {
        "_id": conversation.short_id,
        "userId": object_id(owner),
        "title": conversation.title,
        "source": conversation.source or SOURCE,
        "scope": labels.get("scope", _SCOPE),
        "fork": bool(conversation.forked_from_id),
        "forkedFrom": forked_from or None,
        "pinned": conversation.pinned,
        "createdAt": _iso(conversation.create_time),
        "updatedAt": _iso(conversation.update_time),
    }
    return chat | {name: labels[name] for name in ("username", "phone") if name in labels}


def message_objects(messages: Iterable[StoredMessage]) -> list[dict[str, Any]]:
    """Returns the messages of a chat. Results of tools are left out: the API has no such role."""
    return [_message(message) for message in messages if message.message.role != ROLE_TOOL]


def list_entry(conversation: Conversation) -> dict[str, Any]:
    """Returns what the list of chats tells of one; its time is that of the last change, in ms."""
    time = conversation.update_time.ToMilliseconds()
    return {"title": conversation.title, "id": conversation.short_id, "timestamp": time}


def caller_object(caller: GetCallerResponse) -> dict[str, Any]:
    """Returns whose a key is."""
    user: dict[str, Any] = {"id": object_id(caller.user.id or caller.account_id)}
    if caller.HasField("user"):
        user |= {"email": caller.user.email, "name": caller.user.name}
    return {"user": user, "organization": {"id": object_id(caller.account_id)}}


def _message(stored: StoredMessage) -> dict[str, Any]:
    said, time = said_in(stored.message), _iso(stored.create_time)
    details = orjson.loads(stored.details_json) if stored.details_json else {}
    thoughts = [part.reasoning.text for part in stored.message.parts if part.reasoning.text]
    return {
        "thinking_steps": thoughts,
        "steps": [],
        "tools": None,
        **(details if isinstance(details, dict) else {}),  # others may have stored something else
        "id": stored.client_id or stored.id,
        "role": _ROLES.get(stored.message.role, "system"),
        "message": said,
        "content": said,
        "createdAt": time,
        "updatedAt": time,
    }


def _iso(time: Timestamp) -> str:
    return time.ToDatetime().isoformat(timespec="milliseconds") + "Z"
