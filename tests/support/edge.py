"""A real edge for tests, before whatever core, and its clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import CollectorRegistry

from dragoman_edge.app import RunningEdge, start_edge
from dragoman_edge.settings import EdgeSettings
from tests.support.core import KEY

if TYPE_CHECKING:
    from tests.support.core import AnyChannel

BEARER = {"Authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def running_edge(
    channel: AnyChannel, *, registry: CollectorRegistry | None = None, spans: Any = None, **settings: Any
) -> AsyncIterator[RunningEdge]:
    """Yields an edge on any free port; `spans` is a tracer provider."""
    chosen = EdgeSettings(**{"port": 0, "drain_timeout": 1, **settings})
    edge = await start_edge(channel, chosen, CollectorRegistry() if registry is None else registry, spans)
    try:
        yield edge
    finally:
        await edge.stop()


def url_of(edge: RunningEdge) -> str:
    return f"http://{edge.host}:{edge.port}"


def client_of(edge: RunningEdge, headers: Mapping[str, str] = BEARER, *, timeout: float = 30) -> aiohttp.ClientSession:
    """Returns a client of an edge, with as many connections as it needs."""
    return aiohttp.ClientSession(
        url_of(edge),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout),
        connector=aiohttp.TCPConnector(limit=0),
    )
