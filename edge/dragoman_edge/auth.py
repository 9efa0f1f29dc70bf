"""Picks the one credential of a request. Whether it is good is for the core to say.

It comes before all else: a request without one is refused before its path, its query and its body are looked at.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from dragoman.credentials import looks_like_token
from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.request import Request
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler, Route

    FindCredential = Callable[[Exchange], str | None]
    """Returns the credential of a request, or None if there is none; raises EdgeError if it makes no sense."""

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")  # what gRPC metadata can carry, without spaces

_BEARER = "Bearer "


def credential_of(
    request: Request, given: str | None = None, headers: tuple[str, ...] = KEY_HEADERS, key_header: str = ""
) -> str | None:
    """Returns the credential, or None if there is none.

    Args:
        request: The request.
        given: One from elsewhere than the headers.
        headers: The headers that may carry it beside Authorization, in lower case.
        key_header: A header, in lower case, whose key counts alone if it is there: clients that are built on another
            vendor's SDK send an Authorization beside it, whether it means something or not.

    Raises:
        EdgeError: If several differ, or one makes no sense.
    """
    if key_header and key_header in request.headers:
        found, headers, given = [], (key_header,), None
    else:
        if given is None and not request.head.repeats and request.headers.keys().isdisjoint(headers):
            value = request.headers.get("authorization")  # mostly, it is the only one, and in order
            if value is None:
                return None
            if value.startswith(_BEARER) and _TOKEN.fullmatch(value, len(_BEARER)):
                return value[len(_BEARER) :]
        found = [_bearer(value) for value in request.all_values("authorization")]
    for name in headers:
        if name in request.headers:
            found.extend(value.strip() for value in request.all_values(name))
    if given is not None:
        found.append(given)
    if not found:
        return None
    credential = found[0]
    if len(found) > 1 and any(other != credential for other in found):
        raise EdgeError("The request carries different API keys; send one.", reason=Reason.API_KEY_INVALID)
    if not _TOKEN.fullmatch(credential):
        if looks_like_token(credential):
            raise EdgeError("The access token is malformed.", reason=Reason.TOKEN_INVALID)
        raise EdgeError("The API key is malformed.", reason=Reason.API_KEY_INVALID)
    return credential


def in_headers(exchange: Exchange) -> str | None:
    """Returns the credential in the headers, where most routes have it; see `credential_of`."""
    return credential_of(exchange.request)


def in_headers_or_query(exchange: Exchange) -> str | None:
    """Returns the credential in the headers or in `?key=`, where Google's dialect has it; see `credential_of`."""
    return credential_of(exchange.request, exchange.query().get("key"))


def guarded(routes: Iterable[Route]) -> list[Route]:
    """Returns routes that refuse requests without a credential; those that are public are left alone."""
    return [route if route.public else _guarded(route) for route in routes]


def _guarded(route: Route) -> Route:
    instead = route.instead
    if instead is not None:
        instead = (instead[0], _guarded(instead[1]))
    return replace(route, handler=_after_credential(route.handler), instead=instead)


def _after_credential(handler: Handler) -> Handler:
    def handle(exchange: Exchange) -> Awaitable[Response | Stream]:
        exchange.require_credential()
        return handler(exchange)

    return handle


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise EdgeError("The Authorization header must be `Bearer <API key>`.", reason=Reason.API_KEY_INVALID)
    return token.strip()
