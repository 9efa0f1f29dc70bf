"""Asks a configured provider whether it is there and takes the key, by a call that costs nothing."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError
from dragoman_server.providers.dialects import WIRE_DIALECTS
from dragoman_server.providers.registry import dialect_of, server_of
from dragoman_server.providers.remote import MAX_ERROR_BYTES, address_of, request_headers, secrets_of
from dragoman_server.providers.upstream.client import Client, Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_server.providers.remote import Dialect
    from dragoman_server.providers.upstream.client import Exchange
    from dragoman_server.settings import ProviderSettings

WITHOUT_LIST = frozenset({404, 405, 501})
"""Statuses of servers that do not list their models: they are there all the same."""


class Probe(NamedTuple):
    """What was found.

    Attributes:
        seconds: Until the answer began, the connection included.
        key_accepted: Whether the server asked for the key and took it. If not, it asks for none, or the call that costs
            nothing does not show it.
    """

    seconds: float
    key_accepted: bool


async def probe(settings: ProviderSettings, timeout: float) -> Probe | None:
    """Asks a provider for its models; returns None if there is nothing to ask over the network.

    Args:
        settings: The provider.
        timeout: Seconds that each of at most two calls may take.

    Raises:
        ProviderError: If it is not there (PROVIDER_UNREACHABLE, PROVIDER_TIMEOUT), refuses the key (PROVIDER_AUTH) or
            answers with another failure. The message holds neither its address nor a key.
        InvalidRequest: If its base URL, a header or the key is malformed.
    """
    dialect = dialect_of(settings)
    if dialect in WIRE_DIALECTS:
        return await _probe_remote(settings, WIRE_DIALECTS[dialect](), timeout)
    if dialect == "plugin":
        from dragoman_server.providers.plugin.provider import describe

        start = monotonic()
        await describe(settings, timeout)
        return Probe(monotonic() - start, key_accepted=settings.api_key is not None)
    return None


async def _probe_remote(settings: ProviderSettings, dialect: Dialect, timeout: float) -> Probe:
    start = monotonic()
    listed = await _lists_models(settings, dialect, timeout)
    seconds = monotonic() - start
    if not listed or settings.api_key is None:
        return Probe(seconds, key_accepted=False)
    try:  # some servers tell their models to everybody
        await _lists_models(settings.model_copy(update={"api_key": None}), dialect, timeout)
    except ProviderError as error:
        return Probe(seconds, key_accepted=error.reason == Reason.PROVIDER_AUTH)
    return Probe(seconds, key_accepted=False)


async def _lists_models(settings: ProviderSettings, dialect: Dialect, timeout: float) -> bool:
    """Asks for the models; returns whether the server knows how to tell them.

    Raises:
        ProviderError: If it is not there or refuses.
    """
    vendor = server_of(settings, dialect)
    address = address_of(settings, dialect, vendor)
    headers = request_headers(settings, dialect, settings.auth or vendor.auth, address.authority)
    client = Client(address, Timeouts(timeout, timeout, timeout, timeout), 1)
    answer = _Answer()
    try:
        request = f"GET {address.target('/models')} HTTP/1.1\r\n{headers}\r\n"
        answer.exchange = client.send(request.encode("ascii"), answer)
        status, headers_of_answer, body = await answer.come
    finally:
        await client.close()
    if status == 200:
        return True
    if status in WITHOUT_LIST:
        return False
    error = dialect.failure_of_status(status, headers_of_answer, body)
    for secret in secrets_of(settings):
        error.message = error.message.replace(secret, "[secret]")
    raise error


class _Answer:
    """Takes the status of an answer, and the body if that is an error."""

    exchange: Exchange

    def __init__(self) -> None:
        self.come: asyncio.Future[tuple[int, Mapping[bytes, bytes], bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._body = b""

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Takes the status; nobody reads the list."""
        self._status, self._headers = status, headers
        if status == 200:
            self.on_complete()

    def on_data(self, data: bytes) -> None:
        """Takes a piece of the body."""
        self._body += data
        if len(self._body) > MAX_ERROR_BYTES:
            self.on_complete()

    def on_complete(self) -> None:
        """Hands over what came."""
        if not self.come.done():
            self.come.set_result((self._status, self._headers, self._body))
            self.exchange.abort()

    def on_error(self, error: ProviderError) -> None:
        """Hands over why nothing came."""
        if not self.come.done():
            self.come.set_exception(error)
