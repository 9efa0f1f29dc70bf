"""Translates checked requests of the chat API into the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.titles import title_from
from dragoman.v1.conversation_service_pb2 import CreateConversationRequest, NewMessage
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, Message
from dragoman.v1.run_pb2 import HISTORY_MODE_GIVEN, MessageNote
from dragoman_edge.dialects.alchemyst.request import words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_edge.dialects.alchemyst.schemas import ChatMessage, GenerateRequest, SaveRequest

SOURCE = "platform.converse"
"""Where chats come from that do not say it."""
LABELS = ("username", "phone", "scope")
"""What is kept with a chat under its own name."""

_ROLES = {"user": ROLE_USER, "assistant": ROLE_ASSISTANT, "system": ROLE_SYSTEM}
_TRANSLATED = frozenset({"role", "content", "message", "id", "createdAt", "updatedAt"})
_RESEARCH = "researchIcps"
_VOICE = "The answer will be spoken: make it short, in the style of speech, without lists, tables, links or markup."


def fill_chat(spec: ChatSpec, history: Sequence[ChatMessage], persona: str) -> None:
    """Fills an empty spec with a conversation and who answers. Messages without words are left out."""
    spec.persona = persona
    for message in _said(history):
        spec.messages.append(_message(message))


def fill_stored_chat(spec: ChatSpec, request: GenerateRequest, persona: str, chat_id: str) -> None:
    """Fills an empty spec with a turn of a stored chat."""
    history = request["chat_history"]
    fill_chat(spec, history, persona)
    spec.conversation_id = chat_id
    spec.history_mode = HISTORY_MODE_GIVEN
    for index, message in enumerate(_said(history)):
        note = MessageNote(message_index=index, client_id=message.get("id") or "", details_json=_details(message))
        if note.client_id or note.details_json:
            spec.message_notes.append(note)
    spec.context.extend(_text(one) for one in request.get("fastContext") or ())
    if request.get("voice"):
        spec.context.append(_VOICE)


def creation_of(request: GenerateRequest, persona: str, request_id: str) -> CreateConversationRequest:
    """Returns the creation of the chat that a request begins; its messages come with its first turn."""
    given: dict[str, Any] = {**request}
    return CreateConversationRequest(
        title=request.get("title") or "",
        short_id=request.get("chatId") or "",
        source=request.get("source") or SOURCE,
        persona=persona,
        labels={name: given[name] for name in LABELS if given.get(name)},
        request_id=request_id,
    )


def saved_chat(request: SaveRequest, request_id: str) -> CreateConversationRequest:
    """Returns the creation of a chat with its messages."""
    messages = [
        NewMessage(message=_message(one), client_id=one.get("id") or "", details_json=_details(one))
        for one in _said(request["messages"])
    ]
    return CreateConversationRequest(title=request["title"], source=SOURCE, messages=messages, request_id=request_id)


def wants_research(request: GenerateRequest) -> bool:
    """Returns whether research is asked for, by whichever name."""
    tools = request.get("tools")
    return bool(request.get("researchMode") or (isinstance(tools, dict) and tools.get(_RESEARCH)))


def wants_tools(request: GenerateRequest) -> bool:
    """Returns whether other tools are asked for."""
    tools = request.get("tools") or ()
    return (
        any(name != _RESEARCH and wanted for name, wanted in tools.items()) if isinstance(tools, dict) else bool(tools)
    )


def title_of(history: Sequence[ChatMessage]) -> str:
    """Returns the title that a chat without one gets."""
    return next((title for one in history if one["role"] == "user" and (title := title_from(words_of(one)))), "")


def _said(history: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    return (message for message in history if words_of(message).strip())


def _message(given: ChatMessage) -> Message:
    message = Message(role=_ROLES[given["role"]])
    message.parts.add().text.text = words_of(given)
    return message


def _details(message: ChatMessage) -> str:
    """Returns what else a client keeps with a message, as JSON; empty if it is nothing."""
    kept = {name: value for name, value in message.items() if name not in _TRANSLATED and value not in (None, "", [])}
    return orjson.dumps(kept).decode() if kept else ""


def _text(context: dict[str, Any] | str) -> str:
    """Returns a piece of context: a text as it is, an object that is nothing but a text as that, others as JSON."""
    if isinstance(context, str):
        return context
    match list(context.items()):
        case [(("text" | "content"), str(text))]:
            return text
    return orjson.dumps(context).decode()
