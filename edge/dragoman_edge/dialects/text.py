"""Texts, as dialects read them from messages and write them into streams that are read line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from dragoman.v1.message_pb2 import Message

EVENT_STREAM = "text/event-stream; charset=utf-8"
"""The media type of server-sent events."""

PING = b": ping\n"
"""A comment. One newline only: clients that saw an `id:` take a blank line after it for an empty event, and choke."""

_dumps = orjson.dumps


def said_in(message: Message) -> str:
    """Returns what a message says in words, a refusal included."""
    return "".join(part.text.text or part.refusal.text for part in message.parts)


def quoted(text: str) -> bytes:
    """Returns a text as a JSON string on one line."""
    rendered = _dumps(text)
    return rendered if text.isascii() else one_line(rendered)


def one_line(rendered: bytes) -> bytes:
    """Returns rendered JSON with what Unicode calls a line end, and JSON does not, escaped.

    Many clients split streams with their language's idea of lines.
    """
    return (
        rendered.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )
