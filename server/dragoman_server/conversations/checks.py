"""Checks what callers say of conversations, against the bounds that the contract names.

Each check returns the value as it is stored. All raise `InvalidRequest` if the value breaks a rule, unless they say
otherwise.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from dragoman.v1.conversation_service_pb2 import Conversation
from dragoman_server.errors import Conflict, InvalidRequest
from dragoman_server.store.conversations.search import words_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dragoman_server.settings import ConversationSettings
    from dragoman_server.store.conversations.records import ConversationRecord, NewMessage

MAX_TITLE_CHARS = 256
MAX_SOURCE_CHARS = 128
MAX_LABELS = 16
MAX_LABEL_NAME_CHARS = 64
MAX_LABEL_CHARS = 512
MAX_QUERY_CHARS = 512
MAX_QUERY_WORDS = 16
MAX_REQUEST_ID_CHARS = 255

MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""What the ids of messages look like: ours, and those that clients choose."""

_SHORT_ID = re.compile(r"[0-9a-fA-F]{24}", re.ASCII)
_PERSONA = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def title(text: str) -> str:
    """Checks a title."""
    return _line(text.strip(), "title", MAX_TITLE_CHARS)


def source(text: str) -> str:
    """Checks where a conversation comes from."""
    return _line(text, "source", MAX_SOURCE_CHARS)


def short_id(text: str) -> str:
    """Checks a short id; an empty one stays so."""
    if text and not _SHORT_ID.fullmatch(text):
        raise InvalidRequest("`short_id` must be 24 hex digits", field="short_id")
    return text.lower()


def persona(name: str) -> str:
    """Checks the form of a persona's name; an empty one stays so."""
    if name and not _PERSONA.fullmatch(name):
        raise InvalidRequest("`persona` must be 1 to 64 of a-z, 0-9, _ and -", field="persona")
    return name


def labels(given: Mapping[str, str]) -> bytes | None:
    """Checks labels."""
    if not given:
        return None
    if len(given) > MAX_LABELS:
        raise InvalidRequest(f"`labels` has more than {MAX_LABELS} entries", field="labels")
    for name, value in given.items():
        if not 0 < len(name) <= MAX_LABEL_NAME_CHARS or len(value) > MAX_LABEL_CHARS:
            text = f"needs names of 1 to {MAX_LABEL_NAME_CHARS} and values of at most {MAX_LABEL_CHARS} characters"
            raise InvalidRequest(f"`labels` {text}", field="labels")
    return Conversation(labels=given).SerializeToString(deterministic=True)


def room(
    settings: ConversationSettings, messages: Sequence[NewMessage], field: str, *, first: int = 0, whole: bool = False
) -> None:
    """Checks that messages are not too large; those of a whole conversation, that they are not too many either.

    Args:
        settings: The bounds.
        messages: The messages.
        field: The list in the request that they come from.
        first: Where in the list they begin.
        whole: Whether they are all messages of a conversation.
    """
    for index, message in enumerate(messages, first):
        if message.size > settings.max_message_bytes:
            text = f"`{field}[{index}]` is too large: a message may have at most {settings.max_message_bytes} bytes"
            raise InvalidRequest(text, field=f"{field}[{index}]")
    if whole and len(messages) > settings.max_messages:
        raise InvalidRequest(f"a conversation may have at most {settings.max_messages} messages", field=field)
    if whole and sum(message.size for message in messages) > settings.max_bytes:
        raise InvalidRequest(f"a conversation may have at most {settings.max_bytes} bytes", field=field)


def words(query: str) -> tuple[str, ...]:
    """Checks a query, and splits it."""
    found = words_of(query)
    if len(query) > MAX_QUERY_CHARS or len(found) > MAX_QUERY_WORDS:
        text = f"`query` may have at most {MAX_QUERY_CHARS} characters and {MAX_QUERY_WORDS} words"
        raise InvalidRequest(text, field="query")
    return found


def request_key(scope: str, request_id: str) -> str:
    """Checks a request id, and returns it as it is kept: good in its scope only."""
    if "\0" in request_id or len(request_id) > MAX_REQUEST_ID_CHARS:
        text = f"`request_id` may have at most {MAX_REQUEST_ID_CHARS} characters, none of them NUL"
        raise InvalidRequest(text, field="request_id")
    return f"{scope}/{request_id}"


def version(etag: str) -> int | None:
    """Returns the version that an etag stands for, None for an empty one; what is no etag is that of no version."""
    if not etag:
        return None
    return int(etag) if re.fullmatch(r"[1-9][0-9]{0,17}", etag, re.ASCII) else 0


def same_version(conversation: ConversationRecord, wanted: int | None) -> None:
    """Checks that a conversation has a version, if one is wanted.

    Raises:
        Conflict: If it has another one.
    """
    if wanted is not None and conversation.version != wanted:
        raise Conflict("the conversation has changed; its etag is another one", field="etag")


def _line(text: str, field: str, most: int) -> str:
    if len(text) > most:
        raise InvalidRequest(f"`{field}` may have at most {most} characters", field=field)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise InvalidRequest(f"`{field}` must not have control characters", field=field)
    return text
