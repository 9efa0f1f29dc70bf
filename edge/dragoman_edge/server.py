"""The HTTP server: connections, dispatch, and errors in one shape from the first byte on."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from dragoman.reasons import Reason
from dragoman_edge.cors import cors_headers, preflight_headers
from dragoman_edge.dialects.openai.errors import render_error
from dragoman_edge.errors import EdgeError, internal_error
from dragoman_edge.exchange import JSON, Exchange, new_request_id
from dragoman_edge.response import WholeResponse
from dragoman_edge.routing import Route, allowed_methods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.web import BaseRequest, StreamResponse

    from dragoman_edge.metrics import EdgeMetrics
    from dragoman_edge.routing import Router
    from dragoman_edge.settings import EdgeSettings

logger = logging.getLogger(__name__)

_LINGER = 2.0
"""Seconds that the unread rest of a refused body is waited for, so that the client gets to read the answer."""


class EdgeServer(web.Server):
    """An aiohttp server on our own route table: no application, router or middleware in between."""

    def __init__(self, router: Router, settings: EdgeSettings, metrics: EdgeMetrics) -> None:
        super().__init__(
            self._answer,
            handler_cancellation=True,  # a client that leaves ends what was begun for it
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=settings.idle_timeout,
            lingering_time=_LINGER,
            logger=logger,
            max_field_size=settings.max_header_bytes,
            max_line_size=settings.max_header_bytes,
        )
        self._router = router
        self._settings = settings
        self.metrics = metrics

    def __call__(self) -> web.RequestHandler:
        """Returns the protocol of a new connection."""
        return EdgeConnection(self, self._settings, loop=self._loop, **self._kwargs)

    async def _answer(self, request: BaseRequest) -> StreamResponse:
        start = time.perf_counter()
        cors = cors_headers(request.headers, self._settings.cors_origins)
        exchange = Exchange(request, cors)
        route, status = "unknown", 499
        response: StreamResponse
        try:
            try:
                methods, params = self._router.find(_path(request))
                found = methods.get(request.method)
                if found is None:
                    route = next(iter(methods.values())).path
                    response = _without_handler(exchange, methods, cors)
                else:
                    route = found.path
                    if params:
                        exchange.set_params(params)
                    response = await found.handler(exchange)
            except EdgeError as error:
                response = error_response(error, exchange)
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception:
                logger.exception("a request was not handled", extra={"request_id": exchange.request_id, "route": route})
                if request.writer.output_size > 0:  # the answer has begun: cutting it off is all that is left
                    raise ConnectionResetError("the answer broke off") from None
                response = error_response(internal_error(), exchange)
            status = response.status
            return response
        finally:
            method = request.method if request.method in _METHODS else "other"
            self.metrics.answered(route, method, status, time.perf_counter() - start)


def _path(request: BaseRequest) -> str:
    """Returns the path of a request, still encoded."""
    target = request.raw_path
    if not target.startswith("/"):  # proxies may send the whole address
        target = request.rel_url.raw_path
    return target.partition("?")[0]


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def error_response(error: EdgeError, exchange: Exchange) -> WholeResponse:
    """Returns the answer that tells an error."""
    answer = render_error(error)
    response = WholeResponse(answer.body, JSON | exchange.headers | answer.headers, answer.status)
    if "Connection" in answer.headers:
        response.force_close()
    return response


def _without_handler(exchange: Exchange, methods: Mapping[str, Route], cors: Mapping[str, str]) -> WholeResponse:
    """Answers OPTIONS, and methods that a resource does not have."""
    request, allow = exchange.request, allowed_methods(methods)
    if request.method == "OPTIONS":
        headers = {"Allow": allow, **exchange.headers, **preflight_headers(request.headers, cors, allow)}
        return WholeResponse(b"", headers, 204)
    message = f"Not allowed to {request.method[:20]} on this URL; allowed: {allow}."
    raise EdgeError(message, status=405, code="method_not_allowed", headers={"Allow": allow})


class EdgeConnection(web.RequestHandler):
    """One connection: refused if there are too many, and told in JSON what is wrong with its HTTP."""

    __slots__ = ("_metrics", "_settings", "_silence", "_stall", "_unsent")

    def __init__(self, server: EdgeServer, settings: EdgeSettings, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._metrics = server.metrics
        self._settings = settings
        self._silence: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection in, or refuses it."""
        super().connection_made(transport)
        transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        metrics = self._metrics
        metrics.open_connections += 1
        if metrics.open_connections > self._settings.max_connections:
            metrics.refused_connections += 1
            transport.write(_refusal())
            self.force_close()
            return
        transport.set_write_buffer_limits(high=self._settings.write_buffer)
        self._silence = self._loop.call_later(self._settings.idle_timeout, self._close_unless_used)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Lets a connection go; what was begun for it is cancelled."""
        self._metrics.open_connections -= 1
        if self._silence is not None:
            self._silence.cancel()
        self._forget_stall()
        super().connection_lost(exc)

    def _close_unless_used(self) -> None:
        """Ends a connection without a first request; aiohttp itself, before 3.14.4, only looks after the later ones."""
        self._silence = None
        if self._request_count == 0:
            self.force_close()

    def resume_reading(self, *args: Any, **kwargs: Any) -> None:
        """Reads on; aiohttp asks twice for every body, and mostly nothing was held back."""
        if self._reading_paused:
            super().resume_reading(*args, **kwargs)

    def pause_writing(self) -> None:
        """Notes that the client is slow: it must go on reading, or else it is cut off."""
        super().pause_writing()
        self._unsent = sys.maxsize
        self._watch_stall()

    def resume_writing(self) -> None:
        """Notes that the client has caught up."""
        self._forget_stall()
        super().resume_writing()

    def _watch_stall(self) -> None:
        transport = self.transport
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if unsent >= self._unsent:
            transport.abort()
            return
        self._unsent = unsent
        self._stall = self._loop.call_later(self._settings.slow_reader_timeout, self._watch_stall)

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """Answers what is no HTTP. The connection is closed after it, for what follows cannot be trusted."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionResetError("the client is gone, or its answer has begun")
        if status >= 500:
            logger.error("a request was not handled", exc_info=exc)
            error = internal_error()
        elif isinstance(exc, LineTooLong):
            limit = self._settings.max_header_bytes
            error = EdgeError(
                f"The request has a header of more than {limit} bytes.", status=431, code="header_too_large"
            )
        else:
            error = EdgeError("The request breaks the HTTP protocol.", code="invalid_http")
        response = error_response(error, Exchange(request, {}))
        response.force_close()
        return response


def _refusal() -> bytes:
    """Returns the answer for a connection too many: it must not wait for the request."""
    answer = render_error(EdgeError("The server has too many open connections.", reason=Reason.OVERLOADED))
    headers = JSON | answer.headers
    headers |= {"x-request-id": new_request_id(), "Content-Length": str(len(answer.body)), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} Service Unavailable\r\n{head}\r\n".encode() + answer.body
