from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.conformance.providers.cases import Case, Feature, for_cases
from tests.support.generation import generate

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer"},
        "sure": {"type": "boolean"},
    },
    "required": ["colour", "count", "sure"],
    "additionalProperties": False,
}


@for_cases(Feature.JSON_SCHEMA)
@pytest.mark.parametrize("incremental", [True, False])
async def test_the_answer_follows_the_schema(case: Case, incremental: bool) -> None:
    spec = case.ask()
    spec.response_format.json_schema.name = "thing"
    spec.response_format.json_schema.schema_json = json.dumps(SCHEMA)
    async with case.open() as provider:
        recording = await generate(provider, case.request(spec=spec, incremental=incremental))
    jsonschema.validate(json.loads(recording.text), SCHEMA)


@for_cases(Feature.JSON_OBJECT)
async def test_the_answer_is_a_json_object(case: Case) -> None:
    spec = case.ask()
    spec.messages[0].parts[0].text.text += " Answer in JSON."
    spec.response_format.json_object.SetInParent()
    async with case.open() as provider:
        recording = await generate(provider, case.request(spec=spec))
    assert isinstance(json.loads(recording.text), dict)
