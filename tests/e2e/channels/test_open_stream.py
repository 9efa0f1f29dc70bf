from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from dragoman.streaming import CallStatus, StreamHandle, StreamRpc, open_stream
from dragoman.v1 import run_service_pb2 as pb
from tests.support.lanes import stream_request
from tests.support.sinks import KeepingSink

if TYPE_CHECKING:
    from tests.support.lanes import Lane

STREAM = StreamRpc("/dragoman.v1.RunService/StreamRun", pb.StreamRunRequest, pb.StreamRunResponse)
WATCH = StreamRpc("/dragoman.v1.RunService/WatchRun", pb.WatchRunRequest, pb.WatchRunResponse)


def open_do(lane: Lane, sink: KeepingSink, do: str, messages: int = 0, **call: Any) -> StreamHandle:
    return open_stream(lane.channel, STREAM, stream_request(do, messages), sink, **call)


def ids(sink: KeepingSink) -> list[int]:
    return [int(message.run_id) for message in sink.messages]


@pytest.mark.parametrize("messages", [0, 1, 7, 50])
async def test_pushed_and_yielded_messages(lane: Lane, messages: int) -> None:
    pushed, yielded = KeepingSink(), KeepingSink()
    open_stream(lane.channel, WATCH, pb.WatchRunRequest(after_sequence=messages), pushed)
    open_do(lane, yielded, "count", messages)
    assert [pushed.messages, pushed.ends, yielded.messages, yielded.ends] == [[], [], [], []]
    for sink in (pushed, yielded):
        assert (await sink.end()).code is grpc.StatusCode.OK
        assert ids(sink) == list(range(messages))
    assert yielded.ends == [CallStatus(grpc.StatusCode.OK, "", (("sent", str(messages)),))]
    await asyncio.sleep(0.05)
    assert (len(pushed.ends), len(yielded.ends)) == (1, 1)


