from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman_server.providers.gemini.schema import NotFollowed, strict_schema

PERSON: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person",
    "type": "object",
    "properties": {
        "kind": {"const": "person"},
        "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        "either": {"anyOf": [{"type": "string", "format": "date"}, {"enum": [1, 2.5, "x"]}]},
        "pattern": {"type": "string"},
    },
    "$defs": {"tag": {"type": "string", "default": "a"}},
    "required": ["kind"],
    "additionalProperties": False,
}


def test_a_schema_that_can_be_followed_means_the_same() -> None:
    schema = strict_schema(PERSON)
    assert schema == {**PERSON, "properties": {**PERSON["properties"], "kind": {"enum": ["person"]}}}
    assert PERSON["properties"]["kind"] == {"const": "person"}  # what came is not changed


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"pattern": "x"}, "pattern"),
        ({"properties": {"a": {"minLength": 1}}}, "minLength"),
        ({"items": {"exclusiveMinimum": 1}}, "exclusiveMinimum"),
        ({"anyOf": [{"type": "string"}, {"not": {}}]}, "not"),
        ({"additionalProperties": {"multipleOf": 2}}, "multipleOf"),
        ({"$defs": {"a": {"if": {}}}}, "if"),
        ({"const": None}, "enum"),
        ({"enum": [True]}, "enum"),
        ({"enum": "x"}, "enum"),
        ({"items": False}, "False"),
        ({"allOf": []}, "allOf"),
    ],
)
def test_keywords_that_are_not_followed(schema: Any, keyword: str) -> None:
    with pytest.raises(NotFollowed, match=f"^{keyword}$"):
        strict_schema(schema)


def test_endless_nesting() -> None:
    schema: Any = {}
    for _ in range(900):
        schema = {"items": schema}
    with pytest.raises(NotFollowed, match="nesting"):
        strict_schema(schema)


SCALARS = st.sampled_from(["", "a", 0, 1, -2.5])
SCHEMAS = st.recursive(
    st.one_of(
        st.builds(lambda value: {"const": value}, SCALARS),
        st.builds(lambda values: {"enum": values}, st.lists(SCALARS, min_size=1)),
        st.sampled_from([{}, {"type": "string"}, {"type": "integer", "minimum": 1}, {"pattern": "a"}, {"const": None}]),
    ),
    lambda inner: st.one_of(
        st.builds(lambda schema: {"type": "array", "items": schema}, inner),
        st.builds(lambda schemas: {"anyOf": schemas}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda schemas: {"properties": schemas}, st.dictionaries(st.sampled_from("ab"), inner)),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=5,
)


@given(SCHEMAS, st.lists(VALUES, max_size=5))
def test_any_schema_is_refused_or_accepts_the_same_values(schema: Any, values: list[Any]) -> None:
    try:
        followed = strict_schema(schema)
    except NotFollowed:
        assert "pattern" in str(schema) or "None" in str(schema)
        return
    for value in values:
        assert jsonschema.Draft202012Validator(followed).is_valid(value) == jsonschema.Draft202012Validator(
            schema
        ).is_valid(value)
