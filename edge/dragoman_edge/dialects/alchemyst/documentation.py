"""The JSON Schemas of the dialect, for the documentation. Those of the proxies are OpenAI's and Gemini's."""

from __future__ import annotations

from typing import Any

_PREFIX = "alchemyst."
_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_BOOL = {"type": "boolean"}
_OBJECT = {"type": "object"}


def load_proxy_schemas() -> dict[str, Any]:
    """Returns the schemas of the proxies by name."""
    error = {
        "type": "object",
        "properties": {"message": _TEXT, "type": _TEXT, "code": {"type": ["string", "null"]}, "param": _TEXT},
        "required": ["message", "type", "code"],
    }
    return {"proxy.Error": {"type": "object", "properties": {"error": error}, "required": ["error"]}}


def load_chat_schemas(reference: str) -> dict[str, Any]:
    """Returns the schemas of the chat API by name.

    Args:
        reference: The address of a schema, with `{model}` for its name.
    """
    from pydantic import TypeAdapter

    from dragoman_edge.dialects.alchemyst.schemas import REQUESTS

    template = reference.replace("{model}", _PREFIX + "{model}")
    inputs: list[tuple[int, Any, TypeAdapter[Any]]] = [(n, "validation", one) for n, one in enumerate(REQUESTS)]
    _, document = TypeAdapter.json_schemas(inputs, ref_template=template)
    schemas = document["$defs"] | _answers(template)
    return {_PREFIX + name: schema for name, schema in schemas.items()}


def _answers(template: str) -> dict[str, Any]:
    result = _object({"response": _OBJECT, "message": _TEXT, "persona": _TEXT, "json": _OBJECT})
    entry = _object({"title": _TEXT, "id": _TEXT, "timestamp": {"type": "integer"}})
    message = {
        "id": _TEXT,
        "role": {"enum": ["user", "assistant", "system"]},
        "message": _TEXT,
        "content": _TEXT,
        "thinking_steps": {"type": "array"},
        "steps": {"type": "array"},
        "tools": {"type": ["object", "array", "null"]},
        "createdAt": _TIME,
        "updatedAt": _TIME,
    }
    chat = {
        "_id": _TEXT,
        "userId": _TEXT,
        "title": _TEXT,
        "source": _TEXT,
        "scope": _TEXT,
        "fork": _BOOL,
        "forkedFrom": {"type": ["string", "null"]},
        "pinned": _BOOL,
        "createdAt": _TIME,
        "updatedAt": _TIME,
    }
    optional = {
        "username": _TEXT,
        "phone": _TEXT,
        "messages": {"type": "array", "items": _object(message, {"json": _TEXT})},
    }
    generated = {"result": result, "chatId": _TEXT, "title": _TEXT, "researchMode": _BOOL, "stream": _BOOL}
    frame = {"type": {"enum": ["thinking_update", "response_delta", "final_response", "metadata"]}}
    more = {"content": {"type": ["string", "object", "null"]}, "delta": _TEXT, "json": _OBJECT, "error": _OBJECT}
    return {
        "Error": _object({"message": _TEXT}),
        "ListError": _object({"error": _TEXT}),
        "StoredError": _object({"message": _TEXT, "error": _TEXT}),
        "DirectAnswer": _object(
            {
                "result": _object({"message": _TEXT, "persona": _TEXT}),
                "metadata": _object({"timeTaken": {"type": "integer", "description": "Milliseconds."}}),
            }
        ),
        "GeneratedAnswer": _object(generated),
        "Frame": {"type": "object", "properties": frame | more},
        "Chats": _object({"chats": {"type": "array", "items": entry}}),
        "ChatId": _object({"chatId": _TEXT}),
        "Chat": _object(chat, optional),
        "Data": _object({"data": {"$ref": template.format(model="Chat")}}),
        "Fork": _object({"forkedChatId": _TEXT, "originalChatId": _TEXT, "forkedAtMessageId": _TEXT}),
        "Deleted": _object({"message": _TEXT, "chatId": _TEXT}),
        "Caller": _object({"user": _OBJECT, "organization": _OBJECT}),
    }


def _object(members: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": members | (optional or {}), "required": list(members)}
