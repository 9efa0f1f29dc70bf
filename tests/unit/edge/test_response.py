"""What `WholeResponse` puts on the wire, behind aiohttp's own server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from dragoman_edge.response import WholeResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

BODY = b'{"a": 1}'
HEADERS = {"Content-Type": "application/json", "Server": "dragoman"}


def whole() -> WholeResponse:
    return WholeResponse(BODY, HEADERS)


class Client:
    """A raw client on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, head: str) -> None:
        self.writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")

    async def head(self) -> tuple[str, Mapping[str, str]]:
        """Returns the status line and the headers; none may come twice."""
        async with asyncio.timeout(20):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = raw.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(one.split(": ", 1) for one in rest)
        assert len(headers) == len(rest)
        return line, headers

    async def body(self, size: int = len(BODY)) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Returns what comes until the server closes."""
        async with asyncio.timeout(20):
            return await self.reader.read()


@asynccontextmanager
async def client_of(make: Callable[[], WholeResponse]) -> AsyncIterator[Client]:
    """Serves what is made, and connects to it."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return make()

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await runner.cleanup()


async def test_a_connection_is_used_again() -> None:
    async with client_of(whole) as client:
        for _ in range(3):
            client.send("GET / HTTP/1.1\nHost: x")
            line, headers = await client.head()
            assert line == "HTTP/1.1 200 OK"
            assert parsedate_to_datetime(headers["Date"]).tzinfo is not None
            assert {**headers, "Date": ""} == {**HEADERS, "Content-Length": str(len(BODY)), "Date": ""}
            assert await client.body() == BODY


async def test_requests_sent_together_are_answered_in_turn() -> None:
    bodies = iter([b"one", b"two", b"three"])
    async with client_of(lambda: WholeResponse(next(bodies), {})) as client:
        for _ in range(3):
            client.send("GET / HTTP/1.1\nHost: x")
        for expected in (b"one", b"two", b"three"):
            assert (await client.head())[1]["Content-Length"] == str(len(expected))
            assert await client.body(len(expected)) == expected


async def test_head_has_the_length_but_no_body() -> None:
    async with client_of(whole) as client:
        for _ in range(2):
            client.send("HEAD / HTTP/1.1\nHost: x")
            assert (await client.head())[1]["Content-Length"] == str(len(BODY))
        client.send("GET / HTTP/1.1\nHost: x\nConnection: close")
        await client.head()
        assert await client.rest() == BODY


async def test_no_content_has_neither_body_nor_length() -> None:
    async with client_of(lambda: WholeResponse(b"", {"Allow": "GET"}, 204)) as client:
        client.send("OPTIONS / HTTP/1.1\nHost: x\nConnection: close")
        line, headers = await client.head()
        assert line == "HTTP/1.1 204 No Content"
        assert set(headers) == {"Allow", "Date", "Connection"}
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("request_head", "connection"),
    [
        ("GET / HTTP/1.1\nHost: x\nConnection: close", "close"),
        ("GET / HTTP/1.0\nHost: x", None),
    ],
)
async def test_a_client_that_wants_it_gets_the_connection_closed(request_head: str, connection: str | None) -> None:
    async with client_of(whole) as client:
        client.send(request_head)
        line, headers = await client.head()
        assert line == f"HTTP/{request_head[11:14]} 200 OK"
        assert headers.get("Connection") == connection
        assert await client.rest() == BODY


async def test_http_1_0_is_told_that_the_connection_stays() -> None:
    async with client_of(whole) as client:
        for _ in range(2):
            client.send("GET / HTTP/1.0\nHost: x\nConnection: keep-alive")
            assert (await client.head())[1]["Connection"] == "keep-alive"
            assert await client.body() == BODY


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
async def test_a_forced_close_is_told_once(headers: dict[str, str]) -> None:
    def closing() -> WholeResponse:
        response = WholeResponse(BODY, headers, 400)
        response.force_close()
        return response

    async with client_of(closing) as client:
        client.send("GET / HTTP/1.1\nHost: x")
        line, told = await client.head()
        assert line == "HTTP/1.1 400 Bad Request"
        assert told["Connection"] == "close"
        assert await client.rest() == BODY


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "\r\n\r\n<p>"])
async def test_a_header_cannot_bring_others(value: str) -> None:
    async with client_of(lambda: WholeResponse(BODY, {"x-dragoman-run-id": value})) as client:
        client.send("GET / HTTP/1.1\nHost: x")
        assert await client.rest() == b""


async def test_an_answer_larger_than_every_buffer_arrives_whole() -> None:
    body = bytes(range(256)) * 64 * 1024  # 16 MiB
    async with client_of(lambda: WholeResponse(body, {})) as client:
        client.send("GET / HTTP/1.1\nHost: x\nConnection: close")
        await client.head()
        assert await client.rest() == body
