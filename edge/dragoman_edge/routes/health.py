"""Whether the server lives, whether it is ready, and what it counts. None of these needs a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dragoman.reasons import Reason
from dragoman_edge.errors import EdgeError
from dragoman_edge.response import WholeResponse
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from aiohttp.web import StreamResponse

    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange

_TIMEOUT = 5.0
"""Seconds that the core may take to say how it is."""


def health_routes(edge: Edge) -> list[Route]:
    """Returns the routes of health and metrics."""
    check = health_pb2_grpc.HealthStub(edge.core.channel).Check  # type: ignore[no-untyped-call]

    async def live(exchange: Exchange) -> StreamResponse:
        return exchange.json(b'{"status":"ok"}')

    async def ready(exchange: Exchange) -> StreamResponse:
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise EdgeError("The core does not answer.", reason=Reason.OVERLOADED, code="not_ready") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise EdgeError("The model is not loaded yet.", reason=Reason.MODEL_NOT_READY, code="not_ready")
        return exchange.json(b'{"status":"ready"}')

    async def metrics(exchange: Exchange) -> StreamResponse:
        headers = exchange.headers | {"Content-Type": CONTENT_TYPE_LATEST}
        return WholeResponse(generate_latest(edge.registry), headers)

    status = {"application/json": "Status"}
    return [
        Route(
            "GET",
            "/healthz",
            live,
            tag="Operation",
            summary="Tells that the server lives.",
            answers=status,
            public=True,
        ),
        Route(
            "GET",
            "/readyz",
            ready,
            tag="Operation",
            summary="Tells whether requests can be answered.",
            description="503 until the model is loaded.",
            answers=status,
            public=True,
        ),
        Route(
            "GET",
            "/metrics",
            metrics,
            tag="Operation",
            summary="Returns the metrics, as Prometheus reads them.",
            answers={"text/plain": ""},
            public=True,
        ),
    ]
