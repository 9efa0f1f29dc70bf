"""One server behind each kind of channel, for tests that must hold on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.wrappers_pb2 import StringValue

from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc, tunnel_service_pb2_grpc
from dragoman_server.api.tunnel import TunnelServicer

if TYPE_CHECKING:
    import grpc

    from dragoman_server.inprocess import InProcessServer
    from tests.support.echo_service import EchoService, Notes

MAX_BYTES = 100_000
"""Largest message that the servers take and send."""


class TunnelServer:
    """A server that offers tunnels, with the services of an in-process one behind them; stopped as a core stops."""

    def __init__(self, inner: InProcessServer, outer: grpc.aio.Server) -> None:
        self.inner = inner
        self.outer = outer
        self.tunnels = TunnelServicer(inner.channel(), inner.max_message_bytes)
        tunnel_service_pb2_grpc.add_TunnelServiceServicer_to_server(self.tunnels, outer)
        self.add_insecure_port = outer.add_insecure_port
        self.start = outer.start

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        for server in (self.inner, self.outer):
            server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, handlers: Any) -> None:
        for server in (self.inner, self.outer):
            server.add_registered_method_handlers(service_name, handlers)

    async def stop(self, grace: float | None) -> None:
        await self.inner.stop(grace)
        self.tunnels.stop()
        await self.outer.stop(grace)


@dataclass
class Lane:
    """A channel of one kind to a server of the test's own."""

    kind: str
    channel: Any
    server: Any
    service: EchoService
    notes: Notes

    @property
    def stub(self) -> Any:
        return run_service_pb2_grpc.RunServiceStub(self.channel)

    def raw(self, kind: str, name: str) -> Any:
        return getattr(self.channel, kind)(
            f"/test.Raw/{name}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )

    def execute(self, do: str, request_id: str = "", /, *, labels: dict[str, str] | None = None, **call: Any) -> Any:
        request = pb.ExecuteRunRequest(request_id=request_id)
        request.spec.labels.update({"do": do, **(labels or {})})
        return self.stub.ExecuteRun(request, **call)

    def stream(self, do: str, messages: int = 0, /, **call: Any) -> Any:
        return self.stub.StreamRun(stream_request(do, messages), **call)


def stream_request(do: str, messages: int = 0, **labels: str) -> pb.StreamRunRequest:
    request = pb.StreamRunRequest()
    request.spec.labels.update({"do": do, "messages": str(messages), **labels})
    return request
