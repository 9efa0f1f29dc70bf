"""Checks a message against the rules that the contract states and types cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_TOOL, Role
from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    from dragoman.v1.message_pb2 import Message, Part

ROLES = frozenset(Role.values()) - {Role.ROLE_UNSPECIFIED}
ASSISTANT_ONLY = frozenset({"reasoning", "refusal", "tool_call"})
INLINE_KINDS = frozenset({"image", "audio", "file"})


def check_message(message: Message, number: int, path: str = "spec.chat.messages[{}]") -> bool:
    """Checks a message; returns whether there may be more than text in it: an image, audio or a file.

    Args:
        message: The message.
        number: Which one of its list it is, from 0.
        path: Where it is, with `{}` for the number.

    Raises:
        InvalidRequest: If a rule is broken; `field` names where.
    """
    has_media = False
    role = message.role
    if role not in ROLES:
        raise _invalid(f"{path.format(number)}.role", "is missing or unknown")
    for position, part in enumerate(message.parts[:]):
        kind = part.WhichOneof("kind")
        if kind == "text":
            continue
        where = f"{path.format(number)}.parts[{position}]"
        if kind is None:
            raise _invalid(where, "has no kind, or one that this server does not know")
        if kind in ASSISTANT_ONLY and role != ROLE_ASSISTANT:
            raise _invalid(where, f"is a {kind}, which only an assistant message may have")
        if (kind == "tool_result") != (role == ROLE_TOOL):
            raise _invalid(where, "must be a tool result in a tool message, and only there")
        _check_part(part, kind, where)
        has_media |= kind in INLINE_KINDS or kind == "tool_result"
    if role == ROLE_TOOL and not any(part.HasField("tool_result") for part in message.parts):
        raise _invalid(f"{path.format(number)}.parts", "needs a tool result in a tool message")
    return has_media


def _check_part(part: Part, kind: str, where: str) -> None:
    if kind in INLINE_KINDS:
        if not _has_source(part, kind):
            raise _invalid(f"{where}.{kind}", "has no source: give its data or where it is")
        if kind == "image" and part.image.WhichOneof("source") == "data" and not part.image.media_type:
            raise _invalid(f"{where}.image.media_type", "is missing: inline images need one")
    elif kind == "tool_call" and not (part.tool_call.id and part.tool_call.name):
        raise _invalid(f"{where}.tool_call", "needs an id and a name")
    elif kind == "tool_result" and not part.tool_result.call_id:
        raise _invalid(f"{where}.tool_result.call_id", "is missing")


def _has_source(part: Part, kind: str) -> bool:
    if kind == "audio":
        return bool(part.audio.data or part.audio.audio_id)
    return getattr(part, kind).WhichOneof("source") is not None


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {problem}", field=field)
