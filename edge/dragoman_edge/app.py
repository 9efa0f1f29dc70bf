"""Builds and starts an edge. It is told which channel leads to the core, and constructs nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dragoman_edge.auth import guarded
from dragoman_edge.calls import Core
from dragoman_edge.edge import Edge
from dragoman_edge.metrics import EdgeMetrics
from dragoman_edge.outcome import watched
from dragoman_edge.request_log import log_requests
from dragoman_edge.routes.accounts import account_routes
from dragoman_edge.routes.alchemyst import proxy_routes
from dragoman_edge.routes.alchemyst_chat import alchemyst_chat_routes
from dragoman_edge.routes.alchemyst_chats import alchemyst_chats_routes
from dragoman_edge.routes.chat import chat_routes
from dragoman_edge.routes.conversations import conversation_routes
from dragoman_edge.routes.credits import credit_routes
from dragoman_edge.routes.docs import docs_routes
from dragoman_edge.routes.embeddings import embedding_routes
from dragoman_edge.routes.gemini import gemini_routes
from dragoman_edge.routes.gemini_embeddings import gemini_embedding_routes
from dragoman_edge.routes.health import health_routes
from dragoman_edge.routes.logins import login_routes
from dragoman_edge.routes.models import model_routes
from dragoman_edge.routes.personas import persona_routes
from dragoman_edge.routes.runs import run_routes
from dragoman_edge.routes.soke_chat import soke_chat_routes
from dragoman_edge.routes.soke_conversations import soke_conversation_routes
from dragoman_edge.routes.usage import usage_routes
from dragoman_edge.routing import Route, Router
from dragoman_edge.server import make_server

if TYPE_CHECKING:
    import grpc
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from dragoman_edge.http.server import Server
    from dragoman_edge.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class RunningEdge:
    """An edge that listens.

    Attributes:
        host: The address it listens on.
        port: The port it listens on; the real one, if any free one was asked for.
    """

    host: str
    port: int
    _server: Server
    _drain_timeout: float

    async def stop(self) -> None:
        """Takes no more connections, lets answers finish for up to `drain_timeout`, then cuts them off."""
        await self._server.stop(self._drain_timeout)


def build_routes(edge: Edge) -> list[Route]:
    """Returns everything that an edge answers."""
    families = (
        chat_routes,
        embedding_routes,
        gemini_embedding_routes,
        gemini_routes,
        proxy_routes,
        alchemyst_chat_routes,
        alchemyst_chats_routes,
        soke_chat_routes,
        soke_conversation_routes,
        model_routes,
        run_routes,
        credit_routes,
        usage_routes,
        conversation_routes,
        persona_routes,
        account_routes,
        login_routes,
        health_routes,
    )
    routes = [route for family in families for route in family(edge)]
    routes += docs_routes(lambda: routes)
    return routes


async def start_edge(
    channel: grpc.aio.Channel,
    settings: EdgeSettings,
    registry: CollectorRegistry,
    tracer_provider: TracerProvider | None = None,
) -> RunningEdge:
    """Starts an edge.

    Args:
        channel: Leads to the core: the in-process channel or a `grpc.aio` channel. Whoever made it closes it.
        settings: The knobs.
        registry: Takes the edge's metrics, and is what `/metrics` shows.
        tracer_provider: Where spans go; none are made if not given.

    Raises:
        OSError: If the port cannot be had.
    """
    metrics = EdgeMetrics(registry)
    edge = Edge(Core(channel), settings, metrics, registry)
    routes = guarded(build_routes(edge))
    if settings.log_requests:
        routes = watched(routes, log_requests)
    if tracer_provider is not None:
        from dragoman_edge.tracing import trace_requests

        routes = watched(routes, trace_requests(tracer_provider))
    server = make_server(Router(routes), settings, metrics)
    port = await server.listen(settings.host, settings.port)
    return RunningEdge(settings.host, port, server, settings.drain_timeout)
