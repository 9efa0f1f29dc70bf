"""Reads request bodies: bounded in size and time, and strict about what is JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import hdrs
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import HTTPException, RequestPayloadError

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

    from dragoman_edge.settings import EdgeSettings

_CLOSE = {"Connection": "close"}  # what is left of the body is not waited for
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_MAX_VALUES = 100_000
"""Most values in a body, all levels together: far more than any request needs."""


async def read_json_object(request: BaseRequest, settings: EdgeSettings) -> dict[str, Any]:
    """Reads a body that must be a JSON object.

    Raises:
        EdgeError: If it is too large, too slow, too deep, not JSON or not an object.
    """
    _check_content_type(request)
    body = await read_body(request, settings)
    return parse_json_object(body, settings.max_json_depth)


async def read_body(request: BaseRequest, settings: EdgeSettings) -> bytes:
    """Reads a body.

    Raises:
        EdgeError: If it is too large or too slow, or breaks off.
    """
    headers = request.headers
    if headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise EdgeError("Compressed request bodies are not accepted.", status=415, code="unsupported_content_encoding")
    limit = settings.max_request_bytes
    declared = headers.get(hdrs.CONTENT_LENGTH)
    if declared is not None and int(declared) > limit:  # the HTTP parser has made sure that it is a number
        raise _too_large(limit)
    if headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    try:
        if content.is_eof():  # came with the head: no need to wait
            return _bounded(content.read_nowait(), limit)
        async with asyncio.timeout(settings.body_timeout):
            return await _read_on(request, limit)
    except TimeoutError:
        raise EdgeError(
            f"The request body did not arrive within {settings.body_timeout:g} seconds.",
            status=408,
            code="request_timeout",
            retryable=True,
            headers=_CLOSE,
        ) from None
    except (RequestPayloadError, HttpProcessingError, HTTPException) as error:
        raise EdgeError("The request body breaks the HTTP protocol.", code="invalid_body", headers=_CLOSE) from error


async def _read_on(request: BaseRequest, limit: int) -> bytes:
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> EdgeError:
    return EdgeError(
        f"The request body is larger than the {limit} bytes that this server takes.",
        reason=Reason.REQUEST_TOO_LARGE,
        headers=_CLOSE,
    )


def _check_content_type(request: BaseRequest) -> None:
    given = request.headers.get(hdrs.CONTENT_TYPE)
    if given is None or given == "application/json":
        return
    media_type, _, parameters = given.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if media_type.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise EdgeError(
            "The Content-Type must be application/json, in UTF-8.", status=415, code="unsupported_content_type"
        )


def parse_json_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """Parses a JSON object; of a member that comes twice, the last counts.

    Raises:
        EdgeError: If the body is not JSON (NaN, lone surrogates, invalid UTF-8 and a byte order mark included), not an
            object, nested too deep, or of too many values.
    """
    if not body:
        raise EdgeError("The request has no body; a JSON object is needed.", code="invalid_json")
    _check_shape(body, max_depth)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EdgeError(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise EdgeError("The request body must be a JSON object.", code="invalid_json")
    return value


def _outside_of_strings(body: bytes) -> bytes:
    """Returns what of a JSON text is not within quotes. Works on whole buffers, so that large bodies cost little."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(body.split(b'"')[::2])


def _check_shape(body: bytes, max_depth: int) -> None:
    """Refuses what would cost far more to hold and to check than to send, before anything is built from it."""
    openers = body.count(b"{") + body.count(b"[")
    if openers <= max_depth and openers + body.count(b",") <= _MAX_VALUES:
        return
    structure = _outside_of_strings(body).translate(None, _NOT_STRUCTURE)
    if len(structure) - structure.count(b"}") - structure.count(b"]") > _MAX_VALUES:
        raise EdgeError(f"The request body has more than {_MAX_VALUES} values.", code="invalid_json")
    depth = 0
    for mark in structure:
        if mark in b"{[":
            depth += 1
            if depth > max_depth:
                raise EdgeError(f"The request body is nested deeper than {max_depth} levels.", code="invalid_json")
        elif mark in b"}]":
            depth -= 1