@pytest.mark.parametrize("messages", [0, 3])
async def test_failures(lane: Lane, messages: int) -> None:
    sink = KeepingSink()
    open_stream(lane.channel, WATCH, pb.WatchRunRequest(after_sequence=messages, run_id="fail"), sink)
    expected = CallStatus(grpc.StatusCode.OUT_OF_RANGE, "no more", (("kept", "3"),))
    assert await sink.end() == expected
    assert ids(sink) == list(range(messages))
    sink = KeepingSink()
    open_do(lane, sink, "count_then_fail", messages)
    assert await sink.end() == CallStatus(grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>: 'k'")
    assert ids(sink) == list(range(messages))


async def test_unknown_method(lane: Lane) -> None:
    sink = KeepingSink()
    rpc = StreamRpc("/dragoman.v1.RunService/Nothing", pb.WatchRunRequest, pb.WatchRunResponse)
    open_stream(lane.channel, rpc, pb.WatchRunRequest(), sink)
    assert await sink.end() == CallStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_metadata_reaches_the_handler(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count", metadata=(("mark", "m1"), ("x-bin", b"\xff")), timeout=30)
    assert (await sink.end()).code is grpc.StatusCode.OK
    await lane.notes.wait_for("mark m1 b'\\xff'")


async def test_deadline(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count_then_wait", 2, timeout=1)
    assert (await sink.end()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ids(sink) == [0, 1]
    await lane.notes.wait_for("cleaned up")


async def test_a_deadline_that_is_past(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count_then_wait", 2, timeout=-1)
    assert not sink.ends
    assert await sink.end() == CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert not sink.messages


@pytest.mark.parametrize("request_wait", ["count_then_wait", "push"])
async def test_cancel(lane: Lane, request_wait: str) -> None:
    sink = KeepingSink()
    if request_wait == "push":
        request = pb.WatchRunRequest(after_sequence=2, run_id="wait")
        handle = open_stream(lane.channel, WATCH, request, sink)
    else:
        handle = open_do(lane, sink, "count_then_wait", 2)
    await sink.count(2)
    await lane.notes.wait_for("waiting")
    handle.cancel()
    handle.cancel()
    assert not sink.ends
    assert await sink.end() == CallStatus(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
    await lane.notes.wait_for("cancelled")
    await lane.notes.wait_for("done True")
    handle.pause()
    handle.resume()
    handle.cancel()
    await asyncio.sleep(0.05)
    assert len(sink.ends) == 1


async def test_cancel_before_the_first_step(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count_then_wait", 2).cancel()
    assert not sink.ends
    assert (await sink.end()).code is grpc.StatusCode.CANCELLED
    await asyncio.sleep(0.05)
    assert (len(sink.ends), len(sink.messages)) == (1, 0)
    assert "waiting" not in lane.notes.lines


@pytest.mark.parametrize("at", [1, 2, 5])
async def test_cancel_from_inside_a_delivery(lane: Lane, at: int) -> None:
    handles: list[StreamHandle] = []
    calls: list[tuple[StreamRpc[Any, Any], Any]] = [
        (STREAM, stream_request("count_then_wait", 10)),
        (WATCH, pb.WatchRunRequest(after_sequence=10)),
    ]
    for rpc, request in calls:
        sink = KeepingSink(lambda count: handles[-1].cancel() if count == at else None)
        handles.append(open_stream(lane.channel, rpc, request, sink))
        assert (await sink.end()).code is grpc.StatusCode.CANCELLED
        assert ids(sink) == list(range(at))


async def test_pause_holds_back_a_yielding_handler(lane: Lane) -> None:
    handles: list[StreamHandle] = []
    sink = KeepingSink(lambda count: handles[0].pause() if count == 3 else None)
    handles.append(open_do(lane, sink, "count", 100))
    await sink.count(3)
    await asyncio.sleep(0.2)
    assert len(sink.messages) == 3
    assert not sink.ends
    handles[0].resume()
    assert (await sink.end()).code is grpc.StatusCode.OK
    assert ids(sink) == list(range(100))


async def test_pause_before_the_first_message(lane: Lane) -> None:
    sink = KeepingSink()
    handle = open_do(lane, sink, "count", 5)
    handle.pause()
    handle.pause()
    await asyncio.sleep(0.2)
    assert sink.messages == []
    handle.resume()
    handle.resume()
    assert (await sink.end()).code is grpc.StatusCode.OK
    assert ids(sink) == list(range(5))


async def test_cancel_while_paused(lane: Lane) -> None:
    sink = KeepingSink()
    handle = open_do(lane, sink, "flood")
    await sink.count(1)
    handle.pause()
    await asyncio.sleep(0.2)
    got = len(sink.messages)
    handle.cancel()
    assert (await sink.end()).code is grpc.StatusCode.CANCELLED
    assert len(sink.messages) == got
    await lane.notes.wait_for("cleaned up")


async def test_deadline_while_paused(lane: Lane) -> None:
    sink = KeepingSink()
    handle = open_do(lane, sink, "flood", timeout=1)
    await sink.count(1)
    handle.pause()
    assert (await sink.end()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await lane.notes.wait_for("cleaned up")


async def test_a_slow_reader_holds_back_the_producer(lane: Lane) -> None:
    sink = KeepingSink()
    handle = open_do(lane, sink, "flood")
    await sink.count(1)
    handle.pause()
    await asyncio.sleep(0.3)
    held_back = lane.service.sent
    await asyncio.sleep(0.3)
    assert lane.service.sent == held_back
    handle.resume()
    await sink.count(held_back + 5)
    handle.cancel()
    await sink.end()


async def test_the_stream_goes_on_if_nobody_holds_its_handle(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count_then_wait", 1, timeout=1)
    await sink.count(1)
    gc.collect()
    assert (await sink.end()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    paused = KeepingSink()
    open_do(lane, paused, "count_then_wait", 1, timeout=0.3).pause()
    gc.collect()
    assert (await paused.end()).code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_illegal_metadata(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count", metadata=(("Upper", "v"),))
    assert await sink.end() == CallStatus(grpc.StatusCode.INTERNAL, "Invalid metadata")
    sink = KeepingSink()
    open_do(lane, sink, "count", metadata=(("a", 5),))
    assert (await sink.end()).code is grpc.StatusCode.INTERNAL


async def test_a_closed_channel(lane: Lane) -> None:
    sink = KeepingSink()
    open_do(lane, sink, "count_then_wait", 1)
    await sink.count(1)
    await lane.channel.close()
    assert (await sink.end()).code is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.aio.UsageError):
        open_do(lane, sink, "count")


async def test_a_stopped_server(lane: Lane) -> None:
    sink, late = KeepingSink(), KeepingSink()
    open_do(lane, sink, "count_then_wait", 1)
    await sink.count(1)
    await lane.server.stop(None)
    assert (await sink.end()).code is grpc.StatusCode.UNAVAILABLE
    open_do(lane, late, "count")
    assert (await late.end()).code is grpc.StatusCode.UNAVAILABLE
