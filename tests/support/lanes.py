"""One server behind each kind of channel, for tests that must hold on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.wrappers_pb2 import StringValue

from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc

if TYPE_CHECKING:
    from tests.support.echo_service import EchoService, Notes

MAX_BYTES = 100_000
"""Largest message that the servers take and send."""


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
