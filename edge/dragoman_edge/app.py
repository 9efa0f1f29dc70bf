"""Builds and starts an edge. It is told which channel leads to the core, and constructs nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from dragoman_edge.calls import Core
from dragoman_edge.edge import Edge
from dragoman_edge.metrics import EdgeMetrics
from dragoman_edge.routes.chat import chat_routes
from dragoman_edge.routes.docs import docs_routes
from dragoman_edge.routes.health import health_routes
from dragoman_edge.routes.models import model_routes
from dragoman_edge.routes.runs import run_routes
from dragoman_edge.routing import Route, Router
from dragoman_edge.server import EdgeServer

if TYPE_CHECKING:
    import grpc
    from prometheus_client import CollectorRegistry

    from dragoman_edge.settings import EdgeSettings

_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class RunningEdge:
    """An edge that listens.

    Attributes:
        host: The address it listens on.
        port: The port it listens on; the real one, if any free one was asked for.
    """

    host: str
    port: int
    _runner: web.ServerRunner

    async def stop(self) -> None:
        """Takes no more connections, lets answers finish for up to `drain_timeout`, then cuts them off."""
        await self._runner.cleanup()


def build_routes(edge: Edge) -> list[Route]:
    """Returns everything that an edge answers."""
    routes = [*chat_routes(edge), *model_routes(edge), *run_routes(edge), *health_routes(edge)]
    routes += docs_routes(lambda: routes)
    return routes


async def start_edge(channel: grpc.aio.Channel, settings: EdgeSettings, registry: CollectorRegistry) -> RunningEdge:
    """Starts an edge.

    Args:
        channel: Leads to the core: the in-process channel or a `grpc.aio` channel. Whoever made it closes it.
        settings: The knobs.
        registry: Takes the edge's metrics, and is what `/metrics` shows.

    Raises:
        OSError: If the port cannot be had.
    """
    metrics = EdgeMetrics(registry)
    edge = Edge(Core(channel), settings, metrics, registry)
    server = EdgeServer(Router(build_routes(edge)), settings, metrics)
    # aiohttp waits for answers twice that long: before and after it tells their handlers that bodies are over.
    runner = web.ServerRunner(server, shutdown_timeout=settings.drain_timeout / 2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG)
        await site.start()
    except BaseException:
        await runner.cleanup()
        raise
    return RunningEdge(settings.host, runner.addresses[0][1], runner)
