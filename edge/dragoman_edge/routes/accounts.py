"""Accounts, users, keys and the audit log over REST."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import orjson

from dragoman.v1 import account_service_pb2 as pb
from dragoman_edge.calls import answer_of
from dragoman_edge.http.response import Response
from dragoman_edge.proto_json import read_query
from dragoman_edge.routes.native import native_route
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.stream import Stream

NDJSON = "application/x-ndjson"


def account_routes(edge: Edge) -> list[Route]:
    """Returns the routes of accounts and of those in them."""
    accounts: Any = edge.core.accounts

    async def export_account(exchange: Exchange) -> Response | Stream:
        request = read_query(exchange, pb.ExportAccountRequest)
        request.account_id = exchange.params["account_id"]
        call = accounts.ExportAccount(request, metadata=exchange.metadata())
        headers = {**exchange.headers, "Content-Type": NDJSON}
        try:
            first = await answer_of(_next_piece(call))
            if not first:
                return Response(b"", headers)
            stream = exchange.request.begin(headers, first)
            while piece := await _next_piece(call):
                if stream.outlet.writing_paused:
                    await stream.outlet.drain()
                stream.write(piece)
        except grpc.aio.AioRpcError as error:  # the answer has begun: cutting it off is all that is left
            raise ConnectionResetError("the answer broke off") from error
        finally:
            call.cancel()
        stream.end()
        return stream

    async def tell_me(exchange: Exchange) -> Response:
        caller = await answer_of(accounts.GetCaller(pb.GetCallerRequest(), metadata=exchange.metadata()))
        name = caller.user.name or caller.user.email or caller.user.id or caller.account_id
        data = {"username": name, "currentEmail": caller.user.email}
        return exchange.json(orjson.dumps({"status": "success", "data": data}))

    routes = [
        native_route(
            edge,
            method,
            path,
            getattr(accounts, name),
            getattr(pb, f"{name}Request"),
            getattr(pb, f"{name}Response"),
            tag=tag,
            summary=summary,
        )
        for method, path, name, tag, summary in _ROUTES
    ]
    export = Route(
        "GET",
        "/v1/accounts/{account_id}/export",
        export_account,
        tag="Accounts",
        summary="Returns everything that is stored of an account.",
        description='Lines of JSON, each a row: `{"table": NAME, "row": {COLUMN: VALUE, ...}}`. Needs ADMIN.',
        answers={NDJSON: ""},
        streams=True,
    )
    me = Route(
        "GET",
        "/v1/account/me",
        tell_me,
        tag="Accounts",
        summary="Tells whose credential the request carries, to Sogni's SDKs, which ask before all else.",
        answers={"application/json": ""},
    )
    return [*routes, export, me]


async def _next_piece(call: Any) -> bytes:
    """Returns the next piece of an export; empty at its end."""
    async for response in call:
        if response.data:
            return bytes(response.data)
    return b""


_ROUTES = (
    ("GET", "/v1/caller", "GetCaller", "Accounts", "Tells whose credential the request carries."),
    ("POST", "/v1/keys", "CreateKey", "Keys", "Makes a key; its secret is shown once. Needs ADMIN."),
    ("GET", "/v1/keys", "ListKeys", "Keys", "Lists the keys of the account, oldest first. Needs ADMIN."),
    ("PATCH", "/v1/keys/{key_id}", "UpdateKey", "Keys", "Changes a key. Needs ADMIN."),
    ("POST", "/v1/keys/{key_id}/revoke", "RevokeKey", "Keys", "Revokes a key for good. Needs ADMIN."),
    ("POST", "/v1/accounts", "CreateAccount", "Accounts", "Makes an account. Needs OPERATOR."),
    ("GET", "/v1/accounts", "ListAccounts", "Accounts", "Lists all accounts, oldest first. Needs OPERATOR."),
    ("GET", "/v1/accounts/{account_id}", "GetAccount", "Accounts", "Returns an account."),
    ("PATCH", "/v1/accounts/{account_id}", "UpdateAccount", "Accounts", "Changes an account. Needs OPERATOR."),
    ("DELETE", "/v1/accounts/{account_id}", "DeleteAccount", "Accounts", "Erases an account. Needs OPERATOR."),
    ("POST", "/v1/users", "CreateUser", "Users", "Makes a user. Needs ADMIN."),
    ("GET", "/v1/users", "ListUsers", "Users", "Lists the users of the account, oldest first. Needs ADMIN."),
    ("GET", "/v1/users/{user_id}", "GetUser", "Users", "Returns a user: oneself, or any for an ADMIN."),
    ("PATCH", "/v1/users/{user_id}", "UpdateUser", "Users", "Changes a user. Needs ADMIN."),
    ("DELETE", "/v1/users/{user_id}", "DeleteUser", "Users", "Erases a user and every row of theirs. Needs ADMIN."),
    ("GET", "/v1/audit", "ListAuditEntries", "Accounts", "Lists what administrators did, newest first. Needs ADMIN."),
)
