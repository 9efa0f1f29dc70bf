"""The OpenAPI 3.1 document: generated from the route table, the request schemas and the contract.

Loaded on first use: describing the edge costs more than starting it.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import Default

from dragoman.v1.event_pb2 import RunEvent
from dragoman.v1.run_service_pb2 import GetRunResponse, ListRunsResponse
from dragoman_edge.dialects.registry import DIALECTS, REFERENCE
from dragoman_edge.served import HEADERS as SERVED

if TYPE_CHECKING:
    from collections.abc import Collection

    from dragoman_edge.routing import Parameter, Route

_PROTO_ANSWERS = {
    "RunAnswer": GetRunResponse.DESCRIPTOR,
    "RunList": ListRunsResponse.DESCRIPTOR,
    "RunEvent": RunEvent.DESCRIPTOR,
}
_ANSWER_HEADERS = {
    "x-request-id": "Names the request.",
    "x-dragoman-run-id": "Names the run, where there is one.",
    **SERVED,
}
_CREDENTIALS: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api_key": {"type": "apiKey", "in": "header", "name": "api-key"},
    "x_goog_api_key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
}
_CONTRACT = "dragoman.v1."
"""What the names of the contract's messages begin with; routes may name them as their schemas."""
_EVENT_STREAM = "text/event-stream"
_PATH_PARAM = re.compile(r"\{(\w+)(?:\.\.\.)?\}")


def build_document(routes: Collection[Route]) -> dict[str, Any]:
    """Returns the document that describes the routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if not route.documented:
            continue
        path = _PATH_PARAM.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dragoman",
            "version": version("dragoman"),
            "description": "A chat-orchestration server, in the dialects of OpenAI, Gemini, Alchemyst and Soke.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{name: []} for name in _CREDENTIALS],
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": _CREDENTIALS
            | {
                _scheme(name): {"type": "apiKey", "in": "header", "name": name}
                for name in sorted({route.key_header for route in routes if route.key_header})
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
            **_good_answers(route),
            "default": {
                "description": _errors(route.dialect.codes),
                "headers": _headers(route),
                "content": {"application/json": {"schema": _reference(route.dialect.error_schema)}},
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
    elif route.key_header:
        operation["security"] = [{_scheme(route.key_header): []}, *({name: []} for name in _CREDENTIALS)]
    return operation


def _headers(route: Route) -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in (*_ANSWER_HEADERS.items(), *route.dialect.headers.items())
    }


def _scheme(header: str) -> str:
    return header.replace("-", "_")


def _errors(codes: frozenset[str]) -> str:
    return f"What is wrong. Codes: {', '.join(sorted(codes))}." if codes else "What is wrong."


def _good_answers(route: Route) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for media, name in route.answers.items():
        status = "200" if media == _EVENT_STREAM else str(route.status)
        answer = {"description": "The answer.", "headers": _headers(route), "content": {}}
        answers.setdefault(status, answer)["content"][media] = {"schema": _reference(name)} if name else {}
    return answers


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=name)}


_STATUS = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
_TARGET = {
    "type": "object",
    "properties": {
        "provider": {"type": "string"},
        "upstream_model": {"type": "string"},
        "health": {"enum": ["up", "down", "probing", "loading"]},
        "in_flight": {"type": "integer"},
        "queued": {"type": "integer"},
        "latency_ms": {"type": "integer"},
        "fault": {"type": "string"},
        "models": {"type": "array", "items": {"type": "string"}},
    },
}
_READINESS = {
    "type": "object",
    "properties": {"status": {"type": "string"}, "targets": {"type": "array", "items": _TARGET}},
    "required": ["status"],
}


def _schemas(routes: Collection[Route]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for dialect in DIALECTS:
        schemas |= dialect.load_schemas()
    schemas["Status"] = _STATUS
    schemas["Readiness"] = _READINESS
    for name, descriptor in _PROTO_ANSWERS.items():
        schemas[name] = _message_schema(descriptor, schemas)
    schemas["ExportedConversation"] = {
        "type": "object",
        "properties": {
            "format": {"const": "dragoman.conversation.v1"},
            "conversation": _reference("dragoman.v1.Conversation"),
            "messages": {"type": "array", "items": _reference("dragoman.v1.StoredMessage")},
        },
        "required": ["format"],
    }
    for name in sorted({name for route in routes for name in (route.request, *route.answers.values())}):
        if name.startswith(_CONTRACT) and name not in schemas:
            schemas[name] = {}
            schemas[name] = _message_schema(Default().FindMessageTypeByName(name), schemas)
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
