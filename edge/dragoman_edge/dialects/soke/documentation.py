"""The JSON Schemas of the dialect, for the documentation."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_TOKENS = {"accessToken": _TEXT, "refreshToken": _TEXT, "expiresAt": {"type": "string", "format": "date-time"}}


def load_schemas() -> dict[str, Any]:
    """Returns the schemas of requests and answers by name."""
    return {
        "soke.Login": _object({"email": _TEXT, "password": _TEXT}),
        "soke.RefreshToken": _object({"refreshToken": _TEXT}),
        "soke.Tokens": _envelope(_object(_TOKENS)),
        "soke.Empty": _envelope({"type": "object"}),
        "soke.Error": _object(
            {
                "success": {"const": False},
                "error": _object({"code": _TEXT, "message": _TEXT, "details": {"type": "object"}}),
            }
        ),
    }


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    return _object({"success": {"const": True}, "data": data, "meta": _object({"request_id": _TEXT})})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
