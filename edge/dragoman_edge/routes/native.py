"""The contract over REST: a route for a method, in proto-JSON with the field names of the contract."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from dragoman_edge.calls import answer_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.proto_json import read_message, read_query, to_json
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from google.protobuf.message import Message

    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response

_PARAM = re.compile(r"\{(\w+)(?:\.\.\.)?\}")
_WITHOUT_BODY = frozenset({"GET", "DELETE"})
_SCHEMAS: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_INT64: {"type": "integer"},
}
_TEXTS = {
    "page_size": "Most items to return; absent or 0 means 50, more than 1,000 means 1,000.",
    "page_token": "`next_page_token` of the page before.",
    "account_id": "The account, for an OPERATOR; absent means one's own.",
    "currency": "Only entries of this currency.",
    "deleted": "The deleted ones, in place of the others.",
    "etag": "The `etag` that it must have; see `If-Match`.",
    "pinned": "Only pinned ones, or only the others; absent means both.",
    "purge": "For good: it cannot be taken back.",
    "query": "Only those whose title or messages have all of these words.",
    "run_id": "Only entries about this run.",
    "source": "Only those from this source.",
}
"""What the fields of requests mean where they are parameters of a query, whatever the method."""


def native_route(
    edge: Edge,
    method: str,
    path: str,
    call: Callable[..., Awaitable[Message]],
    request: type[Message],
    response: type[Message],
    *,
    tag: str,
    summary: str,
    description: str = "",
    public: bool = False,
    headers: tuple[Parameter, ...] = (),
    apply: Callable[[Exchange, Any], None] | None = None,
    tell: Callable[[Exchange, Any], None] | None = None,
) -> Route:
    """Returns the route of a method that answers with one message.

    What GET and DELETE ask for is in the query, what others do is in the body; the variable parts of the path are
    fields of the request too, and win.

    Args:
        edge: The parts of the edge.
        method: The HTTP method.
        path: The path.
        call: The method of the stub.
        request: What it takes.
        response: What it answers.
        tag: The chapter of the documentation.
        summary: What it does, in one line.
        description: What else is to be said.
        public: Whether it needs no credential.
        headers: The headers of requests that mean something here.
        apply: Applies them to what is asked.
        tell: Tells of the answer in the headers of the exchange.
    """
    in_path = _PARAM.findall(path)
    in_query = method in _WITHOUT_BODY
    has_body = not in_query and any(field.name not in in_path for field in request.DESCRIPTOR.fields)

    async def handle(exchange: Exchange) -> Response:
        message = (
            read_query(exchange, request) if in_query else await read_message(edge, exchange, request, optional=True)
        )
        for name in in_path:
            setattr(message, name, exchange.params[name])
        if apply is not None:
            apply(exchange, message)
        metadata = exchange.metadata()
        try:
            answer = await answer_of(call(message, metadata=metadata))
        except EdgeError as error:
            error.param = error.param or error.field or None  # the fields are the contract's own
            raise
        if tell is not None:
            tell(exchange, answer)
        return exchange.json(to_json(answer))

    handle.__name__ = _snake(request.DESCRIPTOR.name.removesuffix("Request"))
    return Route(
        method,
        path,
        handle,
        tag=tag,
        summary=summary,
        description=description,
        parameters=(*_parameters(request, in_path), *headers) if in_query else headers,
        request=request.DESCRIPTOR.full_name if has_body else "",
        answers={"application/json": response.DESCRIPTOR.full_name},
        public=public,
    )


def _parameters(request: type[Message], in_path: list[str]) -> Iterator[Parameter]:
    for field in request.DESCRIPTOR.fields:
        if field.name not in in_path:
            schema = _SCHEMAS.get(field.type, {"type": "string"})
            yield Parameter(field.name, "query", _TEXTS[field.name], schema)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
