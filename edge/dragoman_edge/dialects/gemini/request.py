"""Checks JSON against the tables of messages by the rules of protobuf, and names the field that breaks one."""

from __future__ import annotations

import binascii
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from dragoman.reasons import Reason
from dragoman_edge.dialects.gemini.schemas import NAMES, Field, Kind, Words
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Callable

Json: TypeAlias = dict[str, Any]

_INSTRUCTION = ("systemInstruction", "system_instruction")
_LONGEST = 100
"""Characters of a name or value that errors show: they may be as long as a body."""
_INT32 = 2**31
_INT64 = 2**63


def check_request(body: Json) -> Json:
    """Returns a `GenerateContentRequest` as `check_message` does; its system instruction may be a text, too.

    Raises:
        EdgeError: If it breaks a rule.
    """
    for name in _INSTRUCTION:
        if isinstance(text := body.get(name), str):
            body = body | {name: {"parts": [{"text": text}]}}
    return check_message(body, "GenerateContentRequest")


def check_message(value: Any, message: str, path: str = "") -> Json:
    """Returns a message with names in camel case, bytes decoded and numbers as numbers; `null` is left out.

    Args:
        value: The parsed JSON.
        message: Name of the message's table.
        path: Where the message stands in the request.

    Raises:
        EdgeError: If it breaks a rule; `param` is the path of the field in snake case, as Google writes it.
    """
    if not isinstance(value, dict):
        raise _wrong(path, f"type.googleapis.com/google.ai.generativelanguage.v1beta.{message}", value)
    names = NAMES[message]
    checked: Json = {}
    for given, content in value.items():
        found = names.get(given)
        if found is None:
            raise _unknown(given, path)
        if content is None:
            continue
        name, proto_name, field = found
        where = f"{path}.{proto_name}" if path else proto_name
        if name in checked:
            raise invalid(where, f"Invalid value at '{where}': the field is given twice.")
        if field.refused:
            if content is False:  # which says that it is not wanted
                continue
            raise unsupported(where, field.refused)
        checked[name] = _content(content, field, where)
    return checked


def invalid(path: str, message: str) -> EdgeError:
    """Returns the error for a field that breaks a rule."""
    return EdgeError(message, param=path)


def missing(path: str) -> EdgeError:
    """Returns the error for a field that is not there."""
    return invalid(path, f"'{path}' is missing: it is required.")


def unsupported(path: str, why: str) -> EdgeError:
    """Returns the error for a field that this server does not take."""
    return EdgeError(f"'{path}' is not supported: {why}.", reason=Reason.UNSUPPORTED_FEATURE, param=path)


def _content(content: Any, field: Field, path: str) -> Any:
    if field.repeated:
        items = content if isinstance(content, list) else [content]
        return [_value(item, field, f"{path}[{index}]") for index, item in enumerate(items)]
    if field.keyed:
        if not isinstance(content, dict):
            raise _wrong(path, "map", content)
        return {key: _value(item, field, f"{path}[{key[:_LONGEST]}]") for key, item in content.items()}
    return _value(content, field, path)


def _value(value: Any, field: Field, path: str) -> Any:
    kind = field.kind
    if isinstance(kind, Kind):
        converted = _CONVERT[kind](value)
        if converted is _WRONG:
            raise _wrong(path, kind.value, value)
        return converted
    if isinstance(kind, Words):
        word = value.upper() if isinstance(value, str) else ""
        if word not in kind.values:
            raise _wrong(path, "one of " + ", ".join(kind.values), value)
        return word
    return check_message(value, kind, path)


def _unknown(name: str, path: str) -> EdgeError:
    shown = name[:_LONGEST]
    place = f" at '{path}'" if path else ""
    return invalid(path or shown, f'Invalid JSON payload received. Unknown name "{shown}"{place}: Cannot find field.')


def _wrong(path: str, expected: str, value: Any) -> EdgeError:
    shown = orjson.dumps(value).decode()[:_LONGEST]
    return invalid(path, f"Invalid value at '{path}' ({expected}), {shown}")


_WRONG = object()
"""What a conversion returns for a value that is not of its kind."""


def _string(value: Any) -> Any:
    return value if isinstance(value, str) else _WRONG


def _bool(value: Any) -> Any:
    return value if isinstance(value, bool) else _WRONG


def _number(value: Any) -> float | int | None:
    """Returns a number, which may be written as a text, or None."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _int(bound: int) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        number = _number(value)
        if number is None or not math.isfinite(number) or number != int(number) or not -bound <= number < bound:
            return _WRONG
        return int(number)

    return convert


def _double(value: Any) -> Any:
    number = _number(value)
    return float(number) if number is not None and math.isfinite(number) else _WRONG


def _bytes(value: Any) -> Any:
    """Decodes base64 of either alphabet, with or without padding."""
    if not isinstance(value, str) or not value.isascii():
        return _WRONG
    text = value.rstrip("=").translate(_URL_SAFE)
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        return _WRONG


_URL_SAFE = str.maketrans("-_", "+/")


def _struct(value: Any) -> Any:
    return value if isinstance(value, dict) else _WRONG


_CONVERT: dict[Kind, Callable[[Any], Any]] = {
    Kind.STRING: _string,
    Kind.BOOL: _bool,
    Kind.INT32: _int(_INT32),
    Kind.INT64: _int(_INT64),
    Kind.DOUBLE: _double,
    Kind.BYTES: _bytes,
    Kind.STRUCT: _struct,
    Kind.VALUE: lambda value: value,
}
