"""Servers that a request names, over gRPC."""

from __future__ import annotations

import asyncio
import gc
import secrets
from typing import TYPE_CHECKING

import grpc
import pytest

from dragoman.v1.run_pb2 import Run, RunSpec, Upstream
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, StreamRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.settings import ProxySettings
from tests.support.core import CHANNELS, METADATA, channel_to, running_core
from tests.support.runs import chat_spec
from tests.support.upstream_server import UpstreamServer, chat

if TYPE_CHECKING:
    pass

KEY = "a-key-of-the-caller-0123456789"


def spec_for(url: str, *, model: str = "m", key: str = KEY) -> RunSpec:
    spec = chat_spec("hello", model=model, text=["Hel", "lo"])
    spec.chat.upstream.CopyFrom(Upstream(base_url=url, api_key=key, dialect="openai_chat"))
    return spec


@pytest.mark.parametrize("kind", CHANNELS)
async def test_a_run_at_a_server_of_the_callers_choice(kind: str) -> None:
    async with (
        UpstreamServer(chat()) as upstream,
        running_core(proxy=ProxySettings(allow=(upstream.url,))) as core,
        channel_to(core, kind) as channel,
    ):
        stub = RunServiceStub(channel)
        request = ExecuteRunRequest(spec=spec_for(upstream.url), request_id=secrets.token_hex(8))
        run = (await stub.ExecuteRun(request, metadata=METADATA, timeout=20)).run
        again = (await stub.ExecuteRun(request, metadata=METADATA, timeout=20)).run
        call = stub.StreamRun(StreamRunRequest(spec=spec_for(upstream.url)), metadata=METADATA, timeout=20)
        streamed = [batch async for batch in call]
    assert (run.state, run.provider, run.model, run.upstream_model) == (Run.STATE_COMPLETED, "proxy", "m", "m")
    assert again.id == run.id
    assert run.choices[0].message.parts[0].text.text == "Hello"
    assert run.usage.output_tokens > 0
    for told in (str(run), *map(str, streamed)):
        assert KEY not in told
        assert str(upstream.port) not in told
    assert [request.headers["authorization"] for request in upstream.requests] == [f"Bearer {KEY}"] * 2
    labels = {"provider": "proxy", "model": "other"}
    assert core.registry.get_sample_value("dragoman_target_attempts_total", labels) == 2
    assert core.registry.get_sample_value("dragoman_target_in_flight", labels) == 0


ALLOWED = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("allow", "spec", "reason"),
    [
        ((ALLOWED,), spec_for("http://127.0.0.1:1/v2"), b"UPSTREAM_NOT_ALLOWED"),
        ((ALLOWED,), spec_for(""), b"UPSTREAM_NOT_ALLOWED"),
        ((ALLOWED,), spec_for(ALLOWED, model=""), b"INVALID_REQUEST"),
        ((ALLOWED,), spec_for(ALLOWED, key="a b" + KEY), b"INVALID_REQUEST"),
        ((), spec_for(ALLOWED), b"UPSTREAM_NOT_ALLOWED"),
    ],
)
async def test_a_refused_run_is_none(allow: tuple[str, ...], spec: RunSpec, reason: bytes) -> None:
    async with running_core(proxy=ProxySettings(allow=allow)) as core:
        stub = RunServiceStub(core.channel())
        for run in (
            lambda: stub.ExecuteRun(ExecuteRunRequest(spec=spec), metadata=METADATA),
            lambda: stub.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await run()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            told = b"".join(value for _, value in caught.value.trailing_metadata() or () if isinstance(value, bytes))
            assert reason in told
            assert KEY.encode() not in told
            assert KEY not in (caught.value.details() or "")
        assert core.runs.active == 0


@pytest.mark.parametrize("streams", [False, True])
async def test_a_proxied_run_leaves_no_cycles_and_no_key(streams: bool, garbage: list[object]) -> None:
    async with UpstreamServer(chat()) as upstream, running_core(proxy=ProxySettings(allow=(upstream.url,))) as core:
        stub = RunServiceStub(core.channel())
        for number in range(10):
            spec = spec_for(upstream.url)
            if streams:
                call = stub.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA)
                assert [batch async for batch in call]
            else:
                await stub.ExecuteRun(ExecuteRunRequest(spec=spec), metadata=METADATA)
            await asyncio.sleep(0.02)
            if number == 0:  # the first one fills caches
                gc.collect()
                garbage.clear()
        gc.collect()
        assert (
            sorted({type(thing).__qualname__ for thing in garbage if "dragoman_server" in type(thing).__module__}) == []
        )
