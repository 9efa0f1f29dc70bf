"""Whether the server lives, whether it is ready, and what it counts. None of these needs a key; one may tell more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import orjson
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import ModelTarget
from dragoman_edge.auth import credential_of
from dragoman_edge.calls import all_models
from dragoman_edge.errors import EdgeError
from dragoman_edge.http.response import Response
from dragoman_edge.routing import Parameter, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange

_TIMEOUT = 5.0
"""Seconds that the core may take to say how it is."""
_VERBOSE = Parameter(
    "verbose", "query", "With an API key: tells of every target how it fares, also while the server is not ready."
)


def health_routes(edge: Edge) -> list[Route]:
    """Returns the routes of health and metrics."""
    check = health_pb2_grpc.HealthStub(edge.core.channel).Check  # type: ignore[no-untyped-call]

    async def live(exchange: Exchange) -> Response:
        return exchange.json(b'{"status":"ok"}')

    async def ready(exchange: Exchange) -> Response:
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise EdgeError("The core does not answer.", reason=Reason.OVERLOADED, code="not_ready") from error
        serves = answer.status == health_pb2.HealthCheckResponse.SERVING
        if "verbose" in exchange.query() and (credential := credential_of(exchange.request)) is not None:
            models = await all_models(edge.core, exchange.metadata_with(credential), _TIMEOUT)
            told = exchange.json(
                orjson.dumps({"status": "ready" if serves else "not_ready", "targets": _targets(models)})
            )
            told.status = 200 if serves else 503
            return told
        if not serves:
            message = "The server is not ready: a model is still being loaded, or the server shuts down."
            raise EdgeError(message, reason=Reason.MODEL_NOT_READY, code="not_ready")
        return exchange.json(b'{"status":"ready"}')

    async def metrics(exchange: Exchange) -> Response:
        headers = exchange.headers | {"Content-Type": CONTENT_TYPE_LATEST}
        return Response(generate_latest(edge.registry), headers)

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
            description="503 while a model is being loaded, and while the server drains.",
            parameters=(_VERBOSE,),
            answers={"application/json": "Readiness"},
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


def _targets(models: Iterable[Model]) -> list[dict[str, Any]]:
    """Returns every target once, with the models that it serves."""
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for model in models:
        for target in model.targets:
            entry = told.setdefault((target.provider, target.upstream_model), _target(target))
            entry["models"].append(model.id)
    return list(told.values())


def _target(target: ModelTarget) -> dict[str, Any]:
    told = {
        "provider": target.provider,
        "upstream_model": target.upstream_model,
        "health": ModelTarget.Health.Name(target.health).removeprefix("HEALTH_").lower(),
        "in_flight": target.in_flight,
        "queued": target.queued,
        "latency_ms": target.latency_ms,
        "models": [],
    }
    if target.fault:
        told["fault"] = target.fault
    return told
