"""The provider that speaks the chat completions dialect to a remote server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest, ProviderError
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.openai_chat.failures import failure_of_status
from dragoman_server.providers.openai_chat.request import encode_request
from dragoman_server.providers.openai_chat.response import ResponseReader
from dragoman_server.providers.openai_chat.vendors import quirks_of
from dragoman_server.providers.upstream.address import parse_base_url
from dragoman_server.providers.upstream.client import Client, Timeouts

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman.v1.failure_pb2 import Failure
    from dragoman_server.providers.base import GenerationRequest, GenerationSink
    from dragoman_server.providers.upstream.client import Exchange
    from dragoman_server.settings import ProviderSettings

_MAX_WHOLE_BYTES = 256 * 1024 * 1024
"""Largest answer in one piece."""
_MAX_ERROR_BYTES = 64 * 1024
"""What is read of an error."""


class OpenAIChatProvider:
    """A remote server that answers `POST <base_url>/chat/completions`. It serves whatever model it is asked for.

    Args:
        settings: Where it is, its key and limits.
        ssl_context: How to encrypt; by default with the certificates of the system.

    Raises:
        InvalidRequest: If the base URL, a header or the key is malformed.
    """

    serves_any = True
    ready = True
    models: Sequence[Model] = ()

    def __init__(self, settings: ProviderSettings, ssl_context: ssl.SSLContext | None = None) -> None:
        address = parse_base_url(settings.base_url)
        self.name = settings.name
        self._quirks = quirks_of(address.host)
        self._head = _request_head(settings, address.authority, address.target("/chat/completions"))
        self._client = Client(
            address,
            Timeouts(
                connect=settings.connect_timeout,
                first=settings.first_event_timeout,
                idle=settings.idle_timeout,
                total=settings.total_timeout,
            ),
            settings.max_connections,
            ssl_context,
        )
        self._secrets = _secrets(settings)
        self.running: set[_Generation] = set()

    async def open(self) -> None:
        """Does nothing: connections are made when they are needed."""

    async def close(self) -> None:
        """Cancels what still runs and closes all connections."""
        for generation in tuple(self.running):
            generation.cancel()
        await self._client.close()

    def start(self, request: GenerationRequest, sink: GenerationSink) -> _Generation:
        """Sends the request.

        Raises:
            UnsupportedFeature: If the dialect has no word for something that is asked for.
            InvalidRequest: If JSON text within the request is not JSON.
            Unavailable: If too many requests wait for a connection, or the provider is closed.
        """
        body = encode_request(request, self._quirks)
        generation = _Generation(request, sink, self)
        generation.exchange = self._client.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body), generation)
        self.running.add(generation)
        return generation

    def report(self, error: ProviderError) -> Failure:
        """Returns the failure as clients see it: it names the provider, and none of its secrets."""
        failure = error.to_failure()
        failure.metadata["provider"] = self.name
        for secret in self._secrets:
            failure.message = failure.message.replace(secret, "[secret]")
            for key, value in failure.metadata.items():
                failure.metadata[key] = value.replace(secret, "[secret]")
        return failure


def _request_head(settings: ProviderSettings, authority: str, target: str) -> bytes:
    """Returns the request up to the value of its content length."""
    headers = {
        "Host": authority,
        "User-Agent": "dragoman",
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }
    if settings.api_key is not None:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    taken = {name.lower(): name for name in headers}
    for name, secret in settings.headers.items():
        if name.lower() in ("content-length", "transfer-encoding", "connection", "accept-encoding"):
            raise InvalidRequest(f"the header {name} cannot be set", field="headers")
        headers.pop(taken.get(name.lower(), ""), None)
        headers[name] = secret.get_secret_value()
    for name, value in headers.items():
        if not _is_token(name) or not all(" " <= character <= "~" for character in value):
            what = "api_key" if name == "Authorization" else "headers"
            raise InvalidRequest(f"the value or name of the header {name!r} has forbidden characters", field=what)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target} HTTP/1.1\r\n{lines}Content-Length: ".encode("ascii")


def _secrets(settings: ProviderSettings) -> tuple[str, ...]:
    """Returns what must not be told; values too short to be secrets would only garble messages."""
    secrets = [*settings.headers.values(), *([settings.api_key] if settings.api_key is not None else [])]
    return tuple(value for secret in secrets if len(value := secret.get_secret_value()) >= 8)


def _is_token(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


class _Generation:
    """One generation, and the handler of its exchange."""

    exchange: Exchange

    def __init__(self, request: GenerationRequest, sink: GenerationSink, provider: OpenAIChatProvider) -> None:
        self._incremental = request.incremental
        self._sink = sink
        self._provider = provider
        self._reader = ResponseReader(request.choice_index)
        self._status = 0
        self._headers: Mapping[bytes, bytes] = {}
        self._streams = False
        self._body: list[bytes] = []  # of an answer in one piece
        self._size = 0
        self._ended = False

    # Generation

    def cancel(self) -> None:
        """Closes the connection at once."""
        if not self._ended:
            self._ended = True
            self.exchange.abort()
            cancelled = ProviderError("the generation was cancelled", reason=Reason.CANCELLED, retryable=False)
            asyncio.get_running_loop().call_soon(self._tell_end, cancelled)

    def pause(self) -> None:
        """Stops reading from the connection."""
        self.exchange.pause()

    def resume(self) -> None:
        """Reads on."""
        self.exchange.resume()

    # ResponseHandler

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Decides how to read the body."""
        self._status = status
        self._headers = headers
        kind = headers.get(b"content-type", b"").lower()
        if status == 200:
            self._streams = b"event-stream" in kind or (self._incremental and b"json" not in kind)
            if headers.get(b"content-encoding", b"identity") != b"identity":
                self._fail(_broken("it is compressed, although that was not asked for"))

    def on_data(self, data: bytes) -> None:
        """Reads the next bytes: one batch for all that they bring."""
        if self._ended:
            return
        if not self._streams:
            self._keep(data)
            return
        reader, batch = self._reader, EventBatch()
        try:
            if reader.read_stream(data, batch):
                self.exchange.moved = True
            if reader.done:
                reader.end_stream(batch)
        except ProviderError as error:
            self._deliver_then_fail(batch, error)
            return
        if batch.events:
            self._sink.on_events(batch)
        if reader.done:
            self._end()

    def on_complete(self) -> None:
        """Reads an answer in one piece, or ends a stream that did not say so itself."""
        if self._ended:
            return
        batch = EventBatch()
        try:
            if self._status != 200:
                raise failure_of_status(self._status, self._headers, b"".join(self._body))
            if self._streams:
                self._reader.end_stream(batch)
            else:
                self._reader.read_whole(b"".join(self._body), batch)
        except ProviderError as error:
            self._deliver_then_fail(batch, error)
            return
        self._sink.on_events(batch)
        self._end()

    def on_error(self, error: ProviderError) -> None:
        """Ends the generation; an error answer that broke off still says why."""
        if self._status not in (0, 200):
            error = failure_of_status(self._status, self._headers, b"".join(self._body))
        self._fail(error)

    def _keep(self, data: bytes) -> None:
        self.exchange.moved = True
        self._size += len(data)
        if self._status != 200:
            if self._size <= _MAX_ERROR_BYTES:
                self._body.append(data)
            else:
                self._fail(failure_of_status(self._status, self._headers, b"".join(self._body)))
        elif self._size <= _MAX_WHOLE_BYTES:
            self._body.append(data)
        else:
            self._fail(_broken("it is too large"))

    def _deliver_then_fail(self, batch: EventBatch, error: ProviderError) -> None:
        if batch.events:
            self._sink.on_events(batch)
        self._fail(error)

    def _fail(self, error: ProviderError) -> None:
        if not self._ended:
            self._ended = True
            self.exchange.abort()
            self._tell_end(error)

    def _end(self) -> None:
        """Ends well. The connection reads on to the end of the answer, to be used again."""
        if not self._ended:
            self._ended = True
            self.exchange.resume()
            self._tell_end(None)

    def _tell_end(self, error: ProviderError | None) -> None:
        self._provider.running.discard(self)
        self._sink.on_end(None if error is None else self._provider.report(error))


def _broken(message: str) -> ProviderError:
    return ProviderError(f"the provider's answer makes no sense: {message}", reason=Reason.PROVIDER_PROTOCOL)
