"""What the routes of Soke's API have in common: the envelope, and headers that every answer has."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.account_service_pb2 import GetCallerRequest
from dragoman_edge.auth import credential_of
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.registry import SOKE
from dragoman_edge.dialects.soke.headers import LIMIT, tell_limits
from dragoman_edge.errors import EdgeError
from dragoman_edge.rate_state import rate_state_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman.v1.account_service_pb2 import GetCallerResponse
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler, Route

    Tell = Callable[[Exchange], Awaitable[dict[str, Any]]]
    """Returns the data of an answer."""

PREFIX = "/api/v1"
TAG = "Soke"
"""The chapter of the documentation."""
_KEY_HEADER = "x-soke-key"
_ABOUT_THE_CREDENTIAL = (401, 403)


def enveloped(tell: Tell) -> Handler:
    """Returns a handler that answers with what `tell` returns, in the envelope of good answers."""

    async def handle(exchange: Exchange) -> Response:
        start = time.perf_counter()
        data = await tell(exchange)
        taken = int((time.perf_counter() - start) * 1000)
        meta = {"request_id": exchange.request_id, "processing_time_ms": taken}
        return exchange.json(orjson.dumps({"success": True, "data": data, "meta": meta}))

    handle.__name__ = tell.__name__
    return handle


async def caller_of(edge: Edge, exchange: Exchange) -> GetCallerResponse:
    """Returns whose credential a request carries, and adds the headers that tell what is left of their limits.

    Raises:
        EdgeError: If the credential is missing or not good.
    """
    caller = await answer_of(edge.core.accounts.GetCaller(GetCallerRequest(), metadata=exchange.metadata()))
    tell_limits(exchange.headers, caller.rate_state)
    return caller


def soke_route(edge: Edge, route: Route) -> Route:
    """Returns a route of this API.

    Requests are checked before the core hears of them, and the core tells a caller's limits only with what it did. So a
    refusal asks it once more: whether the credential is good, which comes before all else, and for the headers.
    """
    handler = route.handler

    async def handle(exchange: Exchange) -> Response | Stream:
        try:
            return await handler(exchange)
        except EdgeError as error:
            known = LIMIT in exchange.headers or rate_state_of(error.metadata) is not None
            if not known and SOKE.render_error(error).status != 401:
                await _complete(edge, exchange)
            raise

    handle.__name__ = handler.__name__
    return replace(route, handler=handle, dialect=SOKE, key_header=_KEY_HEADER, find_credential=_find_credential)


def _find_credential(exchange: Exchange) -> str | None:
    return credential_of(exchange.request, key_header=_KEY_HEADER)


async def _complete(edge: Edge, exchange: Exchange) -> None:
    """Adds the headers to what is about to be refused.

    Raises:
        EdgeError: If the credential is missing or not good.
    """
    try:
        await caller_of(edge, exchange)
    except EdgeError as error:
        if SOKE.render_error(error).status in _ABOUT_THE_CREDENTIAL:
            raise error from None
        # A core that does not answer has nothing to add to the refusal.
