"""Turns Google's own schemas into JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman_edge.dialects.gemini.request import check_message

if TYPE_CHECKING:
    from dragoman_edge.dialects.gemini.request import Json

_SAME = (
    "title",
    "description",
    "required",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "pattern",
    "default",
)
_LISTS = ("anyOf", "prefixItems")


def to_json_schema(schema: Json, path: str) -> Json:
    """Returns the JSON Schema that says the same as a checked `Schema`.

    Args:
        schema: The schema, as `check_message` returns it.
        path: Where it stands in the request.

    Raises:
        EdgeError: If a nested schema breaks a rule.
    """
    made: Json = {name: schema[name] for name in _SAME if name in schema}
    if (type_ := schema.get("type", "TYPE_UNSPECIFIED")) != "TYPE_UNSPECIFIED":
        made["type"] = type_.lower()
    if "enum" in schema:
        made["enum"] = list(schema["enum"])
    if schema.get("format", "enum") != "enum":  # which only says that there is a list of values
        made["format"] = schema["format"]
    if "example" in schema:
        made["examples"] = [schema["example"]]
    if "properties" in schema:
        made["properties"] = _properties(schema, path)
    if "items" in schema:
        made["items"] = to_json_schema(schema["items"], f"{path}.items")
    for name in _LISTS:
        if name in schema:
            made[name] = [to_json_schema(each, path) for each in schema[name]]
    if "additionalProperties" in schema:
        made["additionalProperties"] = _additional(schema["additionalProperties"], f"{path}.additional_properties")
    if "ref" in schema:
        made["$ref"] = schema["ref"].replace("#/defs/", "#/$defs/")
    if "defs" in schema:
        made["$defs"] = {name: to_json_schema(each, path) for name, each in schema["defs"].items()}
    return _nullable(made) if schema.get("nullable") else made


def _properties(schema: Json, path: str) -> Json:
    """Returns the properties in the order that the schema asks for: models write them so."""
    properties = schema["properties"]
    order = [name for name in schema.get("propertyOrdering", ()) if name in properties]
    names = dict.fromkeys([*order, *properties])
    return {name: to_json_schema(properties[name], f"{path}.properties[{name}]") for name in names}


def _additional(value: Any, path: str) -> Any:
    return to_json_schema(check_message(value, "Schema", path), path) if isinstance(value, dict) else value


def _nullable(schema: Json) -> Json:
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    schema["type"] = [schema["type"], "null"]
    if "enum" in schema:
        schema["enum"].append(None)
    return schema
