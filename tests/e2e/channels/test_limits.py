from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from dragoman.streaming import StreamRpc, open_stream
from dragoman.v1 import run_service_pb2 as pb
from tests.support.lanes import MAX_BYTES, stream_request
from tests.support.sinks import KeepingSink

if TYPE_CHECKING:
    from tests.support.lanes import Lane


async def test_request_size(lane: Lane) -> None:
    request = pb.ExecuteRunRequest()
    request.spec.labels["do"] = "plain"
    request.request_id = "x" * (MAX_BYTES - request.ByteSize() - 4)  # one byte of tag, three of length
    assert request.ByteSize() == MAX_BYTES
    # The response repeats the id, but is smaller.
    assert (await lane.stub.ExecuteRun(request)).run.id == request.request_id
    larger = pb.ExecuteRunRequest(request_id=request.request_id + "x")
    larger.spec.labels["do"] = "plain"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lane.stub.ExecuteRun(larger)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == f"SERVER: Received message larger than max ({MAX_BYTES + 1} vs. {MAX_BYTES})"


async def test_response_size(lane: Lane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lane.execute("large", labels={"size": "150000"})
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == f"SERVER: Sent message larger than max (150008 vs. {MAX_BYTES})"


async def test_size_of_a_streamed_response(lane: Lane) -> None:
    call = lane.stub.StreamRun(stream_request("large_second", size="150000"))
    assert (await call.read()).run_id == "0"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == f"SERVER: Sent message larger than max (150004 vs. {MAX_BYTES})"


async def test_sizes_of_a_pushed_stream(lane: Lane) -> None:
    rpc = StreamRpc("/dragoman.v1.RunService/StreamRun", pb.StreamRunRequest, pb.StreamRunResponse)
    sink = KeepingSink()
    open_stream(lane.channel, rpc, stream_request("large_second", size="150000"), sink)
    assert (await sink.end()).details == f"SERVER: Sent message larger than max (150004 vs. {MAX_BYTES})"
    assert [message.run_id for message in sink.messages] == ["0"]
    sink = KeepingSink()
    open_stream(lane.channel, rpc, stream_request("count", text="x" * 150_000), sink)
    status = await sink.end()
    assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status.details.startswith("SERVER: Received message larger than max")
