"""JSON within requests and answers, whatever the dialect."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Any

import orjson

from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.failures import broken

Json = dict[str, Any]

_URL_SAFE = str.maketrans("-_", "+/")


# Requests


def base64_text(data: bytes) -> str:
    """Returns bytes as JSON has them."""
    return b2a_base64(data, newline=False).decode("ascii")


def json_fragment(text: str, field: str) -> orjson.Fragment:
    """Returns JSON text of the contract to be written as it is.

    Raises:
        InvalidRequest: If it is not JSON.
    """
    _parsed(text, field)
    return orjson.Fragment(text)


def json_object(text: str, field: str) -> Json:
    """Returns the object that a text of the contract is.

    Raises:
        InvalidRequest: If it is not JSON, or not an object.
    """
    value = _parsed(text, field)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} is not a JSON object", field=field)
    return value


def _parsed(text: str, field: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{field} is not JSON: {error}", field=field) from error


# Answers


def answer_value(data: bytes) -> Any:
    """Returns what an answer, or a piece of one, says.

    Raises:
        ProviderError: If it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise broken(f"it is not JSON: {error}") from error


def answer_object(data: bytes) -> Json:
    """Returns the object that an answer, or a piece of one, is.

    Raises:
        ProviderError: If it is not JSON, or not an object.
    """
    value = answer_value(data)
    if not isinstance(value, dict):
        raise broken("it is not an object")
    return value


def string(value: Any) -> str:
    """Returns a text, empty for whatever is none."""
    return value if isinstance(value, str) else ""


def bytes_of(value: Any, what: str) -> bytes:
    """Returns bytes, which answers have in either alphabet of base64, with or without padding.

    Raises:
        ProviderError: If it is not base64.
    """
    text = value.translate(_URL_SAFE) if isinstance(value, str) else ""
    try:
        return a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (ValueError, Base64Error) as error:
        raise broken(f"the {what} is not base64: {error}") from error
