"""Watching requests: handlers are wrapped by what wants to know how they end, and cost nothing when nobody does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler, Route

    End = Callable[["Outcome"], None]
    """Is told how a request ended."""
    Begin = Callable[[Exchange, Route], End]
    """Is told that a request begins."""

CLIENT_LEFT = 499
"""Status of an answer that nobody waited for."""


@dataclass(slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        status: The HTTP status; 499 if the client left before it was answered whole.
        error: Name of what went wrong; empty if nothing did.
        run_id: The run that failed, if the error names one.
    """

    status: int = CLIENT_LEFT
    error: str = Reason.CANCELLED
    run_id: str = ""


def watched(routes: Iterable[Route], begin: Begin) -> list[Route]:
    """Returns routes that tell how their requests begin and end; those that are public are left alone."""
    return [route if route.public else _watched(route, begin) for route in routes]


def _watched(route: Route, begin: Begin) -> Route:
    instead = route.instead
    if instead is not None:
        instead = (instead[0], _watched(instead[1], begin))
    return replace(route, handler=_handler(route, begin), instead=instead)


def _handler(route: Route, begin: Begin) -> Handler:
    async def handle(exchange: Exchange) -> Response | Stream:
        end, outcome = begin(exchange, route), Outcome()
        try:
            response = await route.handler(exchange)
            outcome.status, outcome.error = response.status, ""
            return response
        except EdgeError as error:
            outcome.status, outcome.error = route.dialect.render_error(error).status, error.reason
            outcome.run_id = error.run_id
            raise
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            outcome.status, outcome.error = 500, type(error).__name__
            raise
        finally:
            end(outcome)

    return handle
