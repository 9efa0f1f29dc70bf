"""Reflection and health: a client that knows nothing of the contract finds the services and calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Server

TIMEOUT = 30.0
SERVICES = {"dragoman.v1.AccountService", "dragoman.v1.CatalogService", "dragoman.v1.RunService"}


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, request: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Calls `package.Service/Method` as grpcurl does: by what the server says of itself, in JSON."""
    service_name, method_name = method.split("/")
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    descriptor = pool.FindServiceByName(service_name).methods_by_name[method_name]
    request_type, response_type = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
    make: Any = channel.unary_stream if descriptor.server_streaming else channel.unary_unary
    done = make(f"/{method}", request_type.SerializeToString, response_type.FromString)(
        json_format.ParseDict(request, request_type()), timeout=TIMEOUT, metadata=(("authorization", f"Bearer {key}"),)
    )
    return [json_format.MessageToDict(message) for message in (done if descriptor.server_streaming else [done])]


def check_health(channel: grpc.Channel, service: str) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)


def test_lists_the_services_without_a_key(channel: grpc.Channel) -> None:
    listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert listed >= SERVICES | {"grpc.health.v1.Health"}


def test_describes_every_method(channel: grpc.Channel) -> None:
    from dragoman.v1 import account_service_pb2, catalog_service_pb2, run_service_pb2

    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    for file in (account_service_pb2, catalog_service_pb2, run_service_pb2):
        for name, known in file.DESCRIPTOR.services_by_name.items():
            assert [method.name for method in pool.FindServiceByName(f"dragoman.v1.{name}").methods] == [
                method.name for method in known.methods
            ]


def test_calls_by_description(channel: grpc.Channel, server: Server) -> None:
    [listing] = call(channel, "dragoman.v1.CatalogService/ListModels", {}, server.key)
    assert "demo" in [model["id"] for model in listing["models"]]
    message = {"role": "ROLE_USER", "parts": [{"text": {"text": "hello there"}}]}
    request = {"spec": {"chat": {"messages": [message]}}}
    batches = call(channel, "dragoman.v1.RunService/StreamRun", request, server.key)
    events = [event for batch in batches for event in batch["events"]]
    assert "".join(event["textDelta"]["text"] for event in events if "textDelta" in event) == "You said: hello there"
    assert "runCompleted" in events[-1]
    [executed] = call(channel, "dragoman.v1.RunService/ExecuteRun", request, server.key)
    assert executed["run"]["state"] == "STATE_COMPLETED"


def test_description_is_free_but_calls_are_not(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "dragoman.v1.CatalogService/ListModels", {}, "dgm_nobody")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_health_needs_no_key(channel: grpc.Channel, service: str) -> None:
    assert check_health(channel, service).status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        check_health(channel, "no.Such")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
