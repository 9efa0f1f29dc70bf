"""What happens to every call before its servicer: telling whose it is, and whether they may."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeGuard

import grpc

from dragoman.reasons import Reason
from dragoman.tunnel.framing import CONNECT
from dragoman_server.accounts.secrets import secret_hash
from dragoman_server.api.permissions import PERMISSIONS, Permission, missing
from dragoman_server.api.status import abort
from dragoman_server.errors import DragomanError, Forbidden, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

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

TUNNEL_METHODS = frozenset({CONNECT})
"""A tunnel grants nothing: every call in it carries a credential of its own."""

_CREDENTIAL_KEYS = frozenset({"authorization", "x-api-key", "api-key"})

caller_var: ContextVar[Caller] = ContextVar("caller")
"""The caller of the call in whose context this runs."""

call_id_var: ContextVar[str] = ContextVar("call_id", default="")
"""The caller's name of the call in whose context this runs, for the log; empty if it has none."""

_MAX_CALL_ID_CHARS = 128

MAX_KNOWN = 1024
"""Most `authorization` values remembered."""


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


class _Known:
    """What an `authorization` value was found to mean; whether it still does is asked on every call.

    Attributes:
        digest: The hash of the credential in it.
        caller: Whose it was.
        methods: What that caller is permitted, as far as it was asked for.
    """

    __slots__ = ("caller", "digest", "methods")

    def __init__(self, digest: bytes, caller: Caller) -> None:
        self.digest = digest
        self.caller = caller
        self.methods: set[str] = set()


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through if its method is public, or its credential is good and permits the method.

    The servicer finds the caller in `caller_of`.

    Args:
        accounts: Tells whose a credential is.
        public_methods: Methods beside those of the contract that need no credential.
        permissions: What each method needs; one that is not there is refused.
    """

    def __init__(
        self,
        accounts: Accounts,
        public_methods: Iterable[str] = HEALTH_METHODS,
        permissions: Mapping[str, Permission] = PERMISSIONS,
    ) -> None:
        self._accounts = accounts
        public = {method for method, permission in permissions.items() if permission.public}
        self._public_methods = public.union(public_methods)
        self._permissions = permissions
        self._known: dict[str | bytes, _Known] = {}  # by `authorization` value, oldest first

    def admit(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Lets a call through at once if that needs no waiting; returns whether it did (see `InProcessServer`)."""
        if method in self._public_methods:
            return True
        known: _Known | None = None
        call_id: Any = ""
        for name, value in metadata:
            if name == "x-request-id":
                if len(value) <= _MAX_CALL_ID_CHARS and " " not in value:  # printable ASCII it is
                    call_id = value
            elif name in _CREDENTIAL_KEYS:
                if known is not None or name != "authorization":
                    return self._admit_anew(method, metadata)
                known = self._known.get(value)
                if known is None:
                    return self._admit_anew(method, metadata)
        if known is None:
            return False
        caller = self._accounts.recall(known.digest)
        if caller is not known.caller or method not in known.methods:
            return self._admit_anew(method, metadata)
        caller_var.set(caller)
        if call_id:
            call_id_var.set(call_id)
        return True

    def _admit_anew(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Does what `admit` does for any credential, and remembers what it found."""
        try:
            digest = secret_hash(credential_in(metadata))
        except Unauthenticated:
            return False  # `intercept_service` says why
        caller = self._accounts.recall(digest)
        permission = self._permissions.get(method)
        if caller is None or permission is None or missing(caller, permission):
            return False
        credentials = [entry for entry in metadata if entry[0] in _CREDENTIAL_KEYS]
        if len(credentials) == 1 and credentials[0][0] == "authorization":
            self._remember(credentials[0][1], digest, caller, method)
        _enter(caller, metadata)
        return True

    def _remember(self, authorization: str | bytes, digest: bytes, caller: Caller, method: str) -> None:
        known = self._known.get(authorization)
        if known is None or known.caller is not caller:
            if known is None and len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            known = self._known[authorization] = _Known(digest, caller)
        known.methods.add(method)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the method's handler, or one that refuses the call."""
        metadata = handler_call_details.invocation_metadata
        if handler_call_details.method not in self._public_methods:
            try:
                credential = credential_in(metadata)
                caller = self._accounts.cached(credential) or await self._accounts.authenticate(credential)
                self._require(caller, handler_call_details.method)
            except Exception as error:  # raised again by the handler, where gRPC knows how to answer
                return _refusal(await continuation(handler_call_details), error)
            _enter(caller, metadata)
        return await continuation(handler_call_details)

    def _require(self, caller: Caller, method: str) -> None:
        permission = self._permissions.get(method)
        if permission is None:
            raise Forbidden("nobody is permitted to call this method")
        if lack := missing(caller, permission):
            raise Forbidden(lack)


class TraceInterceptor(grpc.aio.ServerInterceptor):
    """Takes over the trace that a call's metadata speaks of."""

    def __init__(self, enter: Callable[[Iterable[tuple[str, str | bytes]]], None]) -> None:
        self._enter = enter

    def admit(self, _method: str, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Takes over the trace, and lets the call through (see `InProcessServer`)."""
        self._enter(metadata)
        return True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the method's handler."""
        self._enter(handler_call_details.invocation_metadata)
        return await continuation(handler_call_details)


def _enter(caller: Caller, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Tells the call's context whose it is, and what its caller named it."""
    caller_var.set(caller)
    for name, value in metadata:
        if name == "x-request-id" and is_call_id(value):
            call_id_var.set(value)


def is_call_id(value: str | bytes) -> TypeGuard[str]:
    """Returns whether a value can name a call in the log: printable ASCII without spaces, and not too long."""
    return (
        value.__class__ is str
        and value.isascii()
        and value.isprintable()
        and " " not in value
        and 0 < len(value) <= _MAX_CALL_ID_CHARS
    )


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
