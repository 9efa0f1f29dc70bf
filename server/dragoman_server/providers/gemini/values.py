"""JSON values within requests."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Any

import orjson

from dragoman_server.errors import InvalidRequest

Json = dict[str, Any]


def base64_text(data: bytes) -> str:
    """Returns bytes as the API writes them in JSON."""
    return b2a_base64(data, newline=False).decode("ascii")


def json_object(text: str, field: str) -> Json:
    """Returns the object that a text of the contract is.

    Raises:
        InvalidRequest: If it is not JSON, or not an object.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{field} is not JSON: {error}", field=field) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} is not a JSON object", field=field)
    return value
