"""Checks requests of the chat API, and names the parameter that breaks a rule."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from dragoman_edge.dialects.alchemyst.schemas import DIRECT, GENERATE, SAVE
from dragoman_edge.dialects.openai.request import explain, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import TypeAdapter

    from dragoman_edge.dialects.alchemyst.schemas import ChatMessage, DirectRequest, GenerateRequest, SaveRequest

RequestT = TypeVar("RequestT")

IN_QUERY = ("chatId", "username", "source", "title")
"""Parameters that may stand in the query; those of the body win."""
_CHAT_ID = re.compile(r"[0-9a-fA-F]{24}", re.ASCII)


def check_generate(body: dict[str, Any], query: Mapping[str, str]) -> GenerateRequest:
    """Returns a request for an answer in a stored chat; empty texts are as good as absent.

    Raises:
        EdgeError: If it breaks a rule.
    """
    given = {name: query[name] for name in IN_QUERY if name in query}
    given |= {name: value for name, value in body.items() if value is not None}
    request: GenerateRequest = check(GENERATE, given)
    _check_words(request["chat_history"], "chat_history")
    if chat_id := request.get("chatId"):
        request["chatId"] = check_chat_id(chat_id)
    return request


def check_direct(body: dict[str, Any]) -> DirectRequest:
    """Returns a request for an answer that is not stored.

    Raises:
        EdgeError: If it breaks a rule.
    """
    request: DirectRequest = check(DIRECT, body)
    _check_words(request["chat_history"], "chat_history")
    return request


def check_save(body: dict[str, Any]) -> SaveRequest:
    """Returns a request to store a chat.

    Raises:
        EdgeError: If it breaks a rule.
    """
    request: SaveRequest = check(SAVE, body)
    _check_words(request["messages"], "messages")
    return request


def check(shape: TypeAdapter[RequestT], body: dict[str, Any]) -> RequestT:
    """Returns a request of a shape.

    Raises:
        EdgeError: If it has another one; `param` is the path of the parameter, for example `chat_history[0].role`.
    """
    try:
        return shape.validator.validate_python(body)  # type: ignore[no-any-return]  # its type is the adapter's
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_input=False), body) from None


def check_chat_id(text: str) -> str:
    """Returns the id of a chat as answers have it.

    Raises:
        EdgeError: If it is none.
    """
    if not _CHAT_ID.fullmatch(text):
        raise invalid("chatId", "Invalid 'chatId': it must be 24 hex digits.")
    return text.lower()


def words_of(message: ChatMessage) -> str:
    """Returns what a message says, by whichever name."""
    content = message.get("content")
    return (message.get("message") or "") if content is None else content


def _check_words(messages: Sequence[ChatMessage], where: str) -> None:
    for index, message in enumerate(messages):
        content, other = message.get("content"), message.get("message")
        if content is not None and other is not None and content != other:
            param = f"{where}[{index}].content"
            raise invalid(param, f"'{param}' and '{where}[{index}].message' differ: give one of them.")
        if content is None and other is None:
            param = f"{where}[{index}].content"
            raise invalid(param, f"Missing required parameter: '{param}'.")
    if not any(words_of(message).strip() for message in messages):
        raise invalid(where, f"Invalid '{where}': no message says anything.")
