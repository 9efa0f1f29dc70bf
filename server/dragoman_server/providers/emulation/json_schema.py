"""Checks answers against the JSON Schema of a request: no code, no network, bounded work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import extend, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from dragoman_server.errors import InvalidRequest, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIELD = "response_format.json_schema.schema_json"

MAX_REFERENCES = 20_000
"""Most references that are followed for one answer: a schema of a few lines can ask for more than any time."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_UNCHECKED = frozenset({"pattern", "patternProperties", "$schema"})
"""Keywords that are refused: a regular expression of a client's choice could keep the server busy forever, and a
dialect of a part could bring validators that are not bounded."""

_MAPS = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose value has schemas under names of the client's choice."""
_VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose value holds no schemas."""


class _TooManyReferences(Exception):
    """More references than a check may follow."""


class Schema:
    """The schema of a request.

    Args:
        text: The schema, JSON.

    Raises:
        InvalidRequest: If it is no JSON Schema.
        UnsupportedFeature: If it has keywords that are not checked here.
    """

    def __init__(self, text: str) -> None:
        schema = _parsed(text)
        dialect = schema.pop("$schema", "")  # left in, it would bring back validators that do not count
        _refuse_unchecked(schema)
        draft = validator_for({"$schema": str(dialect)}, default=Draft202012Validator)
        try:
            draft.check_schema(schema)
        except SchemaError as error:
            raise InvalidRequest(f"the schema is wrong at {error.json_path}: {error.message}", field=FIELD) from error
        except RecursionError as error:
            raise InvalidRequest("the schema is too deep", field=FIELD) from error
        rules = {word: self._counted(draft.VALIDATORS[word]) for word in _REFERENCES if word in draft.VALIDATORS}
        self._left = 0
        self._validator = extend(draft, rules)(schema, registry=Registry())  # type: ignore[no-untyped-call] # nothing is fetched

    def problem(self, value: object) -> str:
        """Returns what is wrong with a value, or nothing.

        Raises:
            InvalidRequest: If the schema refers to what it does not hold, or to itself without end.
        """
        self._left = MAX_REFERENCES
        try:
            error = next(self._validator.iter_errors(value), None)
        except Unresolvable as unknown:
            raise InvalidRequest(
                f"the schema refers to {unknown.ref!r}, which it does not hold", field=FIELD
            ) from unknown
        except (RecursionError, _TooManyReferences) as endless:
            raise InvalidRequest("the schema refers to itself too often", field=FIELD) from endless
        return "" if error is None else f"{error.json_path}: {error.message}"

    def _counted(self, follow: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def counted(*arguments: Any) -> Iterator[Any]:
            self._left -= 1
            if self._left < 0:
                raise _TooManyReferences
            yield from follow(*arguments) or ()

        return counted


def _parsed(text: str) -> dict[str, Any]:
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the schema is not JSON: {error}", field=FIELD) from error
    if not isinstance(schema, dict):
        raise InvalidRequest("the schema is not a JSON object", field=FIELD)
    return schema


def _refuse_unchecked(schema: Any) -> None:
    """Refuses a schema with keywords that are not checked.

    Raises:
        UnsupportedFeature: If it has any.
    """
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            for word, value in part.items():
                if word in _UNCHECKED:
                    raise UnsupportedFeature(
                        f"the server cannot check {word!r} of a JSON Schema by itself", field=FIELD
                    )
                if word in _MAPS and isinstance(value, dict):
                    pending += value.values()
                elif word not in _VALUES:
                    pending.append(value)
