"""The edge's HTTP server with a handler of the test's own, and a raw client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dragoman_edge.http.errors import HttpError
from dragoman_edge.http.limits import Limits
from dragoman_edge.http.response import Response
from dragoman_edge.http.server import Server
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from dragoman_edge.http.server import Handler


@dataclass
class Counts:
    open_connections: int = 0
    refused_connections: int = 0


@dataclass
class HttpSite:
    """A server that listens."""

    server: Server
    port: int
    counts: Counts = field(default_factory=Counts)

    async def connect(self, limit: int = 2**16) -> Client:
        """Opens a connection; what is not read stays with the kernel and the server, but for `limit` bytes."""
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))

    async def send(self, request: bytes) -> bytes:
        """Sends bytes on a connection of their own and returns all that comes back until the server closes."""
        client = await self.connect()
        try:
            client.writer.write(request)
            return await client.rest()
        finally:
            client.writer.close()


class Client:
    """A raw client on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, head: str, body: bytes = b"") -> None:
        """Sends a request; the head has plain line breaks, and none at its end."""
        self.writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    async def head(self) -> tuple[str, Mapping[str, str]]:
        """Returns the status line and the headers; none may come twice."""
        async with asyncio.timeout(PATIENCE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = raw.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(one.split(": ", 1) for one in rest)
        assert len(headers) == len(rest)
        return line, headers

    async def body(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def answer(self) -> tuple[int, bytes]:
        """Returns the status and the body of an answer with a length."""
        line, headers = await self.head()
        return int(line.split(" ")[1]), await self.body(int(headers["Content-Length"]))

    async def rest(self) -> bytes:
        """Returns what comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()


def tell(error: HttpError) -> Response:
    """Answers bad HTTP with its code."""
    return Response(error.code.encode(), {}, error.status)


@asynccontextmanager
async def http_site(handler: Handler, **limits: Any) -> AsyncIterator[HttpSite]:
    """Serves a handler."""
    counts = Counts()
    server = Server(handler, tell, Limits(**limits), counts, name="tested")
    site = HttpSite(server, await server.listen("127.0.0.1", 0), counts)
    try:
        yield site
    finally:
        await server.stop(0)
