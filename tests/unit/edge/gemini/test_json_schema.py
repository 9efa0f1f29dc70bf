from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dragoman_edge.dialects.gemini.json_schema import to_json_schema
from dragoman_edge.dialects.gemini.request import check_message
from dragoman_edge.errors import EdgeError


def converted(schema: Any) -> Any:
    made = to_json_schema(check_message(schema, "Schema"), "response_schema")
    Draft202012Validator.check_schema(made)
    return made


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {}),
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "TYPE_UNSPECIFIED", "title": "t"}, {"title": "t"}),
        ({"type": "STRING", "format": "enum", "enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
        ({"type": "INTEGER", "nullable": True}, {"type": ["integer", "null"]}),
        ({"type": "STRING", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        (
            {"anyOf": [{"type": "STRING"}], "nullable": True},
            {"anyOf": [{"anyOf": [{"type": "string"}]}, {"type": "null"}]},
        ),
        ({"type": "NULL"}, {"type": "null"}),
        (
            {"type": "ARRAY", "items": {"type": "NUMBER", "minimum": 0, "maximum": 1}, "minItems": "1", "maxItems": 3},
            {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 1, "maxItems": 3},
        ),
        ({"type": "STRING", "example": "x", "default": "y"}, {"type": "string", "examples": ["x"], "default": "y"}),
        ({"additionalProperties": False}, {"additionalProperties": False}),
        ({"additional_properties": {"type": "STRING"}}, {"additionalProperties": {"type": "string"}}),
        ({"prefixItems": [{"type": "BOOLEAN"}]}, {"prefixItems": [{"type": "boolean"}]}),
        (
            {"$defs": {"a": {"type": "STRING"}}, "anyOf": [{"ref": "#/defs/a"}]},
            {"$defs": {"a": {"type": "string"}}, "anyOf": [{"$ref": "#/$defs/a"}]},
        ),
        (
            {"type": "STRING", "minLength": 1, "max_length": "2", "pattern": "^a"},
            {"type": "string", "minLength": 1, "maxLength": 2, "pattern": "^a"},
        ),
    ],
)
def test_schemas(schema: Any, expected: Any) -> None:
    assert converted(schema) == expected


def test_the_order_of_properties_is_the_one_asked_for() -> None:
    properties = {"a": {"type": "STRING"}, "b": {"type": "STRING"}, "c": {"type": "STRING"}}
    found = converted({"type": "OBJECT", "properties": properties, "propertyOrdering": ["c", "a"], "required": ["a"]})
    assert list(found["properties"]) == ["c", "a", "b"]
    assert found["required"] == ["a"]


def test_properties_may_have_any_name() -> None:
    found = converted({"properties": {"max_items": {"type": "STRING"}, "type": {"type": "NUMBER"}}})
    assert found == {"properties": {"max_items": {"type": "string"}, "type": {"type": "number"}}}


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"properties": {"a": {"typ": "STRING"}}}, "properties[a]"),
        ({"items": {"type": "TEXT"}}, "items.type"),
        ({"additionalProperties": {"typ": 1}}, "response_schema.additional_properties"),
    ],
)
def test_nested_mistakes_are_named(schema: Any, field: str) -> None:
    with pytest.raises(EdgeError) as caught:
        converted(schema)
    assert caught.value.param == field
