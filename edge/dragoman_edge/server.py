"""Finds and calls the handler of each request; errors have one shape from the first byte on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from dragoman_edge.cors import cors_headers, preflight_headers
from dragoman_edge.dialects.registry import OPENAI, dialect_of
from dragoman_edge.errors import EdgeError, error_of_http, internal_error
from dragoman_edge.exchange import JSON, Exchange, new_request_id
from dragoman_edge.http.limits import Limits
from dragoman_edge.http.response import Response
from dragoman_edge.http.server import Server
from dragoman_edge.outcome import CLIENT_LEFT
from dragoman_edge.routing import Route, allowed_methods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.dialects.dialect import Dialect
    from dragoman_edge.http.errors import HttpError
    from dragoman_edge.http.request import Request
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.metrics import EdgeMetrics
    from dragoman_edge.routing import Router
    from dragoman_edge.settings import EdgeSettings

logger = logging.getLogger(__name__)

_NO_CORS: dict[str, str] = {}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def make_server(router: Router, settings: EdgeSettings, metrics: EdgeMetrics) -> Server:
    """Returns an HTTP server on a route table. It does not listen yet."""
    limits = Limits(
        connections=settings.max_connections,
        field=settings.max_header_bytes,
        head=2 * settings.max_header_bytes,
        idle=settings.idle_timeout,
        body=settings.body_timeout,
        stall=settings.slow_reader_timeout,
        unsent=settings.write_buffer,
    )
    dispatcher = Dispatcher(router, settings.cors_origins, metrics)
    return Server(dispatcher.answer, answer_bad_http, limits, metrics, name="dragoman")


class Dispatcher:
    """Answers requests from a route table."""

    def __init__(self, router: Router, cors_origins: tuple[str, ...], metrics: EdgeMetrics) -> None:
        self._router = router
        self._cors_origins = cors_origins
        self._metrics = metrics

    async def answer(self, request: Request) -> Response | Stream:
        """Answers a request.

        Raises:
            ConnectionError: If the answer broke off after it had begun.
        """
        start = time.perf_counter()
        origins = self._cors_origins
        cors = cors_headers(request.headers, origins) if origins else _NO_CORS
        exchange = Exchange(request, cors)
        route, status, dialect = "unknown", CLIENT_LEFT, None
        response: Response | Stream | None = None
        try:
            try:
                methods, params = self._router.find(request.path)
                found = methods.get(request.method)
                if found is not None and found.instead is not None and found.instead[0] in request.headers:
                    found = found.instead[1]
                if found is None:
                    any_ = next(iter(methods.values()))
                    route, dialect = any_.path, any_.dialect
                    response = _without_handler(exchange, methods, cors)
                else:
                    route, dialect, exchange.key_header = found.path, found.dialect, found.key_header
                    if dialect.uuids:
                        exchange.name_by_uuid()
                    if params:
                        exchange.set_params(params)
                    response = await found.handler(exchange)
            except EdgeError as error:
                response = error_response(error, exchange, dialect or dialect_of(request.path))
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception:
                logger.exception("a request was not handled", extra={"request_id": exchange.request_id, "route": route})
                if request.stream is not None:  # the answer has begun: cutting it off is all that is left
                    raise ConnectionResetError("the answer broke off") from None
                response = error_response(internal_error(), exchange, dialect or dialect_of(request.path))
            status = response.status
            return response
        finally:
            method = request.method if request.method in _METHODS else "other"
            metrics = self._metrics
            metrics.answered(route, method, status, time.perf_counter() - start)
            metrics.received_bytes += request.body.taken
            if request.stream is not None:
                metrics.sent_bytes += request.stream.sent
            elif isinstance(response, Response):
                metrics.sent_bytes += len(response.body)


def error_response(error: EdgeError, exchange: Exchange, dialect: Dialect) -> Response:
    """Returns the answer that tells an error."""
    if dialect.uuids:
        exchange.name_by_uuid()
    error.request_id = exchange.request_id
    answer = dialect.render_error(error)
    return Response(answer.body, JSON | exchange.headers | answer.headers, answer.status, close=error.close)


def answer_bad_http(error: HttpError) -> Response:
    """Returns the answer to what is no request, or not wanted."""
    answer = OPENAI.render_error(error_of_http(error))
    headers = JSON | {"x-request-id": new_request_id()} | answer.headers
    return Response(answer.body, headers, answer.status, close=True)


def _without_handler(exchange: Exchange, methods: Mapping[str, Route], cors: Mapping[str, str]) -> Response:
    """Answers OPTIONS, and methods that a resource does not have."""
    request, allow = exchange.request, allowed_methods(methods)
    if request.method == "OPTIONS":
        headers = {"Allow": allow, **exchange.headers, **preflight_headers(request.headers, cors, allow)}
        return Response(b"", headers, 204)
    message = f"Not allowed to {request.method[:20]} on this URL; allowed: {allow}."
    raise EdgeError(message, status=405, code="method_not_allowed", headers={"Allow": allow})
