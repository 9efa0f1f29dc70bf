"""What happens to every call before its servicer: telling whose it is."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc

from dragoman.reasons import Reason
from dragoman_server.api.status import abort
from dragoman_server.errors import DragomanError, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from dragoman_server.accounts.service import Accounts
    from dragoman_server.caller import Caller

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

HEALTH_METHODS = frozenset(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch"))
"""They tell only whether the server is up: load balancers have no keys."""

REFLECTION_METHODS = frozenset(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)
"""They show the contract, which is public."""

_CREDENTIAL_KEYS = frozenset({"authorization", "x-api-key", "api-key"})

caller_var: ContextVar[Caller] = ContextVar("caller")
"""The caller of the call in whose context this runs."""


def caller_of() -> Caller:
    """Returns the caller of the current call.

    Raises:
        Unauthenticated: If there is none: the method is public, or no interceptor guards it.
    """
    caller = caller_var.get(None)
    if caller is None:
        raise Unauthenticated("the call has no caller", reason=Reason.API_KEY_MISSING)
    return caller


def credential_in(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the one credential in a call's metadata, or an empty string.

    Taken are `authorization: Bearer KEY`, `x-api-key: KEY` and `api-key: KEY`; the same key may come in several.

    Raises:
        Unauthenticated: If it is of another scheme, or several differ.
    """
    found = ""
    for name, value in metadata:
        if name not in _CREDENTIAL_KEYS:
            continue
        credential = (value if isinstance(value, str) else value.decode("latin-1")).strip()
        if name == "authorization":
            scheme, _, credential = credential.partition(" ")
            if scheme and scheme.lower() != "bearer":
                raise Unauthenticated("authorization must be `Bearer KEY`")
            credential = credential.strip()
        if found and credential and credential != found:
            raise Unauthenticated("the call carries several API keys that differ")
        found = credential or found
    return found


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through if its credential is good, or its method is public; the servicer finds it in `caller_of`."""

    def __init__(self, accounts: Accounts, public_methods: Iterable[str] = HEALTH_METHODS) -> None:
        self._accounts = accounts
        self._public_methods = frozenset(public_methods)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the method's handler, or one that refuses the call."""
        if handler_call_details.method not in self._public_methods:
            try:
                credential = credential_in(handler_call_details.invocation_metadata)
                caller = self._accounts.cached(credential) or await self._accounts.authenticate(credential)
            except Exception as error:  # raised again by the handler, where gRPC knows how to answer
                return _refusal(await continuation(handler_call_details), error)
            caller_var.set(caller)
        return await continuation(handler_call_details)


def _refusal(handler: Handler | None, error: Exception) -> Handler | None:
    """Returns a handler of the same kind as the given one that ends the call with an error.

    An unknown method has no handler, and stays unknown. Requests are not parsed: nobody vouches for them.
    """
    if handler is None:
        return None

    async def refuse(_request: Any, context: Context) -> None:
        if isinstance(error, DragomanError):
            await abort(context, error)
        raise error

    async def refuse_stream(_request: Any, context: Context) -> AsyncIterator[Any]:
        await refuse(_request, context)
        yield  # makes it a stream

    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(refuse_stream)
        return grpc.stream_unary_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse_stream)
    return grpc.unary_unary_rpc_method_handler(refuse)
