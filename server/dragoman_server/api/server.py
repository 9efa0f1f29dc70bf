"""The gRPC services on a port or socket, and in the process: the same servicers behind the same interceptors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc

from dragoman.v1 import (
    account_service_pb2_grpc,
    catalog_service_pb2_grpc,
    conversation_service_pb2_grpc,
    credit_service_pb2_grpc,
    embedding_service_pb2_grpc,
    persona_service_pb2_grpc,
    run_service_pb2_grpc,
    tunnel_service_pb2_grpc,
    usage_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_server.api.account import AccountServicer
    from dragoman_server.api.catalog import CatalogServicer
    from dragoman_server.api.conversation import ConversationServicer
    from dragoman_server.api.credit import CreditServicer
    from dragoman_server.api.embedding import EmbeddingServicer
    from dragoman_server.api.persona import PersonaServicer
    from dragoman_server.api.run import RunServicer
    from dragoman_server.api.tunnel import TunnelServicer
    from dragoman_server.api.usage import UsageServicer

SERVICES = (
    "dragoman.v1.RunService",
    "dragoman.v1.CatalogService",
    "dragoman.v1.EmbeddingService",
    "dragoman.v1.AccountService",
    "dragoman.v1.CreditService",
    "dragoman.v1.UsageService",
    "dragoman.v1.ConversationService",
    "dragoman.v1.PersonaService",
)
"""Full names of the services, for health and reflection."""

TUNNEL_SERVICE = "dragoman.v1.TunnelService"
"""Full name of the service that only a port has: within the process there is nothing to save."""

KEEPALIVE_OPTIONS: list[tuple[str, Any]] = [
    # Streams may be silent for long; clients may ask whether the connection lives as often as they like.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two servers must not share a port by accident.
    ("grpc.so_reuseport", 0),
]


class Servicers(Protocol):
    """The servicers of a core."""

    @property
    def run(self) -> RunServicer:
        """Serves RunService."""

    @property
    def catalog(self) -> CatalogServicer:
        """Serves CatalogService."""

    @property
    def embedding(self) -> EmbeddingServicer:
        """Serves EmbeddingService."""

    @property
    def account(self) -> AccountServicer:
        """Serves AccountService."""

    @property
    def credit(self) -> CreditServicer:
        """Serves CreditService."""

    @property
    def usage(self) -> UsageServicer:
        """Serves UsageService."""

    @property
    def conversation(self) -> ConversationServicer:
        """Serves ConversationService."""

    @property
    def persona(self) -> PersonaServicer:
        """Serves PersonaService."""

    @property
    def health(self) -> Any:
        """Serves grpc.health.v1.Health."""


def add_services(server: Any, servicers: Servicers) -> None:
    """Adds all services to a `grpc.aio` server or an in-process one."""
    run_service_pb2_grpc.add_RunServiceServicer_to_server(servicers.run, server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(servicers.catalog, server)
    embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicers.embedding, server)
    account_service_pb2_grpc.add_AccountServiceServicer_to_server(servicers.account, server)
    credit_service_pb2_grpc.add_CreditServiceServicer_to_server(servicers.credit, server)
    usage_service_pb2_grpc.add_UsageServiceServicer_to_server(servicers.usage, server)
    conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server(servicers.conversation, server)
    persona_service_pb2_grpc.add_PersonaServiceServicer_to_server(servicers.persona, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicers.health, server)  # type: ignore[no-untyped-call]  # has no stubs


def make_grpc_server(
    servicers: Servicers,
    tunnels: TunnelServicer,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    *,
    max_message_bytes: int,
    reflection: bool,
) -> grpc.aio.Server:
    """Returns a `grpc.aio` server with all services and the tunnels, not yet bound or started."""
    options = [
        *KEEPALIVE_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    server = grpc.aio.server(interceptors=list(interceptors), options=options)
    add_services(server, servicers)
    tunnel_service_pb2_grpc.add_TunnelServiceServicer_to_server(tunnels, server)
    if reflection:
        from grpc_reflection.v1alpha import reflection as grpc_reflection

        names = (*SERVICES, TUNNEL_SERVICE, "grpc.health.v1.Health", grpc_reflection.SERVICE_NAME)
        grpc_reflection.enable_server_reflection(names, server)  # type: ignore[no-untyped-call]  # has no stubs
    return server
