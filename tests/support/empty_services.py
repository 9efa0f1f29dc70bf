"""Services of the contract that answer every call with an empty message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from dragoman.v1 import (
    account_service_pb2,
    conversation_service_pb2,
    credit_service_pb2,
    persona_service_pb2,
    usage_service_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

_MODULES = (
    account_service_pb2,
    conversation_service_pb2,
    credit_service_pb2,
    persona_service_pb2,
    usage_service_pb2,
)


def add_empty_services(server: grpc.aio.Server) -> None:
    """Adds the services of accounts, conversations, credits, personas and usage."""
    for module in _MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            handlers = {method.name: _handler(method) for method in service.methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def _handler(method: MethodDescriptor) -> Any:
    answer = GetMessageClass(method.output_type)()

    async def once(request: bytes, context: Any) -> bytes:
        return answer.SerializeToString()

    async def stream(request: bytes, context: Any) -> Any:
        yield answer.SerializeToString()

    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(once)
