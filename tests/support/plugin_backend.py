"""A plugin in this process: a real gRPC server of `ModelBackend` that plays scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from dragoman.plugin.v1 import model_backend_pb2_grpc
from dragoman.plugin.v1.model_backend_pb2 import DescribeRequest, DescribeResponse, GenerateRequest, GenerateResponse
from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities
from dragoman.v1.sampling_pb2 import Modality
from dragoman_server.errors import DragomanError
from dragoman_server.providers.base import GenerationFailed, GenerationRequest, iterate
from dragoman_server.providers.scripted import ScriptedProvider

MODEL = Model(
    id="m",
    context_length=1000,
    input_modalities=[Modality.MODALITY_TEXT],
    output_modalities=[Modality.MODALITY_TEXT],
    capabilities=ModelCapabilities(chat=True, tools=True, json_schema=True, json_object=True, logprobs=True),
)


@dataclass
class Backend(model_backend_pb2_grpc.ModelBackendServicer):
    """Plays the script that the last user message brings, and records what it is asked for."""

    key: str = ""
    requests: list[GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    cancelled: int = 0
    scripted: ScriptedProvider = field(default_factory=lambda: ScriptedProvider("backend"))

    async def Describe(self, request: DescribeRequest, context: Any) -> DescribeResponse:
        return DescribeResponse(name="scripted", version="1", models=[MODEL])

    async def Generate(self, request: GenerateRequest, context: Any) -> AsyncIterator[GenerateResponse]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        ended = False
        try:
            asked = GenerationRequest(request.spec, "echo", request.choice_index, request.incremental)
            async for batch in iterate(self.scripted, asked):
                yield GenerateResponse(events=batch.events)
            ended = True
        except GenerationFailed as error:
            ended = True
            yield GenerateResponse(failure=error.failure)
        except DragomanError as error:
            ended = True
            yield GenerateResponse(failure=error.to_failure())
        finally:
            self.cancelled += not ended


@asynccontextmanager
async def serving(
    backend: model_backend_pb2_grpc.ModelBackendServicer, address: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    """Serves a backend, and yields its address."""
    server = grpc.aio.server()
    model_backend_pb2_grpc.add_ModelBackendServicer_to_server(backend, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
