"""A real core behind a tunnel: whose its calls are, and what becomes of runs when it breaks or the core stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from dragoman.streaming import StreamRpc, open_stream
from dragoman.tunnel import TunnelChannel
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.run_pb2 import DisconnectPolicy, Run
from dragoman.v1.run_service_pb2 import GetRunRequest, StreamRunRequest, StreamRunResponse
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman.v1.tunnel_service_pb2 import CallMetadata, ConnectRequest, OpenCall, RequestFrame
from dragoman.v1.tunnel_service_pb2_grpc import TunnelServiceStub
from dragoman_server.app import Core
from tests.support.core import METADATA, channel_to, running_core
from tests.support.runs import chat_spec
from tests.support.sinks import KeepingSink

STREAM_RUN = StreamRpc("/dragoman.v1.RunService/StreamRun", StreamRunRequest, StreamRunResponse)
POLICIES = (DisconnectPolicy.DISCONNECT_POLICY_CANCEL, DisconnectPolicy.DISCONNECT_POLICY_DETACH)


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with running_core() as running:
        yield running


def hanging(policy: DisconnectPolicy) -> StreamRunRequest:
    request = StreamRunRequest(spec=chat_spec(text=["a", "b"], hang=True), request_id=str(policy))
    request.spec.disconnect_policy = policy
    return request


async def test_a_cut_tunnel_is_a_disconnect_of_every_run_in_it(core: Core) -> None:
    async with channel_to(core, "tcp") as channel:
        tunnel: Any = TunnelServiceStub(channel).Connect()
        metadata = [CallMetadata(key=key, text=value) for key, value in METADATA]
        request = ConnectRequest()
        for number, policy in enumerate(POLICIES):
            data = hanging(policy).SerializeToString()
            opening = OpenCall(method=STREAM_RUN.path, metadata=metadata, request=data, request_size=len(data))
            request.frames.append(RequestFrame(call_id=number, open=opening))
        await tunnel.write(request)
        run_ids: dict[int, str] = {}
        async with asyncio.timeout(10):
            while len(run_ids) < 2:
                for frame in (await tunnel.read()).frames:
                    run_ids[frame.call_id] = StreamRunResponse.FromString(frame.message).run_id
        tunnel.cancel()
        stub: Any = RunServiceStub(channel)
        async with asyncio.timeout(10):
            while (ended := await get(stub, run_ids[0])).state == Run.STATE_RUNNING:
                await asyncio.sleep(0.02)
        assert (ended.state, ended.cancel_reason) == (Run.STATE_CANCELLED, CancelReason.CANCEL_REASON_DISCONNECTED)
        assert (await get(stub, run_ids[1])).state == Run.STATE_RUNNING


async def get(stub: Any, run_id: str) -> Run:
    run: Run = (await stub.GetRun(GetRunRequest(run_id=run_id), metadata=METADATA)).run
    return run


async def test_the_tunnel_grants_nothing(core: Core) -> None:
    async with channel_to(core, "tunnel") as channel:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            sink = KeepingSink()
            open_stream(channel, STREAM_RUN, StreamRunRequest(spec=chat_spec()), sink, metadata=metadata)
            assert (await sink.end()).code is grpc.StatusCode.UNAUTHENTICATED
            assert not sink.messages


async def test_a_core_that_stops_tells_every_call_and_ends_the_tunnel() -> None:
    async with running_core() as core, channel_to(core, "tunnel") as channel:
        assert isinstance(channel, TunnelChannel)
        sinks = [KeepingSink() for _ in POLICIES]
        for policy, sink in zip(POLICIES, sinks, strict=True):
            open_stream(channel, STREAM_RUN, hanging(policy), sink, metadata=METADATA)
            await sink.count(1)
        async with asyncio.timeout(20):
            await core.stop(0)
        for sink in sinks:
            assert (await sink.end()).code is grpc.StatusCode.OK
            assert sink.messages[-1].events[-1].run_cancelled.reason == CancelReason.CANCEL_REASON_SHUTDOWN
