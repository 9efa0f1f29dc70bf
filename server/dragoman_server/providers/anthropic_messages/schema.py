"""JSON Schemas in the subset that the API enforces."""

from __future__ import annotations

from typing import Any

from dragoman_server.errors import UnsupportedFeature

_UNENFORCED = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
        *("maxItems", "uniqueItems", "minProperties", "maxProperties", "patternProperties", "propertyNames"),
    }
)
_SUBSCHEMAS = ("items", "not", "if", "then", "else", "contains")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions")
_MAX_DEPTH = 100


def enforceable(schema: dict[str, Any], *, strict: bool, field: str, depth: int = 0) -> dict[str, Any]:
    """Returns a schema that the API can hold an answer to; what follows it follows the given one.

    The API wants every object closed. Closing one that names its properties only narrows it. Rules that the API does
    not know are left out if the answer need not follow the schema exactly; otherwise they stay, for the API to judge.

    Raises:
        UnsupportedFeature: If the schema wants objects with properties that it does not name, or is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise UnsupportedFeature("the schema is nested too deeply", field=field)

    def inner(value: Any) -> Any:
        return enforceable(value, strict=strict, field=field, depth=depth + 1) if isinstance(value, dict) else value

    closed: dict[str, Any] = {}
    for name, value in schema.items():
        if not strict and (name in _UNENFORCED or (name == "minItems" and value not in (0, 1))):
            continue
        if name in _SUBSCHEMAS:
            value = inner(value)
        elif name in _LISTS and isinstance(value, list):
            value = [inner(each) for each in value]
        elif name in _MAPS and isinstance(value, dict):
            value = {key: inner(each) for key, each in value.items()}
        closed[name] = value
    kind = closed.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in closed:
        if "properties" not in closed or closed.get("additionalProperties", False) is not False:
            raise UnsupportedFeature("this provider fills in only properties that the schema names", field=field)
        closed["additionalProperties"] = False
    return closed
