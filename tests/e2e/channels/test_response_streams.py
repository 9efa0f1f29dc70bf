from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from dragoman.v1 import run_service_pb2 as pb
from tests.support.echo_service import FLOOD_BYTES

if TYPE_CHECKING:
    from tests.support.lanes import Lane


async def test_iterating(lane: Lane) -> None:
    call = lane.stream("count", 100)
    assert [message.run_id async for message in call] == [str(number) for number in range(100)]
    assert await call.code() is grpc.StatusCode.OK
    assert tuple(await call.trailing_metadata()) == (("sent", "100"),)
    assert [message async for message in call] == []


async def test_reading(lane: Lane) -> None:
    call = lane.stream("count", 2)
    assert [(await call.read()).run_id for _ in range(2)] == ["0", "1"]
    assert await call.read() is grpc.aio.EOF
    assert await call.read() is grpc.aio.EOF
    assert call.done()
    assert not call.cancel()


async def test_an_empty_stream(lane: Lane) -> None:
    assert [message async for message in lane.stream("count", 0)] == []


async def test_a_handler_that_writes(lane: Lane) -> None:
    call = lane.stub.WatchRun(pb.WatchRunRequest(after_sequence=20))
    assert [message.run_id async for message in call] == [str(number) for number in range(20)]


async def test_reading_and_iterating_do_not_mix(lane: Lane) -> None:
    call = lane.stream("count_then_wait", 2)
    await call.read()
    with pytest.raises(grpc.aio.UsageError):
        call.__aiter__()
    call.cancel()


@pytest.mark.parametrize(
    ("do", "code", "details"),
    [
        ("count_then_abort", grpc.StatusCode.ABORTED, "enough"),
        ("count_then_fail", grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>: 'k'"),
        ("count_then_code", grpc.StatusCode.NOT_FOUND, "gone"),
    ],
)
@pytest.mark.parametrize("messages", [0, 1, 5, 30])
async def test_all_messages_come_before_a_failure(
    lane: Lane, do: str, code: grpc.StatusCode, details: str, messages: int
) -> None:
    call = lane.stream(do, messages)
    got = [(await call.read()).run_id for _ in range(messages)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert got == [str(number) for number in range(messages)]
    assert (caught.value.code(), caught.value.details()) == (code, details)
    if do == "count_then_abort":
        assert tuple(caught.value.trailing_metadata()) == (("k", "v"), ("k-bin", b"\xff"))
    assert await call.code() is code


async def test_the_status_comes_after_the_messages(lane: Lane) -> None:
    call = lane.stream("count_then_abort", 2)
    await lane.notes.wait_for("done True")
    assert not call.done()
    assert (await call.read()).run_id == "0"
    assert not call.done()
    assert (await call.read()).run_id == "1"
    assert await call.code() is grpc.StatusCode.ABORTED
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()


async def test_none_among_the_messages(lane: Lane) -> None:
    call = lane.stream("none_between")
    assert (await call.read()).run_id == "0"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert "Unexpected <class 'TypeError'>" in (caught.value.details() or "")


async def test_cancel_between_messages(lane: Lane) -> None:
    call = lane.stream("count_then_wait", 3)
    await call.read()
    await lane.notes.wait_for("waiting")
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    await lane.notes.wait_for("cleaned up")
    await lane.notes.wait_for("done True")


async def test_a_producer_does_not_run_ahead(lane: Lane) -> None:
    call = lane.stream("flood")
    await call.read()
    await asyncio.sleep(0.3)
    held_back = lane.service.sent
    await asyncio.sleep(0.3)
    assert lane.service.sent == held_back
    # A socket's buffers are larger than the in-process window.
    assert held_back * FLOOD_BYTES < 20_000_000
    if lane.kind == "inprocess":
        assert held_back < 20
    for _ in range(held_back + 5):
        await call.read()
    assert lane.service.sent > held_back
    call.cancel()
    await lane.notes.wait_for("cleaned up")
