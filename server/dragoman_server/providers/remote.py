"""The provider that calls a remote server over HTTP, whatever wire dialect that speaks.

A dialect is data and pure functions (`Dialect`): how to write a request, how to read an answer, what a status means.
Who the server is comes from the vendor and the settings. Everything that is the same for all of them is here.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragoman.reasons import Reason
from dragoman_server.errors import InvalidRequest, ProviderError, UnsupportedFeature
from dragoman_server.providers.base import EventBatch
from dragoman_server.providers.failures import broken, reported
from dragoman_server.providers.remote_embeddings import RemoteEmbedder
from dragoman_server.providers.signatures import mark_of
from dragoman_server.providers.upstream.address import parse_base_url
from dragoman_server.providers.upstream.client import Client, Timeouts
from dragoman_server.providers.upstream.message import post
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman.v1.embedding_service_pb2 import EmbedRequest, EmbedResponse
    from dragoman.v1.event_pb2 import FinishReason
    from dragoman.v1.failure_pb2 import Failure
    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.providers.base import GenerationRequest, GenerationSink
    from dragoman_server.providers.remote_embeddings import EmbeddingDialect
    from dragoman_server.providers.upstream.address import Address
    from dragoman_server.providers.upstream.client import Exchange
    from dragoman_server.providers.vendors import Quirks, Vendor
    from dragoman_server.settings import ProviderSettings

logger = get_logger(__name__)

MAX_WHOLE_BYTES = 256 * 1024 * 1024
"""Largest answer in one piece."""
MAX_ERROR_BYTES = 64 * 1024
"""What is read of an error."""

_FORBIDDEN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "accept-encoding"})


class Call(NamedTuple):
    """A request in the words of a dialect.

    Attributes:
        path: Where to POST it, below the base URL and the version; may have a query.
        body: The body, JSON.
        header: One more header, by its name in lower case; added to the values of that name in the settings.
    """

    path: str
    body: bytes
    header: tuple[str, str] | None = None


class ResponseReader(Protocol):
    """Reads one answer, for one choice, and appends its events to batches.

    Attributes:
        done: Whether the stream said that it is complete.
    """

    done: bool

    @property
    def usage(self) -> Usage | None:
        """What the provider has told of its consumption, None if nothing; a count that it did not tell is 0."""

    def read_text(self, data: bytes) -> str | None:
        """Returns the text of bytes of a stream that are one whole piece of text of choice 0, as nearly every read is.

        None for any others, which are then still to be read.
        """

    def read_stream(self, data: bytes, batch: EventBatch) -> bool:
        """Reads the next bytes of a stream; returns whether they brought more than keep-alives.

        Raises:
            ProviderError: If the provider reports a failure, or its bytes make no sense. The batch keeps the rest.
        """

    def end_stream(self, batch: EventBatch) -> None:
        """Takes the end of the stream, and appends what was held back.

        Raises:
            ProviderError: If the answer is not finished.
        """

    def read_plain(self, data: bytes) -> tuple[str, FinishReason, bytes | None] | None:
        """Returns an answer in one piece as `GenerationSink.on_whole` takes it, if it is one of that kind.

        None for any other, which is then still to be read.
        """

    def read_whole(self, data: bytes, batch: EventBatch) -> None:
        """Reads an answer that came in one piece.

        Raises:
            ProviderError: If the provider reports a failure, or the answer makes no sense or is not finished.
        """


class Dialect(NamedTuple):
    """A wire dialect spoken to model servers.

    Attributes:
        name: The name in the configuration.
        auth: How the key is sent if neither vendor nor settings say.
        headers: Headers of every request.
        encode: Writes a request, for a server with these quirks and this mark on its signatures. Raises
            UnsupportedFeature (with `field`) for what the dialect or the quirks have no word for, and InvalidRequest
            for JSON text that is not JSON.
        reader: Makes the reader of the answer to a request, which puts the mark on signatures.
        failure_of_status: Tells what an answer with another status than 200 means: status, headers (names in lower
            case), body.
        embeddings: How embeddings are asked for; None if the dialect has none.
        full_path: Adds what a base URL may leave out at the end of its path: the version of the API.
    """

    name: str
    auth: str
    headers: Mapping[str, str]
    encode: Callable[[GenerationRequest, Quirks, bytes], Call]
    reader: Callable[[GenerationRequest, bytes], ResponseReader]
    failure_of_status: Callable[[int, Mapping[bytes, bytes], bytes], ProviderError]
    embeddings: EmbeddingDialect | None = None
    full_path: Callable[[str], str] = str


class RemoteProvider:
    """A remote server. It serves whatever model it is asked for.

    Args:
        settings: Its name, key and limits, and where it is, if not where the vendor is.
        dialect: What it speaks.
        vendor: Whose server it is.
        models: The models that it is known to serve.
        ssl_context: How to encrypt; by default with the certificates of the system.
        client: Makes the calls, if not one of its own; whoever made it closes it.

    Raises:
        InvalidRequest: If the base URL, a header or the key is malformed.
    """

    serves_any = True
    ready = True

    def __init__(
        self,
        settings: ProviderSettings,
        dialect: Dialect,
        vendor: Vendor,
        models: Sequence[Model] = (),
        ssl_context: ssl.SSLContext | None = None,
        client: Client | None = None,
    ) -> None:
        self.name = settings.name
        self.models = models
        self.dialect = dialect
        self.quirks = vendor.quirks
        self._address = address_of(settings, dialect, vendor)
        self.mark = mark_of(vendor.name or self._address.authority)
        self._headers = request_headers(settings, dialect, settings.auth or vendor.auth, self._address.authority)
        self._heads: dict[str, bytes] = {}
        self._owns_client = client is None
        self._client = client or Client(self._address, timeouts_of(settings), settings.max_connections, ssl_context)
        self._secrets = secrets_of(settings)
        self._embedder = (
            RemoteEmbedder(dialect.embeddings, vendor.quirks, self._client, self.head, self.report)
            if dialect.embeddings is not None
            else None
        )
        self.running: set[_Generation] = set()

    async def open(self) -> None:
        """Does nothing: connections are made when they are needed."""

    async def close(self) -> None:
        """Cancels what still runs and closes all connections."""
        for generation in tuple(self.running):
            generation.cancel()
        if self._owns_client:
            await self._client.close()

    def start(self, request: GenerationRequest, sink: GenerationSink) -> _Generation:
        """Sends the request.

        Raises:
            UnsupportedFeature: If the dialect has no word for something that is asked for.
            InvalidRequest: If JSON text within the request is not JSON.
            Unavailable: If too many requests wait for a connection, or the provider is closed.
        """
        path, body, header = self.dialect.encode(request, self.quirks, self.mark)
        generation = _Generation(request, sink, self)
        if header is None:
            head = self._heads.get(path) or self.head(path)
        else:
            head = self._head(path, _with_value(self._headers, *header))
        generation.exchange = self._client.send(post(head, body), generation)
        self.running.add(generation)
        return generation

    async def embed(self, request: EmbedRequest, model: str) -> EmbedResponse:
        """Turns texts into vectors; see `RemoteEmbedder.embed`.

        Raises:
            UnsupportedFeature: If the dialect has no word for it, or for something that is asked for.
            DragomanError: If the request is refused or the server fails.
        """
        if self._embedder is None:
            raise UnsupportedFeature(f"provider {self.name} makes no vectors", field="model")
        return await self._embedder.embed(request, model)

    def head(self, path: str) -> bytes:
        """Returns a request to a path up to the value of its content length."""
        head = self._heads.get(path)
        if head is None:
            head = self._head(path, self._headers)
            if len(self._heads) < 256:  # clients may ask for any model, and some dialects have it in the path
                self._heads[path] = head
        return head

    def _head(self, path: str, headers: str) -> bytes:
        return f"POST {self._address.target(path)} HTTP/1.1\r\n{headers}Content-Length: ".encode("ascii")

    def report(self, error: ProviderError) -> Failure:
        """Returns the failure as clients see it: it names the provider, and none of its secrets."""
        return reported(error, self.name, self._secrets)


def address_of(settings: ProviderSettings, dialect: Dialect, vendor: Vendor) -> Address:
    """Returns where a provider's API is.

    Raises:
        InvalidRequest: If the base URL is malformed.
    """
    address = parse_base_url(settings.base_url or vendor.base_url)
    return replace(address, path=dialect.full_path(address.path))


def timeouts_of(settings: ProviderSettings) -> Timeouts:
    """Returns the limits of each call to a provider."""
    return Timeouts(
        connect=settings.connect_timeout,
        first=settings.first_event_timeout,
        idle=settings.idle_timeout,
        total=settings.total_timeout,
    )


def request_headers(settings: ProviderSettings, dialect: Dialect, auth: str, authority: str) -> str:
    """Returns the header lines of every request.

    Raises:
        InvalidRequest: If a header or the key is malformed, or a header must not be set.
    """
    headers = {
        "Host": authority,
        "User-Agent": "dragoman",
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        **dialect.headers,
    }
    if settings.api_key is not None and auth != "none":
        key = settings.api_key.get_secret_value()
        if auth == "bearer":
            headers["Authorization"] = f"Bearer {key}"
        else:  # the other ways are headers of that name
            headers[auth] = key
    taken = {name.lower(): name for name in headers}
    for name, secret in settings.headers.items():
        if name.lower() in _FORBIDDEN_HEADERS:
            raise InvalidRequest(f"the header {name} cannot be set", field="headers")
        headers.pop(taken.get(name.lower(), ""), None)
        headers[name] = secret.get_secret_value()
    for name, value in headers.items():
        if not _is_token(name) or not all(" " <= character <= "~" for character in value):
            what = "headers" if name in settings.headers else "api_key"
            raise InvalidRequest(f"the value or name of the header {name!r} has forbidden characters", field=what)
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _with_value(headers: str, name: str, value: str) -> str:
    """Returns header lines with one more value of a header that is a list."""
    line = re.search(rf"^{name}: .*(?=\r\n)", headers, re.IGNORECASE | re.MULTILINE)
    if line is None:
        return f"{headers}{name}: {value}\r\n"
    return f"{headers[: line.end()]},{value}{headers[line.end() :]}"


def secrets_of(settings: ProviderSettings) -> tuple[str, ...]:
    """Returns what must not be told; values too short to be secrets would only garble messages."""
    secrets = [*settings.headers.values(), *([settings.api_key] if settings.api_key is not None else [])]
    return tuple(value for secret in secrets if len(value := secret.get_secret_value()) >= 8)


def _is_token(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


class _Generation:
    """One generation, and the handler of its exchange."""

    exchange: Exchange
    _headers: Mapping[bytes, bytes]
    _body: bytes | list[bytes] = b""
    """Of an answer in one piece; a list once it came in several reads."""

    def __init__(self, request: GenerationRequest, sink: GenerationSink, provider: RemoteProvider) -> None:
        self._incremental = request.incremental
        self._sink = sink
        self._provider = provider
        self._reader = provider.dialect.reader(request, provider.mark)
        self._status = 0
        self._streams = False
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

    @property
    def usage_so_far(self) -> Usage | None:
        """What the server has told of its consumption; None if nothing."""
        return self._reader.usage

    # ResponseHandler

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Decides how to read the body."""
        self._status = status
        self._headers = headers
        if status == 200:
            kind = headers.get(b"content-type", b"")
            if kind != b"application/json":
                kind = kind.lower()
                self._streams = b"event-stream" in kind or (self._incremental and b"json" not in kind)
            if headers.get(b"content-encoding", b"identity") != b"identity":
                self._fail(broken("it is compressed, although that was not asked for"))

    def on_data(self, data: bytes) -> None:
        """Reads the next bytes: one batch for all that they bring."""
        if self._ended:
            return
        if not self._streams:
            self._keep(data)
            return
        reader = self._reader
        text = reader.read_text(data)
        if text is not None:
            self.exchange.moved = True
            self._sink.on_text(text)
            return
        batch = EventBatch()
        try:
            if reader.read_stream(data, batch):
                self.exchange.moved = True
            if reader.done:
                reader.end_stream(batch)
        except Exception as error:
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
        if self._status == 200 and not self._streams:
            self._complete_whole(self._answer())
            return
        batch = EventBatch()
        try:
            if self._status != 200:
                raise self._refusal()
            self._reader.end_stream(batch)
        except Exception as error:
            self._deliver_then_fail(batch, error)
            return
        self._sink.on_events(batch)
        self._end()

    def _complete_whole(self, data: bytes) -> None:
        """Reads an answer in one piece, and ends."""
        reader = self._reader
        if not self._incremental and (plain := reader.read_plain(data)) is not None:
            self._ended = True
            self._provider.running.discard(self)
            self._sink.on_whole(*plain)
            return
        batch = EventBatch()
        try:
            reader.read_whole(data, batch)
        except Exception as error:
            self._deliver_then_fail(batch, error)
            return
        self._sink.on_events(batch)
        self._end()

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Takes an answer that came all at once: does what `on_headers`, `on_data` and `on_complete` do."""
        if (
            status == 200
            and not self._incremental
            and not self._ended
            and headers.get(b"content-type", b"").startswith(b"application/json")
            and b"content-encoding" not in headers
            and len(body) <= MAX_WHOLE_BYTES
        ):
            self._complete_whole(body)
            return
        self.on_headers(status, headers)
        if body:
            self.on_data(body)
        self.on_complete()

    def on_error(self, error: ProviderError) -> None:
        """Ends the generation; an error answer that broke off still says why."""
        if self._status not in (0, 200):
            error = self._refusal()
        self._fail(error)

    def _refusal(self) -> ProviderError:
        try:
            return self._provider.dialect.failure_of_status(self._status, self._headers, self._answer())
        except Exception as error:
            return self._unreadable(error)

    def _unreadable(self, error: Exception) -> ProviderError:
        """Returns what it means that reading stumbled: the answer is of a shape that nobody thought of."""
        logger.warning("an answer could not be read", provider=self._provider.name, exc_info=error)
        return broken(f"it is of a shape that cannot be read ({type(error).__name__})")

    def _keep(self, data: bytes) -> None:
        """Takes note of bytes of an answer in one piece."""
        self.exchange.moved = True
        self._size += len(data)
        if self._size > (MAX_WHOLE_BYTES if self._status == 200 else MAX_ERROR_BYTES):
            self._fail(broken("it is too large") if self._status == 200 else self._refusal())
        elif not self._body:
            self._body = data  # nearly always all there is
        elif isinstance(self._body, bytes):
            self._body = [self._body, data]
        else:
            self._body.append(data)

    def _answer(self) -> bytes:
        return self._body if isinstance(self._body, bytes) else b"".join(self._body)

    def _deliver_then_fail(self, batch: EventBatch, error: Exception) -> None:
        """Ends the generation, after what was read before the failure. What a reader stumbled over is not passed on."""
        if not isinstance(error, ProviderError):
            error = self._unreadable(error)
        elif batch.events:
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
