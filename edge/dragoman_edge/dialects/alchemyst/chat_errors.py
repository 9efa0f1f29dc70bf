"""Errors of the chat API: the same statuses everywhere, and a body for each family of routes."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

from dragoman.reasons import Reason
from dragoman_edge.dialects.dialect import ErrorAnswer
from dragoman_edge.dialects.naming import renamed
from dragoman_edge.dialects.openai import errors as openai

if TYPE_CHECKING:
    from dragoman_edge.errors import EdgeError

UNPROCESSABLE = dict.fromkeys(
    (
        Reason.UNSUPPORTED_FEATURE,
        Reason.CONTEXT_LENGTH_EXCEEDED,
        Reason.CONTENT_FILTERED,
        Reason.PROVIDER_REJECTED,
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY.value,
)
"""What is well-formed and cannot be done has a status of its own here."""

_PHRASES = {one.value: one.phrase for one in HTTPStatus}
_CONVERSATION = re.compile(r"\bconversation\b")
_FIELDS = (
    # Numbers differ from those of the request: messages without words are left out.
    (re.compile(r"^spec\.chat\.(messages|message_notes)\b.*"), "chat_history"),
    (re.compile(r"^messages\b.*"), "messages"),
    (re.compile(r"^(spec\.)?(chat\.)?"), ""),
    (re.compile(r"^request_id$"), "Idempotency-Key"),
    (re.compile(r"^(disconnect_policy|detach_ttl)$"), "X-Dragoman-Disconnect"),
    (re.compile(r"^token_type$"), "X-Token-Type"),
    (re.compile(r"^(conversation_id|short_id)$"), "chatId"),
    (re.compile(r"^message_id$"), "messageId"),
    (re.compile(r"^context\b.*"), "fastContext"),
)


def render_chat_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of the routes that generate."""
    return _answer(error, {"message": message_of(error)})


def render_list_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of the routes that list and save chats."""
    return _answer(error, {"error": message_of(error)})


def render_stored_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of the routes of one stored chat."""
    return _answer(error, {"message": message_of(error), "error": _PHRASES.get(status_of(error), "Cancelled")})


def message_of(error: EdgeError) -> str:
    """Returns what is wrong, with the names that the dialect has for things and fields of the contract."""
    message = renamed(error.message, error.field, field_of(error.field)) if error.field else error.message
    return _CONVERSATION.sub("chat", message)


def field_of(field: str) -> str:
    """Returns the parameter that a path in the contract stands for, or an empty text for an empty path."""
    for pattern, replacement in _FIELDS:
        field = pattern.sub(replacement, field)
    return field


def status_of(error: EdgeError) -> int:
    """Returns the HTTP status of an error."""
    return error.status or UNPROCESSABLE.get(error.reason) or openai.TABLE[error.reason].status


def _answer(error: EdgeError, body: dict[str, str]) -> ErrorAnswer:
    return ErrorAnswer(status_of(error), orjson.dumps(body), openai.render_error(error).headers)
