"""`/api/v1/auth`: logging in with name and password, in the dialect of Soke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.account_service_pb2 import LoginRequest, LoginTokens, LogoutRequest, RefreshLoginRequest
from dragoman_edge.body import read_json_object
from dragoman_edge.calls import answer_of
from dragoman_edge.dialects.registry import SOKE
from dragoman_edge.errors import EdgeError
from dragoman_edge.routes.soke import enveloped
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream
    from dragoman_edge.routing import Handler

MAX_CHARS = 4096
"""Longest field."""


def login_routes(edge: Edge) -> list[Route]:
    """Returns the routes of logins."""
    accounts = edge.core.accounts

    async def login(exchange: Exchange) -> dict[str, Any]:
        email, password = await _texts(edge, exchange, "email", "password")
        request = LoginRequest(email=email, password=password)
        answer = await answer_of(accounts.Login(request, metadata=exchange.metadata_with(None)))
        return _tokens(answer.tokens)

    async def refresh(exchange: Exchange) -> dict[str, Any]:
        (refresh_token,) = await _texts(edge, exchange, "refreshToken")
        request = RefreshLoginRequest(refresh_token=refresh_token)
        answer = await answer_of(accounts.RefreshLogin(request, metadata=exchange.metadata_with(None)))
        return _tokens(answer.tokens)

    async def logout(exchange: Exchange) -> dict[str, Any]:
        (refresh_token,) = await _texts(edge, exchange, "refreshToken")
        request = LogoutRequest(refresh_token=refresh_token)
        await answer_of(accounts.Logout(request, metadata=exchange.metadata_with(None)))
        return {}

    routes = (
        ("login", login, "Exchanges a name and a password for tokens.", "soke.Login", "soke.Tokens"),
        ("refresh", refresh, "Exchanges a refresh token, which is then used up.", "soke.RefreshToken", "soke.Tokens"),
        ("logout", logout, "Ends the login of a refresh token.", "soke.RefreshToken", "soke.Empty"),
    )
    return [
        Route(
            "POST",
            f"/api/v1/auth/{name}",
            _unstored(enveloped(tell)),
            tag="Logins",
            summary=summary,
            request=request,
            answers={"application/json": answer},
            public=True,
            dialect=SOKE,
        )
        for name, tell, summary, request, answer in routes
    ]


def _unstored(handler: Handler) -> Handler:
    """Returns a handler whose answers nobody keeps on the way: they hold tokens."""

    async def handle(exchange: Exchange) -> Response | Stream:
        exchange.headers["Cache-Control"] = "no-store"
        return await handler(exchange)

    handle.__name__ = handler.__name__
    return handle


async def _texts(edge: Edge, exchange: Exchange, *names: str) -> list[str]:
    """Returns the members of a body, all of which must be texts.

    Raises:
        EdgeError: If it has others, or not all of them.
    """
    members = await read_json_object(exchange.request, edge.settings)
    for name in members:
        if name not in names:
            raise EdgeError(f"Unknown parameter: '{name[:64]}'.", param=name[:64])
    values = []
    for name in names:
        value = members.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_CHARS:
            raise EdgeError(f"'{name}' must be a text of 1 to {MAX_CHARS} characters.", param=name)
        values.append(value)
    return values


def _tokens(tokens: LoginTokens) -> dict[str, str]:
    return {
        "accessToken": tokens.access_token,
        "refreshToken": tokens.refresh_token,
        "expiresAt": tokens.expire_time.ToJsonString(),
    }
