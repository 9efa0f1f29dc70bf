"""Finds and calls the handler of each request; errors have one shape from the first byte on."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from dragoman_edge.auth import in_headers
from dragoman_edge.calls import UnaryAnswer
from dragoman_edge.cors import cors_headers, preflight_headers
from dragoman_edge.dialects.registry import OPENAI, dialect_of
from dragoman_edge.errors import EdgeError, error_of_http, internal_error
from dragoman_edge.exchange import JSON, Exchange, new_request_id
from dragoman_edge.facts import HeadFacts
from dragoman_edge.http.limits import Limits
from dragoman_edge.http.response import Response
from dragoman_edge.http.server import Server
from dragoman_edge.outcome import CLIENT_LEFT
from dragoman_edge.routing import Route, allowed_methods, decoded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from dragoman.reasons import Reason
    from dragoman.streaming import CallStatus
    from dragoman.unary import CallHandle
    from dragoman_edge.auth import FindCredential
    from dragoman_edge.http.errors import HttpError
    from dragoman_edge.http.request import Head, Request
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.metrics import EdgeMetrics
    from dragoman_edge.routing import Router
    from dragoman_edge.settings import EdgeSettings

logger = logging.getLogger(__name__)

_NO_CORS: dict[str, str] = {}
_NO_PARAMS: Mapping[str, str] = {}
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
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

    def answer(self, request: Request) -> Response | PendingAnswer | Coroutine[Any, Any, Response | Stream]:
        """Answers a request: at once, by a callback, or in a task, as its handler does it."""
        start = time.perf_counter()
        head = request.head
        facts: HeadFacts | None = head.facts
        if facts is None:
            facts = head.facts = self._find_out(head)
        exchange = Exchange(request, facts)
        try:
            answer = facts.handler(exchange)
            if isinstance(answer, UnaryAnswer):
                pending = PendingAnswer(self, exchange, answer, start)
                return pending.begin() or pending
        except Exception as error:
            answer = self.refuse(error, exchange)
        if isinstance(answer, Response):
            _count(exchange, answer.status, start, len(answer.body))
            return answer
        return self._wait(exchange, answer, start)

    async def _wait(self, exchange: Exchange, answer: Awaitable[Response | Stream], start: float) -> Response | Stream:
        """Waits for what a handler answers.

        Raises:
            ConnectionError: If the answer broke off after it had begun.
        """
        status, sent = CLIENT_LEFT, 0
        try:
            try:
                response = await answer
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception as error:
                response = self.refuse(error, exchange)
            status = response.status
            if isinstance(response, Response):
                sent = len(response.body)
            return response
        finally:
            stream = exchange.request.stream
            _count(exchange, status, start, sent if stream is None else stream.sent)

    def refuse(self, error: Exception, exchange: Exchange) -> Response:
        """Returns the answer to a request that went wrong; a fault of the edge itself is logged.

        Raises:
            ConnectionError: If an answer has begun: cutting it off is all that is left.
        """
        if isinstance(error, EdgeError):
            return error_response(error, exchange)
        known = {"request_id": exchange.request_id, "route": exchange.facts.route}
        logger.error("a request was not handled", exc_info=error, extra=known)
        if exchange.request.stream is not None:
            raise ConnectionResetError("the answer broke off") from None
        return error_response(internal_error(), exchange)

    def _find_out(self, head: Head) -> HeadFacts:
        """Returns what a head decides."""
        origins = self._cors_origins
        cors = cors_headers(head.headers, origins) if origins else _NO_CORS
        route, dialect, params = "unknown", None, _NO_PARAMS
        find_credential: FindCredential = in_headers
        handler: Callable[[Exchange], Response | Awaitable[Response | Stream]]
        try:
            methods, raw_params = self._router.find(head.path)
            found = methods.get(head.method)
            if found is not None and found.instead is not None and found.instead[0] in head.headers:
                found = found.instead[1]
            if found is None:
                any_ = next(iter(methods.values()))
                route, dialect = any_.path, any_.dialect
                handler = partial(_without_handler, methods)
            else:
                route, dialect, handler = found.path, found.dialect, found.handler
                find_credential = found.find_credential
                params = decoded(raw_params)
        except EdgeError as error:
            handler = partial(_refused, error.message, error.reason, error.code)
        given = head.headers.get("x-request-id", "")
        return HeadFacts(
            route,
            handler,
            dialect or dialect_of(head.path),
            self._metrics.counts_of(route, head.method if head.method in _METHODS else "other"),
            params,
            find_credential,
            cors,
            given if _SANE_REQUEST_ID.fullmatch(given) else "",
        )


class PendingAnswer:
    """A request that is answered when a call to the core ends. No task waits for it."""

    __slots__ = ("_answer", "_dispatcher", "_early", "_exchange", "_handle", "_start")

    def __init__(self, dispatcher: Dispatcher, exchange: Exchange, answer: UnaryAnswer[Any, Any], start: float) -> None:
        self._dispatcher = dispatcher
        self._exchange = exchange
        self._answer = answer
        self._start = start
        self._handle: CallHandle | None = None
        self._early: Response | None = None

    def begin(self) -> Response | None:
        """Begins the call; returns the answer if it has ended already, else None: the answer goes to the connection."""
        handle = self._answer.begin(self._take)
        if self._early is None:
            self._handle = handle
        return self._early

    def cancel(self) -> None:
        """Ends the call: the client has left."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
            _count(self._exchange, CLIENT_LEFT, self._start, 0)

    def _take(self, message: Any, status: CallStatus) -> None:
        exchange = self._exchange
        try:
            answer = self._answer.finish(message, status)
        except Exception as error:
            answer = self._dispatcher.refuse(error, exchange)
        _count(exchange, answer.status, self._start, len(answer.body))
        if self._handle is None:
            self._early = answer
        else:
            self._handle = None
            exchange.request.wire.reply(answer)


def _count(exchange: Exchange, status: int, start: float, sent: int) -> None:
    """Counts an answered request.

    Args:
        exchange: The request.
        status: The status of the answer.
        start: When the request came, by `time.perf_counter`.
        sent: Bytes of the answer's body.
    """
    exchange.facts.counts.add(status, time.perf_counter() - start, exchange.request.body.taken, sent)


def error_response(error: EdgeError, exchange: Exchange) -> Response:
    """Returns the answer that tells an error."""
    error.request_id = exchange.request_id
    answer = exchange.facts.dialect.render_error(error)
    return Response(answer.body, JSON | exchange.headers | answer.headers, answer.status, close=error.close)


def answer_bad_http(error: HttpError) -> Response:
    """Returns the answer to what is no request, or not wanted."""
    answer = OPENAI.render_error(error_of_http(error))
    headers = JSON | {"x-request-id": new_request_id()} | answer.headers
    return Response(answer.body, headers, answer.status, close=True)


def _without_handler(methods: Mapping[str, Route], exchange: Exchange) -> Response:
    """Answers OPTIONS, and methods that a resource does not have."""
    request, allow = exchange.request, allowed_methods(methods)
    if request.method == "OPTIONS":
        preflight = preflight_headers(request.headers, exchange.facts.cors, allow)
        return Response(b"", {"Allow": allow, **exchange.headers, **preflight}, 204)
    message = f"Not allowed to {request.method[:20]} on this URL; allowed: {allow}."
    raise EdgeError(message, status=405, code="method_not_allowed", headers={"Allow": allow})


def _refused(message: str, reason: Reason, code: str | None, _: Exchange) -> Response:
    """Refuses what has no route."""
    raise EdgeError(message, reason=reason, code=code)
