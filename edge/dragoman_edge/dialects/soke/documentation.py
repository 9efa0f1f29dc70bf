"""The JSON Schemas of the dialect, for the documentation."""

from __future__ import annotations

from typing import Any

_PREFIX = "soke."
_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}
_TIME = {"type": "string", "format": "date-time"}
_GUID = {"type": "string", "format": "uuid"}
_GUID_OR_NULL = {"type": ["string", "null"], "format": "uuid"}
_TOKENS = {"accessToken": _TEXT, "refreshToken": _TEXT, "expiresAt": _TIME}


def load_schemas(reference: str) -> dict[str, Any]:
    """Returns the schemas of requests and answers by name.

    Args:
        reference: The address of a schema, with `{model}` for its name.
    """
    from dragoman_edge.dialects.soke.schemas import CHAT

    template = reference.replace("{model}", _PREFIX + "{model}")
    from pydantic import TypeAdapter

    _, document = TypeAdapter.json_schemas([("chat", "validation", CHAT)], ref_template=template)
    schemas = document["$defs"] | _answers(template)
    chat = schemas["ChatRequest"] = dict(schemas["ChatRequest"])
    chat["additionalProperties"] = True  # those that are left out
    return {_PREFIX + name: schema for name, schema in schemas.items()}


def _answers(template: str) -> dict[str, Any]:
    def named(name: str) -> dict[str, str]:
        return {"$ref": template.format(model=name)}

    error = _object({"code": _TEXT, "message": _TEXT, "details": {"type": "object"}})
    entry = {"id": _GUID, "title": _TEXT, "createdAt": _TIME, "updatedAt": _TIME, "messageCount": _NUMBER}
    said = _object({"role": {"enum": ["user", "assistant", "system"]}, "content": _TEXT, "createdAt": _TIME})
    return {
        "Login": _object({"email": _TEXT, "password": _TEXT}),
        "RefreshToken": _object({"refreshToken": _TEXT}),
        "Tokens": _envelope(_object(_TOKENS)),
        "Empty": _envelope({"type": "object"}),
        "Error": _object({"success": {"const": False}, "error": error, "meta": _object({"request_id": _TEXT})}),
        "Services": _object({"services_used": {"type": "array", "items": _TEXT}, "results": {"type": "object"}}),
        "Usage": _object({"prompt_tokens": _NUMBER, "completion_tokens": _NUMBER, "total_tokens": _NUMBER}),
        "Completion": _completion(named("Services"), named("Usage")),
        "Frame": {
            "type": "object",
            "properties": {
                "type": {"enum": ["data", "content", "done", "error"]},
                "content": _TEXT,
                "service": _TEXT,
                "result": {},
                "services_used": {"type": "array", "items": _TEXT},
                "conversation_id": _GUID_OR_NULL,
                "usage": named("Usage"),
                "finish_reason": {**_TEXT, "description": "Why the answer ended, if the model was not done."},
                "credits_used": {"type": "number"},
                "credits_remaining": {"type": "number"},
                "error": error,
            },
        },
        "Conversations": _envelope(
            _object({"conversations": {"type": "array", "items": _object(entry)}, "total": _NUMBER})
        ),
        "Conversation": _envelope(_object({"id": _GUID, "title": _TEXT, "messages": {"type": "array", "items": said}})),
        "Deleted": _envelope(_object({"id": _GUID, "deleted": {"const": True}})),
        "Connections": _envelope(_object({"connections": {"type": "array", "items": {"type": "object"}}})),
    }


def _completion(services: dict[str, str], usage: dict[str, str]) -> dict[str, Any]:
    message = _object({"role": {"const": "assistant"}, "content": _TEXT, "data": services})
    return _object(
        {
            "id": _TEXT,
            "object": {"const": "chat.completion"},
            "created": _NUMBER,
            "model": _TEXT,
            "choices": {
                "type": "array",
                "items": _object({"index": _NUMBER, "message": message, "finish_reason": _TEXT}),
            },
            "usage": usage,
            "conversation_id": _GUID_OR_NULL,
        }
    )


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    meta = _object({"request_id": _TEXT, "processing_time_ms": _NUMBER})
    return _object({"success": {"const": True}, "data": data, "meta": meta})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
