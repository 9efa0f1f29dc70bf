from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from dragoman_edge.app import start_edge
from dragoman_edge.settings import EdgeSettings
from tests.support.fake_core import FakeCore, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from dragoman_edge.app import RunningEdge

# Times that only tests of silence wait for are short; what must not pass on a busy machine is long.
SETTINGS = EdgeSettings(port=0, hold_headers=5, keep_alive=0.1, body_timeout=5, drain_timeout=2, max_connections=64)

holds_briefly = pytest.mark.parametrize("settings", [replace(SETTINGS, hold_headers=0.3)], ids=["holds_briefly"])
"""Marks tests of streams that say nothing for longer than the status line waits."""


@dataclass
class Site:
    """An edge before a fake core, and a client."""

    core: FakeCore
    edge: RunningEdge
    client: aiohttp.ClientSession
    registry: CollectorRegistry
    stop_core: Callable[[], Any]

    @property
    def url(self) -> str:
        return f"http://{self.edge.host}:{self.edge.port}"

    async def connect(self, limit: int = 2**16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a raw connection; what is not read stays with the kernel and the edge, but for `limit` bytes."""
        return await asyncio.open_connection(self.edge.host, self.edge.port, limit=limit)

    async def send(self, request: bytes, *, timeout: float = 10) -> bytes:
        """Sends bytes on a connection of their own and returns all that comes back until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            async with asyncio.timeout(timeout):
                return await reader.read()
        finally:
            writer.close()

    def raw_request(self, body: Any, *, headers: Mapping[str, str] | None = None, version: str = "1.1") -> bytes:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "x", "Authorization": "Bearer sk-test", "Content-Type": "application/json"}
        fields |= {"Content-Length": str(len(data))} | dict(headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST /v1/chat/completions HTTP/{version}\r\n{head}\r\n".encode() + data


@pytest.fixture
def settings() -> EdgeSettings:
    return SETTINGS


@pytest.fixture
async def site(settings: EdgeSettings) -> AsyncIterator[Site]:
    core = FakeCore()
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(serve(core))
        edge = await start_edge(channel, replace(settings, port=0), registry)
        stack.push_async_callback(edge.stop)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(
                base_url=f"http://{edge.host}:{edge.port}",
                headers={"Authorization": "Bearer sk-test"},
                timeout=aiohttp.ClientTimeout(total=20),
            )
        )
        yield Site(core, edge, client, registry, core.stop)
