"""What the rules of a model do to a request, as its provider sees it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dragoman.v1.message_pb2 import FilePart, ImagePart, Message, Part, Role, TextPart
from dragoman.v1.run_pb2 import ChatSpec, RunSpec, TaskProfile
from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.settings import ModelSettings, ProviderSettings, VisionSettings
from tests.support.core import METADATA, running_core
from tests.support.upstream_server import UpstreamServer, chat


@asynccontextmanager
async def asking(vision: VisionSettings | None = None, **model: Any) -> AsyncIterator[tuple[Any, UpstreamServer]]:
    """Yields a core with a model `m` of these settings, and the server behind it."""
    async with UpstreamServer(chat()) as server:
        provider = ProviderSettings(name="up", dialect="openai_chat", base_url=server.url)
        models = (ModelSettings.model_validate({"id": "m", "provider": "up", "upstream_model": "echo", **model}),)
        sections = {"providers": (provider,), "models": models, "vision": vision or VisionSettings()}
        async with running_core(**sections) as core, core.channel() as channel:
            yield RunServiceStub(channel), server


def asked(
    *parts: Part, role: Role = Role.ROLE_USER, profile: TaskProfile | None = None, **sampling: Any
) -> ExecuteRunRequest:
    said = parts or (Part(text=TextPart(text="Hello")),)
    spec = ChatSpec(model="m", messages=[Message(role=role, parts=said)], task_profile=profile)
    for name, value in sampling.items():
        setattr(spec.sampling, name, value)
    return ExecuteRunRequest(spec=RunSpec(chat=spec))


async def refused(stub: Any, request: ExecuteRunRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ExecuteRun(request, metadata=METADATA)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.details() or ""


async def test_defaults_limits_and_presets_reach_the_provider() -> None:
    rules: dict[str, Any] = {
        "defaults": {"top_p": 0.8},
        "limits": {"temperature": {"min": 0, "max": 1}},
        "out_of_range": "clamp",
        "presets": {"coding": {"temperature": 0.1}, "general": {"temperature": 0.6}},
    }
    async with asking(**rules) as (stub, server):
        await stub.ExecuteRun(asked(), metadata=METADATA)
        await stub.ExecuteRun(asked(role=Role.ROLE_DEVELOPER), metadata=METADATA)
        await stub.ExecuteRun(asked(temperature=1.5, top_p=0.5), metadata=METADATA)
        await stub.ExecuteRun(asked(profile=TaskProfile.TASK_PROFILE_CODING), metadata=METADATA)
        values = [(request.json.get("temperature"), request.json.get("top_p")) for request in server.requests]
    assert values == [(0.6, 0.8), (0.1, 0.8), (1, 0.5), (0.1, 0.8)]


async def test_values_out_of_range_are_refused_unless_the_model_clamps() -> None:
    async with asking(limits={"temperature": {"min": 0, "max": 1}}) as (stub, server):
        assert "from 0 to 1" in await refused(stub, asked(temperature=1.5))
        assert server.requests == []


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


async def test_images_are_checked_before_the_provider_sees_them() -> None:
    good = Part(image=ImagePart(data=png(8, 8), media_type="image/png"))
    liar = Part(image=ImagePart(data=b"not a picture", media_type="image/png"))
    large = Part(image=ImagePart(data=png(4096, 8), media_type="image/png"))
    hidden = Part(file=FilePart(data=png(4096, 8), media_type="image/png"))
    remote = Part(image=ImagePart(url="https://example.org/a.png"))
    async with asking(VisionSettings(max_images=2, max_side=1024), remote_images="refuse") as (stub, server):
        assert "no image of a kind" in await refused(stub, asked(good, liar))
        assert "4096 x 8 pixels" in await refused(stub, asked(hidden))
        assert "4096 x 8 pixels" in await refused(stub, asked(large))
        assert "one image too many" in await refused(stub, asked(good, good, good))
        assert "is an address" in await refused(stub, asked(remote))
        assert server.requests == []
        await stub.ExecuteRun(asked(good), metadata=METADATA)
        assert len(server.requests) == 1


async def test_a_model_that_cannot_see_refuses_images() -> None:
    good = Part(image=ImagePart(data=png(8, 8), media_type="image/png"))
    async with asking(capabilities={"vision": False}) as (stub, server):
        assert "images" in await refused(stub, asked(good))
        assert server.requests == []
