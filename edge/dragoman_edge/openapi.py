"""The OpenAPI 3.1 document: generated from the route table, the request schemas and the contract.

Loaded on first use: describing the edge costs more than starting it.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from pydantic import TypeAdapter

from dragoman.v1.event_pb2 import RunEvent
from dragoman.v1.run_service_pb2 import GetRunResponse, ListRunsResponse
from dragoman_edge.dialects.openai.answers import ANSWERS
from dragoman_edge.dialects.openai.errors import TABLE
from dragoman_edge.dialects.openai.schemas import REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman_edge.routing import Parameter, Route

_REFERENCE = "#/components/schemas/{model}"
_PROTO_ANSWERS = {
    "RunAnswer": GetRunResponse.DESCRIPTOR,
    "RunList": ListRunsResponse.DESCRIPTOR,
    "RunEvent": RunEvent.DESCRIPTOR,
}
_ANSWER_HEADERS = {
    "x-request-id": {"description": "Names the request.", "schema": {"type": "string"}},
    "x-dragoman-run-id": {"description": "Names the run, where there is one.", "schema": {"type": "string"}},
}
_PATH_PARAM = re.compile(r"\{(\w+)(?:\.\.\.)?\}")


def build_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Returns the document that describes the routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PATH_PARAM.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dragoman",
            "version": version("dragoman"),
            "description": "A chat-orchestration server. The chat and model routes speak the dialect of OpenAI.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"x_api_key": []}, {"api_key": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "api_key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    names = _PATH_PARAM.findall(route.path)
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": {
            "200": {"description": "The answer.", "headers": _ANSWER_HEADERS, "content": _content(route)},
            "default": {
                "description": "What is wrong. Codes: "
                + ", ".join(sorted({row.code for row in TABLE.values() if row.code}))
                + ".",
                "headers": _ANSWER_HEADERS,
                "content": {"application/json": {"schema": _reference("Error")}},
            },
        },
    }
    if route.description:
        operation["description"] = route.description
    if names or route.parameters:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ] + [_parameter(parameter) for parameter in route.parameters]
    if route.request:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(route.request)}},
        }
    if route.public:
        operation["security"] = []
    return operation


def _content(route: Route) -> dict[str, Any]:
    return {media: {"schema": _reference(name)} if name else {} for media, name in route.answers.items()}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}


def _schemas() -> dict[str, Any]:
    adapters: list[tuple[str, Any, TypeAdapter[Any]]] = [("request", "validation", REQUEST)]
    adapters += [(name, "serialization", adapter) for name, adapter in ANSWERS.items()]
    _, document = TypeAdapter.json_schemas(adapters, ref_template=_REFERENCE)
    schemas: dict[str, Any] = document["$defs"]
    schemas["Status"] = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    for name, descriptor in _PROTO_ANSWERS.items():
        schemas[name] = _message_schema(descriptor, schemas)
    return schemas


_SCALARS: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},  # as proto-JSON writes it
}
_WELL_KNOWN = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "description": "Seconds, for example `1.5s`."},
}


def _message_schema(descriptor: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a message in proto-JSON; members at their default are left out."""
    return {
        "type": "object",
        "properties": {field.name: _field_schema(field, schemas) for field in descriptor.fields},
    }


def _field_schema(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _field_schema(message.fields_by_name["value"], schemas)}
    one = _value_schema(field, schemas)
    return {"type": "array", "items": one} if field.is_repeated else one


def _value_schema(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if (message := field.message_type) is None:
        return dict(_SCALARS[field.type])
    if message.full_name in _WELL_KNOWN:
        return dict(_WELL_KNOWN[message.full_name])
    name = message.full_name  # with its package: the dialect has names of its own
    if name not in schemas:
        schemas[name] = {}  # messages may hold themselves
        schemas[name] = _message_schema(message, schemas)
    return _reference(name)
