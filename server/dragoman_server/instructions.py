"""Puts instructions of the server's own before a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.message_pb2 import ROLE_SYSTEM, Message

if TYPE_CHECKING:
    from dragoman.v1.run_pb2 import ChatSpec


def put_first(chat: ChatSpec, text: str) -> None:
    """Puts a text before all instructions that a conversation begins with.

    They become one system message: the templates of many models refuse a second one.

    Args:
        chat: The request; it is changed, but none of the messages that it had.
        text: The instructions.
    """
    first = Message(role=ROLE_SYSTEM)
    first.parts.add().text.text = text
    rest = list(chat.messages)
    if rest and rest[0].role == ROLE_SYSTEM and not rest[0].name:
        given = rest.pop(0)
        if given.parts and given.parts[0].HasField("text"):
            first.parts[0].CopyFrom(given.parts[0])
            first.parts[0].text.text = f"{text}\n\n{given.parts[0].text.text}"
            first.parts.extend(given.parts[1:])
        else:
            first.parts.extend(given.parts)
    del chat.messages[:]
    chat.messages.append(first)
    chat.messages.extend(rest)
