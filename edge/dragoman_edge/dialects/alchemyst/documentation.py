"""The JSON Schemas of the dialect, for the documentation: requests and answers are those of OpenAI and Gemini."""

from __future__ import annotations

from typing import Any


def load_schemas() -> dict[str, Any]:
    """Returns the schemas by name."""
    text = {"type": "string"}
    error = {
        "type": "object",
        "properties": {"message": text, "type": text, "code": {"type": ["string", "null"]}, "param": text},
        "required": ["message", "type", "code"],
    }
    return {"proxy.Error": {"type": "object", "properties": {"error": error}, "required": ["error"]}}
