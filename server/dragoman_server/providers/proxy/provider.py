"""The provider that calls the servers which callers name."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.proxy.allow_list import AllowList
from dragoman_server.providers.proxy.resolver import resolve, resolve_public
from dragoman_server.providers.remote import RemoteProvider, timeouts_of
from dragoman_server.providers.upstream.client import Client
from dragoman_server.providers.vendors import UNKNOWN, Vendor, vendor_of_host
from dragoman_server.settings import ProviderSettings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman.v1.run_pb2 import Upstream
    from dragoman_server.errors import ProviderError
    from dragoman_server.providers.base import Generation, GenerationRequest, GenerationSink
    from dragoman_server.providers.proxy.allow_list import Allowed
    from dragoman_server.providers.remote import Dialect
    from dragoman_server.providers.upstream.address import Address
    from dragoman_server.providers.upstream.client import Resolver
    from dragoman_server.settings import ProxySettings

NAME = "proxy"
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
"""What a header can carry, without spaces."""


class ProxyProvider:
    """Calls the server that a request names in `ChatSpec.upstream`, with the caller's own key.

    Connections are kept per server and shared by all callers; the key is part of each request, and of nothing else.

    Args:
        settings: The allow-list.
        dialects: Returns a wire dialect by name; raises KeyError for others.
        ssl_context: How to encrypt; by default with the certificates of the system.
        resolver: Finds the addresses of hosts; by default that of the system.

    Raises:
        InvalidRequest: If the allow-list is malformed.
    """

    name = NAME
    serves_any = True
    ready = True
    models: Sequence[Model] = ()

    def __init__(
        self,
        settings: ProxySettings,
        dialects: Mapping[str, Callable[[], Dialect]],
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self._allow_list = AllowList(settings.allow)
        self._dialects = dialects
        self._ssl_context = ssl_context
        self._resolver = resolver
        self._limits = ProviderSettings(name=NAME)
        self._clients: dict[Allowed, Client] = {}  # as many as the list is long, at most

    async def open(self) -> None:
        """Does nothing: connections are made when they are needed."""

    async def close(self) -> None:
        """Ends what still runs and closes all connections."""
        for client in self._clients.values():
            await client.close()

    def check(self, upstream: Upstream) -> None:
        """Refuses a server that must not be called.

        Raises:
            InvalidRequest: If it is not on the allow-list (UPSTREAM_NOT_ALLOWED), or the dialect is unknown, or the key
                is malformed.
        """
        self._find(upstream)

    def start(self, request: GenerationRequest, sink: GenerationSink) -> Generation:
        """Calls the server that the request names.

        Raises:
            InvalidRequest: If it must not be called, or the request or the key is malformed.
            UnsupportedFeature: If the dialect has no word for something that is asked for.
            Unavailable: If too many requests wait for a connection to the server.
        """
        upstream = request.spec.upstream
        address, allowed, dialect = self._find(upstream)
        provider = RemoteProvider(
            self._limits.model_copy(
                update={
                    "base_url": upstream.base_url,
                    "api_key": SecretStr(upstream.api_key) if upstream.api_key else None,
                }
            ),
            dialect._replace(failure_of_status=partial(_failure, dialect), embeddings=None),
            _vendor_of(address, dialect),
            client=self._client(allowed),
        )
        spec = type(request.spec)()
        spec.CopyFrom(request.spec)
        spec.ClearField("upstream")
        return provider.start(request._replace(spec=spec), sink)

    def _client(self, allowed: Allowed) -> Client:
        client = self._clients.get(allowed)
        if client is None:
            limits = self._limits
            client = self._clients[allowed] = Client(
                allowed.address,
                timeouts_of(limits),
                limits.max_connections,
                self._ssl_context,
                self._resolver if allowed.names_port else partial(resolve_public, self._resolver),
            )
        return client

    def _find(self, upstream: Upstream) -> tuple[Address, Allowed, Dialect]:
        address, allowed = self._allow_list.find(upstream.base_url)
        load = self._dialects.get(upstream.dialect)
        if load is None:
            known = ", ".join(sorted(self._dialects))
            raise InvalidRequest(
                f"`spec.chat.upstream.dialect` must be one of {known}", field="spec.chat.upstream.dialect"
            )
        if upstream.api_key and not _KEY.fullmatch(upstream.api_key):
            raise InvalidRequest(
                "`spec.chat.upstream.api_key` is malformed: it has characters that no key has, or too many",
                field="spec.chat.upstream.api_key",
            )
        return address, allowed, load()


def _vendor_of(address: Address, dialect: Dialect) -> Vendor:
    vendor = vendor_of_host(address.host)
    if vendor is not None and vendor.dialect == dialect.name:
        return vendor
    return Vendor(name="", title="", dialect=dialect.name, auth=dialect.auth, quirks=UNKNOWN)


def _failure(dialect: Dialect, status: int, headers: Mapping[bytes, bytes], body: bytes) -> ProviderError:
    """Returns what an error status means: a refused key is the caller's, not this server's."""
    error = dialect.failure_of_status(status, headers, body)
    if error.reason == Reason.PROVIDER_AUTH:
        error.reason, error.message = Reason.UPSTREAM_AUTH, "the upstream server refused the request's API key for it"
    return error
