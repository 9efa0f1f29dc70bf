from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from dragoman.tunnel import TunnelChannel
from dragoman.v1 import run_service_pb2_grpc
from dragoman_server.inprocess import InProcessServer
from tests.support.echo_service import EchoService, Notes, NotingInterceptor, RawService
from tests.support.lanes import MAX_BYTES, Lane, TunnelServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["inprocess", "tcp", "unix", "tunnel"])
async def lane(request: pytest.FixtureRequest) -> AsyncIterator[Lane]:
    kind: str = request.param
    notes = Notes()
    service = EchoService(notes)  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED
    interceptors = [NotingInterceptor(notes)]
    limits = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]
    if kind == "inprocess":
        server: Any = InProcessServer(interceptors, max_message_bytes=MAX_BYTES, check_frozen=True)
    elif kind == "tunnel":
        inner = InProcessServer(interceptors, max_message_bytes=MAX_BYTES, check_frozen=True)
        server = TunnelServer(inner, grpc.aio.server(interceptors=interceptors, options=limits))
    else:
        server = grpc.aio.server(interceptors=interceptors, options=limits)
    run_service_pb2_grpc.add_RunServiceServicer_to_server(service, server)
    server.add_generic_rpc_handlers((RawService(notes).handlers(),))

    # Short, for a socket's path is limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="lane-"))
    if kind == "inprocess":
        channel: Any = server.channel()
    else:
        address = "127.0.0.1:0" if kind == "tcp" else f"unix:{folder}/s"
        port = server.add_insecure_port(address)
        await server.start()
        target = f"127.0.0.1:{port}" if kind == "tcp" else address
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.aio.insecure_channel(target, options=unlimited)
        if kind == "tunnel":
            channel = TunnelChannel(channel)
            await channel.channel_ready()
    yield Lane(kind, channel, server, service, notes)
    await channel.close()
    await server.stop(None)
    shutil.rmtree(folder)
