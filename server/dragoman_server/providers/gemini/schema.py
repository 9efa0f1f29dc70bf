"""JSON Schema that has to be followed exactly.

The API takes any JSON Schema and passes over the keywords that it does not know. Where a request insists on the schema
(`strict`), that would be a promise broken in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dragoman_server.providers.json_values import Json

_MAX_DEPTH = 100

_ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$anchor", "$comment", "title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly", "propertyOrdering"),
    }
)
_FOLLOWED = frozenset(
    {"$ref", "type", "format", "required", "minItems", "maxItems", "minimum", "maximum", "additionalProperties"}
)
_WITH_SCHEMA = frozenset({"items"})
_WITH_SCHEMAS = frozenset({"prefixItems", "anyOf", "oneOf"})
_WITH_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})


class NotFollowed(ValueError):
    """The API does not follow a keyword of the schema; its name is the argument."""


def strict_schema(schema: Json) -> Json:
    """Returns a schema that the API follows exactly, and that means the same.

    Raises:
        NotFollowed: If there is none.
    """
    return _strict(schema, 0)


def _strict(schema: Any, depth: int) -> Json:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        raise NotFollowed(str(schema) if isinstance(schema, bool) else "nesting")
    return dict(_keyword(name, value, depth + 1) for name, value in schema.items())


def _keyword(name: str, value: Any, depth: int) -> tuple[str, Any]:
    if name == "const":
        name, value = "enum", [value]
    if name == "enum":
        if not isinstance(value, list) or not all(_is_listed(entry) for entry in value):
            raise NotFollowed(name)
        return name, value
    if name in _WITH_SCHEMA or (name == "additionalProperties" and isinstance(value, dict)):
        return name, _strict(value, depth)
    if name in _WITH_SCHEMAS and isinstance(value, list):
        return name, [_strict(entry, depth) for entry in value]
    if name in _WITH_NAMED_SCHEMAS and isinstance(value, dict):
        return name, {key: _strict(entry, depth) for key, entry in value.items()}
    if name not in _FOLLOWED and name not in _ANNOTATIONS:
        raise NotFollowed(name)
    return name, value


def _is_listed(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
