"""A minimal value that a JSON Schema accepts, for providers that have no model to write one."""

from __future__ import annotations

from typing import Any

from dragoman_server.errors import UnsupportedFeature

_MAX_DEPTH = 32

_IGNORED = frozenset(
    {
        *(
            "$schema",
            "$id",
            "$comment",
            "$defs",
            "definitions",
            "title",
            "description",
            "default",
            "examples",
            "deprecated",
        ),
        *("additionalProperties", "maxLength", "maxItems", "maxProperties", "uniqueItems", "strict"),
    }
)
"""Keywords that a minimal value satisfies by being minimal."""


def minimal_instance(schema: object) -> Any:
    """Returns the smallest value that the schema accepts, the same one every time.

    Raises:
        UnsupportedFeature: If the schema uses a keyword beyond types, properties, required, items, enum, const, bounds,
            anyOf, oneOf and local references.
    """
    return _sample(schema, schema, 0)


def _sample(schema: object, root: object, depth: int) -> Any:
    if schema is True:
        return {}
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        raise UnsupportedFeature("the schema is not an object, or has no finite value")
    if "$ref" in schema:
        return _sample(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return _sample(schema[union][0], root, depth + 1)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    _refuse_unknown(schema, kind)
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _sample(properties.get(name, True), root, depth + 1) for name in schema.get("required", ())}
    if kind == "array":
        return [_sample(schema.get("items", True), root, depth + 1)] * schema.get("minItems", 0)
    if kind == "string":
        return "a" * schema.get("minLength", 0)
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": False, "null": None}[kind]


_KNOWN: dict[str, frozenset[str]] = {
    "object": frozenset({"type", "properties", "required"}),
    "array": frozenset({"type", "items", "minItems"}),
    "string": frozenset({"type", "minLength"}),
    "integer": frozenset({"type", "minimum", "maximum"}),
    "number": frozenset({"type", "minimum", "maximum"}),
    "boolean": frozenset({"type"}),
    "null": frozenset({"type"}),
}


def _refuse_unknown(schema: dict[str, Any], kind: object) -> None:
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise UnsupportedFeature(f"the schema has an unknown type {kind!r}")
    if kind == "array" and schema.get("uniqueItems") and schema.get("minItems", 0) > 1:
        raise UnsupportedFeature("the schema keyword 'uniqueItems' is not supported here")
    for keyword in schema.keys() - _KNOWN[kind] - _IGNORED:
        raise UnsupportedFeature(f"the schema keyword {keyword!r} is not supported here")


def _number(schema: dict[str, Any]) -> int | float:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and low > 0:
        value = low
    elif high is not None and high < 0:
        value = high
    else:
        return 0
    if schema.get("type") == "integer" and value != int(value):
        raise UnsupportedFeature("the bounds of an integer must be integers here")
    return int(value) if value == int(value) else float(value)


def _resolve(reference: object, root: object) -> object:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise UnsupportedFeature(f"the schema reference {reference!r} is not local")
    target = root
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            raise UnsupportedFeature(f"the schema reference {reference!r} leads nowhere")
        target = target[key]
    return target
