"""Translates checked requests into the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.conversation_service_pb2 import CreateConversationRequest
from dragoman.v1.message_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER
from dragoman_edge.dialects.soke.answer import MODEL

if TYPE_CHECKING:
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_edge.dialects.soke.schemas import ChatMessage, ChatRequest

SOURCE = "soke"
"""Where the conversations come from that the dialect begins."""

_ROLES = {"user": ROLE_USER, "assistant": ROLE_ASSISTANT, "system": ROLE_SYSTEM, "developer": ROLE_SYSTEM}


def fill_chat(spec: ChatSpec, request: ChatRequest, model: str, conversation_id: str) -> None:
    """Fills an empty spec with what a request asks for.

    Args:
        spec: The spec.
        request: The request.
        model: The model that `soke-v1` stands for; empty means the core's default model.
        conversation_id: The conversation, in the words of the contract; empty for none.
    """
    asked = request.get("model") or MODEL
    spec.model = model if asked == MODEL else asked
    spec.conversation_id = conversation_id
    for given in request["messages"]:
        message = spec.messages.add(role=_ROLES[given["role"]], name=given.get("name") or "")
        message.parts.add().text.text = _words(given)


def creation_of(request_id: str) -> CreateConversationRequest:
    """Returns the creation of the conversation that a request begins; its messages and its title come with the turn."""
    return CreateConversationRequest(source=SOURCE, request_id=request_id)


def _words(message: ChatMessage) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
