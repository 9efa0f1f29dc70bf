"""Requests leave nothing to the garbage collector, which a server therefore runs seldom."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr

from dragoman.streaming import StreamRpc, open_stream
from dragoman.v1.conversation_service_pb2 import CreateConversationRequest
from dragoman.v1.conversation_service_pb2_grpc import ConversationServiceStub
from dragoman.v1.credit_service_pb2 import GrantCreditsRequest
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, StreamRunRequest, StreamRunResponse
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.settings import (
    CreditPriceSettings,
    CreditSettings,
    RateLimitSettings,
    RateSettings,
    StoreSettings,
)
from tests.support.core import KEY, METADATA, channel_to, running_core
from tests.support.edge import running_edge
from tests.support.runs import chat_spec
from tests.support.sinks import KeepingSink
from tests.support.stand import stand
from tests.support.upstream_server import raw, stream
from tests.support.waiting import until

REQUESTS = 20


def found(garbage: list[object]) -> list[str]:
    gc.collect()
    return sorted({type(thing).__qualname__ for thing in garbage})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_in_the_process_leaves_no_cycles(stream: bool, garbage: list[object]) -> None:
    async with running_core() as core:
        stub = RunServiceStub(core.channel())
        await stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec("hi")), metadata=METADATA)  # may import what is left
        gc.set_debug(0)  # what imports left is let go, not kept
        garbage.clear()
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for _ in range(REQUESTS):
            if stream:
                call = stub.StreamRun(StreamRunRequest(spec=chat_spec("hi")), metadata=METADATA)
                assert {type(batch) async for batch in call} == {StreamRunResponse}
            else:
                await stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec("hi")), metadata=METADATA)
        await asyncio.sleep(0.05)
        assert found(garbage) == []


@pytest.mark.parametrize("outcome", ["completed", "failed"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_is_paid_for_leaves_no_cycles(
    stream: bool, outcome: str, tmp_path: Path, garbage: list[object]
) -> None:
    """With limits, in a conversation or none, well ended or not."""
    prices = (CreditPriceSettings(request_micros=5, input_micros_per_million=10**6, output_micros_per_million=10**6),)
    sections = {
        "store": StoreSettings(url=SecretStr(f"sqlite:///{tmp_path}/dragoman.db")),
        "credits": CreditSettings(enabled=True, prices=prices, max_output_tokens=100),
        "rate_limits": RateLimitSettings(account=RateSettings(requests_per_minute=10_000)),
    }
    async with running_core(**sections) as core:
        channel = core.channel()
        stub, credits = RunServiceStub(channel), CreditServiceStub(channel)
        made = await ConversationServiceStub(channel).CreateConversation(CreateConversationRequest(), metadata=METADATA)
        await credits.GrantCredits(GrantCreditsRequest(account_id="default", amount_micros=10**9), metadata=METADATA)
        spec = chat_spec(text=["so", " far"], fail_after=2) if outcome == "failed" else chat_spec("hi")
        for number in range(REQUESTS + 2):
            spec.chat.conversation_id = made.conversation.id if number % 2 else ""
            if stream:
                call = stub.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA)
                assert {type(batch) async for batch in call} == {StreamRunResponse}
            else:
                await stub.ExecuteRun(ExecuteRunRequest(spec=spec), metadata=METADATA)
            if number == 1:  # the first of each kind may import what is left
                await asyncio.sleep(0.05)
                gc.set_debug(0)
                garbage.clear()
                gc.collect()
                gc.set_debug(gc.DEBUG_SAVEALL)
        await until(lambda: not core.runs.active)
        await asyncio.sleep(0.05)
        gc.collect()
        ours = {type(thing).__qualname__ for thing in garbage if type(thing).__module__.startswith("dragoman")}
        assert ours == set()  # SQLAlchemy leaves some of its own


async def test_a_run_in_a_tunnel_leaves_no_cycles(garbage: list[object]) -> None:
    rpc = StreamRpc("/dragoman.v1.RunService/StreamRun", StreamRunRequest, StreamRunResponse)
    async with running_core() as core, channel_to(core, "tunnel") as channel:
        stub = RunServiceStub(channel)
        for number in range(REQUESTS):
            sink = KeepingSink()
            open_stream(channel, rpc, StreamRunRequest(spec=chat_spec("hi")), sink, metadata=METADATA, timeout=60)
            assert (await sink.end()).code is grpc.StatusCode.OK
            await stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec("hi")), metadata=METADATA, timeout=60)
            if number == 0:  # opening the tunnel itself leaves some, as any call of gRPC does
                gc.set_debug(0)
                gc.collect()
                gc.set_debug(gc.DEBUG_SAVEALL)
        await asyncio.sleep(0.05)
        assert found(garbage) == []


@pytest.mark.parametrize("stream", [b"false", b"true"])
async def test_a_request_over_rest_leaves_no_cycles(stream: bytes, garbage: list[object]) -> None:
    body = b'{"stream": %b, "messages": [{"role": "user", "content": "hi"}]}' % stream
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    async with running_core() as core, running_edge(core.channel()) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        end = b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream == b"true" else b'"usage"'
        for number in range(REQUESTS + 1):
            writer.write(head.encode() + body)
            answer = b""
            while end not in answer:
                piece = await reader.read(65536)
                assert piece
                answer += piece
            await asyncio.sleep(0.01)
            if number == 0:  # the first one fills caches
                gc.collect()
                garbage.clear()
        assert found(garbage) == []
        writer.close()
        await writer.wait_closed()


async def test_a_reader_who_leaves_leaves_no_cycles(garbage: list[object]) -> None:
    """Its connection to the provider is closed with it."""
    begun = stream({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]}, end=b"")
    message = {"role": "user", "content": "hi"}
    async with stand(raw(begun, 600)) as site:
        for number in range(REQUESTS + 1):
            answer = await site.client.post(
                "/v1/chat/completions", json={"model": "m", "messages": [message], "stream": True}
            )
            await answer.content.readuntil(b'"a"')
            answer.close()
            await until(lambda: not site.core.runs.active and not site.upstreams[0].connections)
            if number == 0:
                gc.set_debug(0)
                gc.collect()
                gc.set_debug(gc.DEBUG_SAVEALL)
        await asyncio.sleep(0.05)
        gc.collect()
        ours = ("dragoman", "httptools")
        assert [thing for thing in garbage if type(thing).__module__.startswith(ours)] == []
