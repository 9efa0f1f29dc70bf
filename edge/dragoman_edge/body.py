"""Reads request bodies: bounded in size and time, and strict about what is JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from dragoman_edge.errors import EdgeError, error_of_http
from dragoman_edge.http.errors import BodyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.request import Request
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler
    from dragoman_edge.settings import EdgeSettings

HeadT = TypeVar("HeadT")

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
MAX_VALUES = 100_000
"""Most values in a body, all levels together: far more than any request needs but one that brings its tokens."""


def takes_json(
    settings: EdgeSettings,
    read_head: Callable[[Exchange], HeadT],
    answer: Callable[[Exchange, HeadT, dict[str, Any]], Awaitable[Response | Stream]],
) -> Handler:
    """Returns a handler of requests whose body must be a JSON object.

    If that has come with the head, as it mostly has, nothing is waited for: then whoever answers needs no task for it.

    Args:
        settings: Bounds of the body's size, time and depth.
        read_head: Reads what the head of a request says, before its body; raises EdgeError.
        answer: Answers a request, given that and the object.
    """

    def handle(exchange: Exchange) -> Awaitable[Response | Stream]:
        head = read_head(exchange)
        facts, body = exchange.facts, exchange.request.body
        if facts.json_as_it_is is None:
            facts.json_as_it_is = _is_json_as_it_is(exchange.request.headers)
        if facts.json_as_it_is and body.complete and body.unread <= settings.max_request_bytes:
            return answer(exchange, head, parse_json_object(body.take(), settings.max_json_depth))
        return wait(exchange, head)

    async def wait(exchange: Exchange, head: HeadT) -> Response | Stream:
        return await answer(exchange, head, await read_json_object(exchange.request, settings))

    handle.__name__ = answer.__name__  # the documentation names operations by it
    return handle


def _is_json_as_it_is(headers: Mapping[str, str]) -> bool:
    given = headers.get("content-type", "application/json")
    return given == "application/json" and "content-encoding" not in headers and "expect" not in headers


async def read_json_object(request: Request, settings: EdgeSettings, *, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """Reads a body that must be a JSON object.

    Args:
        request: The request.
        settings: Bounds of its size, time and depth.
        max_values: Most values in it, all levels together.

    Raises:
        EdgeError: If it is too large, too slow, too deep, not JSON or not an object.
    """
    given = request.headers.get("content-type")
    if given is not None and given != "application/json":
        _check_content_type(given)
    return parse_json_object(await read_body(request, settings), settings.max_json_depth, max_values)


async def read_body(request: Request, settings: EdgeSettings) -> bytes:
    """Reads a body.

    Raises:
        EdgeError: If it is compressed, too large or too slow, or breaks off.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise EdgeError("Compressed request bodies are not accepted.", status=415, code="unsupported_content_encoding")
    try:
        return await request.read(settings.max_request_bytes)
    except BodyError as error:
        raise error_of_http(error) from error


def _check_content_type(given: str) -> None:
    media_type, _, parameters = given.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if media_type.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise EdgeError(
            "The Content-Type must be application/json, in UTF-8.", status=415, code="unsupported_content_type"
        )


def parse_json_object(body: bytes, max_depth: int, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """Parses a JSON object; of a member that comes twice, the last counts.

    Raises:
        EdgeError: If the body is not JSON (NaN, lone surrogates, invalid UTF-8 and a byte order mark included), not an
            object, nested too deep, or of too many values.
    """
    if body.count(b"{") + body.count(b"[") > max_depth or len(body) > max_values:
        _check_shape(body, max_depth, max_values)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body:
            raise EdgeError("The request has no body; a JSON object is needed.", code="invalid_json") from None
        raise EdgeError(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    if type(value) is not dict:
        raise EdgeError("The request body must be a JSON object.", code="invalid_json")
    return value


def _outside_of_strings(body: bytes) -> bytes:
    """Returns what of a JSON text is not within quotes. Works on whole buffers, so that large bodies cost little."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(body.split(b'"')[::2])


def _check_shape(body: bytes, max_depth: int, max_values: int) -> None:
    """Refuses what would cost far more to hold and to check than to send, before anything is built from it."""
    openers = body.count(b"{") + body.count(b"[")
    if openers <= max_depth and openers + body.count(b",") <= max_values:
        return
    structure = _outside_of_strings(body).translate(None, _NOT_STRUCTURE)
    if len(structure) - structure.count(b"}") - structure.count(b"]") > max_values:
        raise EdgeError(f"The request body has more than {max_values} values.", code="invalid_json")
    depth = 0
    for mark in structure:
        if mark in b"{[":
            depth += 1
            if depth > max_depth:
                raise EdgeError(f"The request body is nested deeper than {max_depth} levels.", code="invalid_json")
        elif mark in b"}]":
            depth -= 1
