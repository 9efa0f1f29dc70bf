from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dragoman_server.errors import InvalidRequest, ProviderError, Unavailable
from dragoman_server.providers.upstream.address import parse_base_url
from dragoman_server.providers.upstream.client import Client, Timeouts
from tests.support.upstream_server import (
    CLOSE,
    RESET,
    Answer,
    Request,
    UpstreamServer,
    chunked,
    cut,
    head,
    in_turn,
    raw,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_server.providers.upstream.client import Exchange
    from tests.support.upstream_server import Connection

BOUND = 30.0
REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
HELLO = whole(200, b"hello")
CHUNKED = head(200, Transfer_Encoding="chunked")


class Handler:
    """Records one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[bytes, bytes] = {}
        self.reads: list[bytes] = []
        self.outcome: asyncio.Future[ProviderError | None] = asyncio.get_running_loop().create_future()
        self.exchange: Exchange
        self.progress_on_data = True

    def on_headers(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        assert self.status == 0
        self.status, self.headers = status, dict(headers)

    def on_data(self, data: bytes) -> None:
        assert self.status
        assert data
        assert not self.outcome.done()
        self.reads.append(data)
        if self.progress_on_data:
            self.exchange.moved = True

    def on_complete(self) -> None:
        self.outcome.set_result(None)

    def on_error(self, error: ProviderError) -> None:
        self.outcome.set_result(error)

    @property
    def body(self) -> bytes:
        return b"".join(self.reads)

    async def end(self) -> ProviderError | None:
        async with asyncio.timeout(BOUND):
            return await self.outcome


def ask(client: Client, request: bytes = REQUEST) -> Handler:
    handler = Handler()
    handler.exchange = client.send(request, handler)
    assert handler.status == 0
    return handler


LONG = {"connect": 20.0, "first": 20.0, "idle": 20.0, "total": 60.0}


@asynccontextmanager
async def serving(
    answer: Answer, max_connections: int = 10, **limits: float
) -> AsyncIterator[tuple[UpstreamServer, Client]]:
    async with UpstreamServer(answer) as server:
        client = Client(parse_base_url(server.url), Timeouts(**{**LONG, **limits}), max_connections)
        try:
            yield server, client
        finally:
            async with asyncio.timeout(BOUND):
                await client.close()


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "pieces",
    [
        [HELLO],
        list(cut(HELLO, 1)),
        [CHUNKED, chunked(b"hel") + chunked(b"lo"), b"0\r\n\r\n"],
        list(cut(CHUNKED + chunked(b"hel") + chunked(b"lo") + b"0\r\nX-T: 1\r\n\r\n", 3)),
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HELLO],
        [b"HTTP/1.1 100 Continue\r\n\r\n", HELLO],
    ],
)
async def test_answers_with_an_end_keep_the_connection(pieces: list[bytes]) -> None:
    async with serving(raw(*pieces)) as (server, client):
        for _ in range(3):
            handler = ask(client)
            assert await handler.end() is None
            assert (handler.status, handler.body) == (200, b"hello")
        assert server.connection_count == 1
        assert [request.body for request in server.requests] == [b"{}"] * 3


@pytest.mark.parametrize(
    "pieces",
    [
        [whole(200, b"hello", Connection="close")],
        [head(200) + b"hel", b"lo", CLOSE],
        [b"HTTP/1.0 200 OK\r\n\r\nhello", CLOSE],
        [HELLO + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"],
        [HELLO + b"surplus"],
    ],
)
async def test_answers_after_which_a_connection_is_not_used_again(pieces: list[Any]) -> None:
    async with serving(raw(*pieces)) as (server, client):
        for _ in range(2):
            handler = ask(client)
            assert await handler.end() is None
            assert handler.body == b"hello"
        assert server.connection_count == 2


async def test_a_status_without_a_body() -> None:
    async with serving(raw(b"HTTP/1.1 204 No Content\r\n\r\n")) as (server, client):
        for _ in range(2):
            handler = ask(client)
            assert await handler.end() is None
            assert (handler.status, handler.body) == (204, b"")
        assert server.connection_count == 1


async def test_chunks_of_one_read_are_one_call() -> None:
    answer = CHUNKED + b"".join(chunked(b"%d;" % at) for at in range(500)) + b"0\r\n\r\n"
    async with serving(raw(answer)) as (_, client):
        handler = ask(client)
        assert await handler.end() is None
        assert handler.body == b"".join(b"%d;" % at for at in range(500))
        assert len(handler.reads) < 10


async def test_header_names_are_lower_case() -> None:
    async with serving(raw(whole(200, b"x", X_Some="Value"))) as (_, client):
        handler = ask(client)
        assert await handler.end() is None
        assert handler.headers[b"x-some"] == b"Value"


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([CLOSE], "PROVIDER_UNREACHABLE"),
        ([RESET], "PROVIDER_UNREACHABLE"),
        ([head(200, Content_Length=9) + b"short", CLOSE], "PROVIDER_PROTOCOL"),
        ([head(200, Content_Length=9) + b"short", RESET], "PROVIDER_PROTOCOL"),
        ([CHUNKED + chunked(b"short"), CLOSE], "PROVIDER_PROTOCOL"),
        ([CHUNKED + b"9\r\nshort", CLOSE], "PROVIDER_PROTOCOL"),
        ([b"HTTP/1.1 200 OK\r\nContent-", CLOSE], "PROVIDER_PROTOCOL"),
        ([CHUNKED + b"zz\r\n"], "PROVIDER_PROTOCOL"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "PROVIDER_PROTOCOL"),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], "PROVIDER_PROTOCOL"),
        ([b"HTTP/1.1 200 OK\r\n", *[b"X-Pad: " + b"x" * 1000 + b"\r\n"] * 100], "PROVIDER_PROTOCOL"),
        ([b"HTTP/1.1 200 OK\r\nX-Pad: ", *[b"x" * 1000] * 100], "PROVIDER_PROTOCOL"),
    ],
)
async def test_broken_answers_are_failures(pieces: list[Any], reason: str) -> None:
    async with serving(raw(*pieces)) as (server, client):
        handler = ask(client)
        error = await handler.end()
        assert error is not None
        assert error.reason == reason
        assert len(server.requests) == 1
        await eventually(lambda: not server.connections)


async def test_a_refused_connection_is_a_failure() -> None:
    async with serving(raw(HELLO)) as (server, _):
        address = parse_base_url(server.url)
    client = Client(address, Timeouts(**LONG), 10)
    error = await ask(client).end()
    await client.close()
    assert error is not None
    assert error.reason == "PROVIDER_UNREACHABLE"
    assert "refused" in error.message


async def test_a_stale_connection_is_replaced_once_and_unnoticed() -> None:
    async def answer_or_close(request: Request, connection: Connection) -> None:
        if len(server.requests) == 2:  # the first request on the reused connection
            connection.transport.close()
        else:
            await connection.write(HELLO)

    async with serving(answer_or_close) as (server, client):
        assert await ask(client).end() is None
        assert await ask(client).end() is None
        assert (server.connection_count, len(server.requests)) == (2, 3)


async def test_a_fresh_connection_that_closes_is_not_tried_again() -> None:
    async with serving(in_turn(raw(HELLO), raw(CLOSE))) as (server, client):
        assert await ask(client).end() is None
        error = await ask(client).end()
        assert error is not None
        assert error.reason == "PROVIDER_UNREACHABLE"
        assert len(server.requests) == 3


async def test_a_request_that_was_partly_answered_is_never_sent_again() -> None:
    async with serving(in_turn(raw(HELLO), raw(b"HTTP/1.1 2", CLOSE))) as (server, client):
        assert await ask(client).end() is None
        assert await ask(client).end() is not None
        assert len(server.requests) == 2


async def test_connections_that_the_peer_closed_while_idle_are_forgotten() -> None:
    async with serving(raw(HELLO)) as (server, client):
        assert await ask(client).end() is None
        server.drop_idle()
        await eventually(lambda: not server.connections)
        await asyncio.sleep(0.01)
        assert await ask(client).end() is None
        assert (server.connection_count, len(server.requests)) == (2, 2)


async def test_idle_connections_are_closed_before_the_peer_does() -> None:
    async with serving(raw(whole(200, b"x", Keep_Alive="timeout=1, max=5")), idle=0.5) as (server, client):
        assert await ask(client).end() is None
        await eventually(lambda: not server.connections)


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    async with serving(raw(HELLO, 0.05, HELLO)) as (server, client):
        assert await ask(client).end() is None
        await eventually(lambda: not server.connections)
        assert await ask(client).end() is None
        assert server.connection_count == 2


async def test_requests_wait_in_order_for_a_free_connection() -> None:
    order: list[bytes] = []
    answers = asyncio.Semaphore(0)

    async def note(request: Request, connection: Connection) -> None:
        order.append(request.body)
        await answers.acquire()
        await connection.write(HELLO)

    async def until(count: int) -> None:
        async with asyncio.timeout(10):
            while len(order) < count:
                await asyncio.sleep(0.001)

    async with serving(note, max_connections=2) as (server, client):
        requests = [REQUEST[:-2] + b"%02d" % at for at in range(4)]
        handlers = [ask(client, request) for request in requests]
        with pytest.raises(Unavailable):
            ask(client)
        await until(2)
        assert sorted(order) == [b"00", b"01"]
        for count in (3, 4):  # one connection after the other becomes free
            answers.release()
            await until(count)
        answers.release()
        answers.release()
        for handler in handlers:
            assert await handler.end() is None
        assert order[2:] == [b"02", b"03"]
        assert server.connection_count == 2


async def test_a_waiting_request_gets_a_new_connection_when_one_is_lost() -> None:
    async with serving(in_turn(raw(b"HTTP/1.1 200 OK\r\n", 0.05, RESET), raw(HELLO)), max_connections=1) as (_, client):
        first, second = ask(client), ask(client)
        assert await first.end() is not None
        assert await second.end() is None


async def test_a_failed_connection_does_not_strand_those_who_wait() -> None:
    async with serving(raw(HELLO)) as (server, _):
        address = parse_base_url(server.url)
    client = Client(address, Timeouts(**LONG), 1)
    for handler in [ask(client), ask(client)]:
        assert await handler.end() is not None
    await client.close()


@pytest.mark.parametrize("pieces", [[20.0], [CHUNKED, 20.0], [head(200, Content_Length=9) + b"some", 20.0]])
async def test_an_abort_reaches_the_server(pieces: list[Any]) -> None:
    async with serving(raw(*pieces)) as (server, client):
        handler = ask(client)
        await eventually(lambda: server.requests)
        await asyncio.sleep(0.05)
        handler.exchange.abort()
        async with asyncio.timeout(BOUND):
            await server.aborted.wait()
        assert not handler.outcome.done()


async def test_aborts_while_connecting_waiting_and_after_the_end() -> None:
    async with serving(raw(HELLO), max_connections=1) as (server, client):
        connecting, waiting, kept = ask(client), ask(client), None
        waiting.exchange.abort()
        connecting.exchange.abort()
        await asyncio.sleep(0.05)
        kept = ask(client)
        assert await kept.end() is None
        kept.exchange.abort()
        kept.exchange.abort()
        assert await ask(client).end() is None
        assert not connecting.outcome.done()
        assert not waiting.outcome.done()
        assert len(server.requests) == 2


async def test_an_abort_from_within_a_callback() -> None:
    async with serving(raw(CHUNKED, chunked(b"a") + chunked(b"b"), 20.0)) as (
        server,
        client,
    ):
        handler = Handler()
        handler.on_headers = lambda status, headers: handler.exchange.abort()  # type: ignore[method-assign]
        handler.exchange = client.send(REQUEST, handler)
        async with asyncio.timeout(BOUND):
            await server.aborted.wait()
        assert handler.reads == []


@pytest.mark.parametrize(
    ("pieces", "limits", "words"),
    [
        ([20.0], {"first": 0.1}, "no answer came"),
        ([CHUNKED, 20.0], {"first": 0.1}, "no answer came"),
        ([head(200, Content_Length=9) + b"some", 20.0], {"idle": 0.1}, "stopped"),
        ([head(200, Content_Length=99), *[b"x", 0.02] * 90], {"total": 0.2}, "longer than"),
    ],
)
async def test_timeouts(pieces: list[Any], limits: dict[str, Any], words: str) -> None:
    async with serving(raw(*pieces), **limits) as (server, client):
        error = await ask(client).end()
        assert error is not None
        assert error.reason == "PROVIDER_TIMEOUT"
        assert words in error.message
        async with asyncio.timeout(BOUND):
            await server.aborted.wait()


async def test_the_wait_for_a_connection_has_a_limit() -> None:
    async with serving(raw(20.0), max_connections=1, connect=0.1) as (_, client):
        first, second = ask(client), ask(client)
        error = await second.end()
        assert error is not None
        assert error.reason == "PROVIDER_TIMEOUT"
        assert not first.outcome.done()


async def test_bytes_without_progress_do_not_hold_off_the_idle_timeout() -> None:
    pings = [head(200, Content_Length=9999), *[b": ping\n\n", 0.02] * 500]
    async with serving(raw(*pings), first=0.2) as (_, client):
        handler = Handler()
        handler.progress_on_data = False
        handler.exchange = client.send(REQUEST, handler)
        error = await handler.end()
        assert error is not None
        assert error.reason == "PROVIDER_TIMEOUT"


async def test_a_paused_exchange_reads_nothing_and_is_not_idle() -> None:
    async def pour(request: Request, connection: Connection) -> None:
        await connection.write(head(200, Content_Length=20_000_000))
        for _ in range(200):
            await connection.write(b"x" * 100_000)

    async with serving(pour, idle=0.2) as (server, client):
        handler = ask(client)
        await eventually(lambda: handler.reads)
        handler.exchange.pause()
        await eventually(lambda: server.stalled)
        await asyncio.sleep(0.5)  # more than the idle timeout
        assert not handler.outcome.done()
        assert server.sent_bytes < 20_000_000
        handler.exchange.resume()
        assert await handler.end() is None
        assert len(handler.body) == 20_000_000


async def test_pausing_before_the_connection_stands() -> None:
    async with serving(raw(HELLO)) as (server, client):
        handler = ask(client)
        handler.exchange.pause()
        await eventually(lambda: server.requests)
        await asyncio.sleep(0.05)
        assert handler.status == 0
        handler.exchange.resume()
        assert await handler.end() is None
        assert await ask(client).end() is None
        assert server.connection_count == 1


async def test_a_connection_is_usable_after_its_exchange_was_paused_at_the_end() -> None:
    async with serving(raw(HELLO)) as (server, client):
        handler = Handler()
        handler.on_data = lambda data: handler.exchange.pause()  # type: ignore[method-assign]
        handler.exchange = client.send(REQUEST, handler)
        assert await handler.end() is None
        assert await ask(client).end() is None
        assert server.connection_count == 1


async def test_a_large_request_is_sent_whole() -> None:
    body = b"x" * 8_000_000
    async with serving(raw(HELLO)) as (server, client):
        request = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        assert await ask(client, request).end() is None
        assert server.requests[0].body == body


async def test_closing_ends_everything() -> None:
    async with serving(raw(20.0)) as (server, client):
        handlers = [ask(client) for _ in range(3)]
        await eventually(lambda: len(server.requests) == 3)
        connecting = ask(client)
        await client.close()
        await eventually(lambda: not server.connections)
        with pytest.raises(Unavailable):
            ask(client)
        assert not any(handler.outcome.done() for handler in [*handlers, connecting])
    gc.collect()  # nothing is left behind that would warn


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command to make a certificate")
    return path


async def test_encrypted_connections(certificate: Path) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate.with_suffix(".crt"), certificate)
    trusting = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    async with UpstreamServer(raw(HELLO), ssl_context=server_context) as server:
        client = Client(parse_base_url(server.url), Timeouts(**LONG), 10, trusting)
        for _ in range(2):
            assert await ask(client).end() is None
        assert len(server.requests) == 2
        await client.close()
        wary = Client(parse_base_url(server.url), Timeouts(**LONG), 10)
        error = await ask(wary).end()
        await wary.close()
        assert error is not None
        assert error.reason == "PROVIDER_UNREACHABLE"


def test_base_urls() -> None:
    address = parse_base_url("https://api.example.org/openai/v1/?api-version=1")
    assert (address.host, address.port, address.tls, address.authority) == (
        "api.example.org",
        443,
        True,
        "api.example.org",
    )
    assert address.target("/chat/completions") == "/openai/v1/chat/completions?api-version=1"
    assert parse_base_url("http://[::1]:8080").authority == "[::1]:8080"
    assert address.target("/x?alt=sse") == "/openai/v1/x?alt=sse&api-version=1"
    assert parse_base_url("http://localhost").target("/x") == "/x"


@pytest.mark.parametrize(
    "url", ["", "api.example.org", "ftp://x/", "http://", "http://u:p@x/", "http://x:99999/", "http://[::1"]
)
def test_wrong_base_urls(url: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_base_url(url)
