"""What llama.cpp's grammars can enforce of a JSON Schema.

llama.cpp leaves out what it cannot express, mostly in silence. Here it is found out beforehand: a strict schema with
such a part is refused, any other loses the part knowingly, as `strict` unset means "as far as the model can".
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from dragoman_server.errors import InvalidRequest, UnsupportedFeature

FIELD = "response_format.json_schema.schema_json"

MAX_BYTES = 64 * 1024
"""Converting takes time that grows faster than the schema, and cannot be interrupted."""
MAX_DEPTH = 64
"""llama.cpp converts by recursion."""
MAX_COUNT = 1000
"""Largest count of characters or items; llama.cpp refuses grammars with much longer repetitions."""

MAX_PATTERN_CHARACTERS = 200
MAX_PATTERN_REPEATS = 32
"""How often groups of a pattern may be repeated, multiplied: a hundred optional parts take llama.cpp seconds per token,
and it serves nobody else meanwhile."""

_GROUP_REPEAT = re.compile(r"\)\{(\d*),?(\d*)\}")
_UNENFORCED = frozenset(
    {
        *("multipleOf", "uniqueItems", "contains", "minContains", "maxContains", "not", "if", "then", "else"),
        *("patternProperties", "propertyNames", "minProperties", "maxProperties", "additionalItems"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties"),
    }
)
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
_SCHEMAS_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_DATA = frozenset({"enum", "const", "default", "examples", "required"})


def enforceable(schema_json: str, *, strict: bool) -> dict[str, Any]:
    """Returns the schema without the parts that llama.cpp cannot enforce; an empty text is the schema of any object.

    Raises:
        InvalidRequest: If the text is not a JSON object, or is larger or deeper than can be converted.
        UnsupportedFeature: If `strict` and a part cannot be enforced.
    """
    if len(schema_json) > MAX_BYTES:
        raise InvalidRequest(f"the schema is longer than {MAX_BYTES} characters", field=FIELD)
    try:
        schema = json.loads(schema_json) if schema_json else {"type": "object"}
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the schema is not valid JSON: {error}", field=FIELD) from error
    if not isinstance(schema, dict):
        raise InvalidRequest("the schema must be a JSON object", field=FIELD)
    dropped: list[str] = []
    kept = _keep(schema, "#", 0, dropped)
    if strict and dropped:
        raise UnsupportedFeature(
            f"the embedded model cannot enforce {', '.join(dropped[:8])}: leave it out, or do not ask for strict",
            field=FIELD,
        )
    return dict(kept)


def _keep(node: Any, path: str, depth: int, dropped: list[str]) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"the schema is nested deeper than {MAX_DEPTH} levels", field=FIELD)
    if isinstance(node, list):
        return [_keep(item, f"{path}/{index}", depth + 1, dropped) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        here = f"{path}/{key}"
        if not _enforced(node, key, value):
            dropped.append(here)
        elif key in _DATA:
            kept[key] = value
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            kept[key] = {name: _keep(child, f"{here}/{name}", depth + 1, dropped) for name, child in value.items()}
        else:
            kept[key] = _keep(value, here, depth + 1, dropped)
    return kept


def _enforced(node: dict[str, Any], key: str, value: Any) -> bool:
    """Whether llama.cpp turns a keyword of a schema into grammar, or the keyword constrains nothing."""
    if key in _COUNTS:
        return isinstance(value, int) and value <= MAX_COUNT
    if key in _BOUNDS:
        return node.get("type") == "integer"
    if key == "pattern":
        return isinstance(value, str) and _is_cheap_and_anchored(value)
    if key == "format":
        return value in _FORMATS
    return key not in _UNENFORCED


def _is_cheap_and_anchored(pattern: str) -> bool:
    """Whether llama.cpp reads a pattern, which must describe the whole text, and can follow it quickly."""
    repeats = math.prod(
        max(map(int, filter(None, counts)), default=1) or 1 for counts in _GROUP_REPEAT.findall(pattern)
    )
    return (
        pattern.startswith("^")
        and pattern.endswith("$")
        and len(pattern) <= MAX_PATTERN_CHARACTERS
        and repeats <= MAX_PATTERN_REPEATS
    )
