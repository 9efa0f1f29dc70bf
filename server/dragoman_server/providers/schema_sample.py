"""A minimal value that a JSON Schema accepts, for providers that have no model to write one."""

from __future__ import annotations

from typing import Any

from dragoman_server.errors import UnsupportedFeature

_MAX_DEPTH = 32
_MAX_SIZE = 10_000
"""Most values, and characters of texts, that a value consists of: a short schema can ask for very many."""

_IGNORED = frozenset(
    {
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"),
        "deprecated",
        *("additionalProperties", "maxLength", "maxItems", "maxProperties", "uniqueItems", "strict"),
    }
)
"""Keywords that a minimal value satisfies by being minimal."""


def minimal_instance(schema: object) -> Any:
    """Returns the smallest value that the schema accepts, the same one every time.

    Raises:
        UnsupportedFeature: If the schema uses a keyword beyond types, properties, required, items, enum, const, bounds,
            anyOf, oneOf and local references, if it makes no sense, or if its smallest value is large.
    """
    try:
        return _Sampler(schema).sample(schema, 0)
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise UnsupportedFeature(f"the schema makes no sense: {error}") from error


class _Sampler:
    """Makes a value for one schema.

    Args:
        root: The whole schema, in which references are looked up.
    """

    def __init__(self, root: object) -> None:
        self._root = root
        self._room = _MAX_SIZE

    def sample(self, schema: object, depth: int) -> Any:
        """Returns a value that a part of the schema accepts."""
        self._take(1)
        if schema is True:
            return {}
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            raise UnsupportedFeature("the schema is not an object, or has no finite value")
        if "$ref" in schema:
            return self.sample(_resolve(schema["$ref"], self._root), depth + 1)
        if "const" in schema or schema.get("enum"):
            value = schema["const"] if "const" in schema else schema["enum"][0]
            self._take(len(str(value)))
            return value
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self.sample(schema[union][0], depth + 1)
        kind = schema.get("type", "object")
        kind = kind[0] if isinstance(kind, list) and kind else kind
        _refuse_unknown(schema, kind)
        if kind == "object":
            properties = schema.get("properties", {})
            self._take(sum(map(len, schema.get("required", ()))))
            return {name: self.sample(properties.get(name, True), depth + 1) for name in schema.get("required", ())}
        if kind == "array":
            items = schema.get("items", True)
            return [self.sample(items, depth + 1) for _ in range(schema.get("minItems", 0))]
        if kind == "string":
            self._take(schema.get("minLength", 0))
            return "a" * schema.get("minLength", 0)
        if kind in ("integer", "number"):
            return _number(schema)
        return {"boolean": False, "null": None}[kind]

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise UnsupportedFeature(f"the smallest value of the schema has more than {_MAX_SIZE} parts and characters")


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
