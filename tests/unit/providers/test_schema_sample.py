from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from dragoman_server.errors import UnsupportedFeature
from dragoman_server.providers.schema_sample import minimal_instance


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "b"]},
        {"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2},
        {"type": "number", "maximum": -0.5},
        {"type": ["null", "string"]},
        {"enum": ["x", "y"]},
        {"const": {"k": [1]}},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}},
        {
            "type": "object",
            "properties": {"next": {"$ref": "#"}, "x": {"type": "number"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    ],
)
def test_the_instance_follows_the_schema(schema: dict[str, Any]) -> None:
    jsonschema.validate(minimal_instance(schema), schema)


DOUBLING = {
    str(level): {"properties": {key: {"$ref": f"#/$defs/{level + 1}"} for key in "ab"}, "required": ["a", "b"]}
    for level in range(14)
} | {"14": {"type": "null"}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "a+"},
        {"type": "string", "format": "date"},
        {"type": "integer", "multipleOf": 3},
        {"type": "fish"},
        {"$ref": "#"},
        {"$ref": "https://example.org/schema"},
        {"$ref": "#/$defs/missing"},
        {"type": "array", "items": {}, "minItems": 2, "uniqueItems": True},
        False,
        {"type": "string", "minLength": 10**12},
        {"type": "array", "items": {"type": "array", "minItems": 9999}, "minItems": 9999},
        {"$ref": "#/$defs/0", "$defs": DOUBLING},
        {"type": "array", "items": {"const": "x" * 100}, "minItems": 1000},
        {"type": "array", "items": {"required": ["x" * 100]}, "minItems": 1000},
        {"type": "string", "minLength": "3"},
        {"type": "array", "minItems": 2.5},
        {"type": "object", "properties": [], "required": ["a"]},
        {"type": "object", "required": 3},
        {"type": "integer", "minimum": "3"},
        {"type": "integer", "minimum": float("inf")},
        {"enum": {"a": 1}},
    ],
)
def test_what_it_cannot_promise_it_refuses(schema: Any) -> None:
    with pytest.raises(UnsupportedFeature):
        minimal_instance(schema)
