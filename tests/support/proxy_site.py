"""An edge before a core that may call one server, which callers name; and a client that sends targets as they are."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from dragoman_server.settings import ProxySettings
from tests.support import upstream_gemini
from tests.support.core import KEY, running_core
from tests.support.edge import running_edge
from tests.support.upstream_server import UpstreamServer, chat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from dragoman_server.app import Core
    from tests.support.upstream_server import Connection, Request

UPSTREAM_KEY = "sk-upstream-0123456789"
BOUND = 20.0
"""Seconds after which a test has failed."""


@dataclass
class Answer:
    """An answer of the edge."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


@dataclass
class Site:
    """An edge and a core whose allow-list names one server."""

    core: Core
    upstream: UpstreamServer
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def post(self, target: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """Sends a request whose target stands in the request line exactly as it is given."""
        fields = {"Authorization": f"Bearer {KEY}"} if headers is None else headers
        return await self.send("POST", target, json.dumps(body).encode(), fields)

    async def send(self, method: str, target: str, body: bytes, fields: Mapping[str, str]) -> Answer:
        fields = {"Host": "edge", "Connection": "close", "Content-Length": str(len(body)), **fields}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {target} HTTP/1.1\r\n{lines}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        try:
            writer.write(head.encode("utf-8", "surrogateescape") + body)
            async with asyncio.timeout(BOUND):
                raw = await reader.read()
        finally:
            writer.close()
        top, _, rest = raw.partition(b"\r\n\r\n")
        line, *pairs = top.decode().split("\r\n")
        received = {name.lower(): value for name, value in (pair.split(": ", 1) for pair in pairs)}
        if received.get("transfer-encoding") == "chunked":
            rest = _joined(rest)
        return Answer(int(line.split(" ")[1]), received, rest)


def _joined(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + data[:length], data[length + 2 :]
    return body


def completion(content: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


async def both_dialects(request: Request, connection: Connection) -> None:
    """Answers in the dialect of the path."""
    answer = chat() if request.head.split(" ")[1].endswith("/chat/completions") else upstream_gemini.generate()
    await answer(request, connection)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(UpstreamServer(both_dialects))
        core = await stack.enter_async_context(running_core(proxy=ProxySettings(allow=(upstream.url,))))
        edge = await stack.enter_async_context(
            running_edge(core.channel(), registry=core.registry, proxy_default_model="fast")
        )
        yield Site(core, upstream, edge.port)
