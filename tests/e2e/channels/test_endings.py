from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

if TYPE_CHECKING:
    from tests.support.lanes import Lane


async def test_cancel_a_running_call(lane: Lane) -> None:
    call = lane.execute("wait", timeout=60)
    assert (call.done(), call.cancelled()) == (False, False)
    assert 0 < call.time_remaining() < 61
    await lane.notes.wait_for("waiting")
    assert call.cancel()
    assert (call.done(), call.cancelled()) == (True, True)
    assert not call.cancel()
    await lane.notes.wait_for("cancelled")
    await lane.notes.wait_for("done True")
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"
    assert tuple(await call.trailing_metadata()) == ()
    assert tuple(await call.initial_metadata()) == ()


async def test_cancel_before_the_first_step(lane: Lane) -> None:
    ended: list[object] = []
    unary, stream = lane.execute("wait"), lane.stream("count", 1)
    for call in (unary, stream):
        call.add_done_callback(ended.append)
        assert call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(asyncio.CancelledError):
        await unary
    with pytest.raises(asyncio.CancelledError):
        async for _ in stream:
            pass
    await lane.execute("plain")
    assert sorted(ended, key=id) == sorted([unary, stream], key=id)  # they may have come by different ways
    assert "waiting" not in lane.notes.lines


async def test_a_handler_may_go_on_after_cancellation(lane: Lane) -> None:
    call = lane.execute("stubborn")
    await lane.notes.wait_for("waiting")
    call.cancel()
    await lane.notes.wait_for("went on")
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_cancelling_the_awaiting_task_cancels_the_call(lane: Lane) -> None:
    call = lane.execute("wait")
    task = asyncio.ensure_future(call)
    await lane.notes.wait_for("waiting")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await lane.notes.wait_for("cancelled")


async def test_wait_for_works_on_calls(lane: Lane) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lane.execute("wait"), 0.1)
    await lane.notes.wait_for("cancelled")


async def test_cancelling_the_reading_task_cancels_the_call(lane: Lane) -> None:
    call = lane.stream("count_then_wait", 1)

    first = asyncio.Event()

    async def read() -> None:
        async for _ in call:
            first.set()

    task = asyncio.ensure_future(read())
    async with asyncio.timeout(10):
        await first.wait()
    await lane.notes.wait_for("waiting")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await lane.notes.wait_for("cleaned up")


async def test_a_unary_call_goes_on_if_nobody_holds_it(lane: Lane) -> None:
    lane.execute("slow")
    await lane.notes.wait_for("finished")


async def test_deadline(lane: Lane) -> None:
    call = lane.execute("wait", timeout=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details() == "Deadline Exceeded"
    assert (call.done(), call.cancelled(), call.time_remaining()) == (True, False, 0)
    await lane.notes.wait_for("cancelled")


async def test_deadline_in_a_stream(lane: Lane) -> None:
    call = lane.stream("count_then_wait", 2, timeout=1)
    assert (await call.read()).run_id == "0"
    assert (await call.read()).run_id == "1"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await lane.notes.wait_for("cleaned up")


async def test_a_deadline_that_is_past_reaches_no_handler(lane: Lane) -> None:
    for call in (lane.execute("wait", timeout=-1), lane.stream("count", timeout=-1).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert caught.value.details() == "Deadline Exceeded"
    await lane.execute("plain")
    assert lane.notes.lines.count("intercepted /dragoman.v1.RunService/ExecuteRun found") == 1
    assert "waiting" not in lane.notes.lines


async def test_closing_the_channel_cancels_its_calls(lane: Lane) -> None:
    call = lane.stream("count_then_wait", 1)
    await call.read()
    await lane.notes.wait_for("waiting")
    await lane.channel.close()
    assert call.cancelled()
    await lane.notes.wait_for("cleaned up")
    assert lane.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
    with pytest.raises(grpc.aio.UsageError):
        lane.execute("plain")


async def test_closing_the_channel_with_grace_lets_calls_end(lane: Lane) -> None:
    call = lane.execute("slow")
    await lane.channel.close(10)
    await call
    assert await call.code() is grpc.StatusCode.OK


async def test_a_channel_is_a_context_manager(lane: Lane) -> None:
    async with lane.channel as channel:
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    assert lane.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_stopping_the_server_waits_for_calls(lane: Lane) -> None:
    call = asyncio.ensure_future(lane.execute("slow"))
    await lane.notes.wait_for("intercepted /dragoman.v1.RunService/ExecuteRun found")
    await lane.server.stop(10)
    assert await call is not None
    assert "finished" in lane.notes.lines


async def test_stopping_the_server_ends_what_does_not_end(lane: Lane) -> None:
    unary, stream = lane.execute("wait"), lane.stream("count_then_wait", 1)
    await stream.read()
    await lane.notes.wait_for("waiting")
    stop = asyncio.ensure_future(lane.server.stop(0.2))
    await asyncio.sleep(0.05)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lane.execute("plain")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await stop
    await lane.notes.wait_for("cleaned up")
