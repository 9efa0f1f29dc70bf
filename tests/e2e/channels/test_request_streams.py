from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.lanes import Lane


def texts(*values: str) -> list[StringValue]:
    return [StringValue(value=value) for value in values]


async def stream_of(*values: str) -> AsyncIterator[StringValue]:
    for value in values:
        yield StringValue(value=value)


async def test_from_an_iterator(lane: Lane) -> None:
    join = lane.raw("stream_unary", "Join")
    assert (await join(stream_of("a", "b", "c"))).value == "a,b,c"
    assert (await join(texts("a", "b"))).value == "a,b"
    assert (await join(texts(*map(str, range(100))))).value == ",".join(map(str, range(100)))


async def test_written(lane: Lane) -> None:
    call = lane.raw("stream_unary", "Join")()
    await call.wait_for_connection()
    await call.write(StringValue(value="a"))
    await call.write(StringValue(value="b"))
    await call.done_writing()
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(StringValue(value="c"))
    assert (await call).value == "a,b"
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(StringValue(value="c"))


async def test_an_iterator_and_writing_do_not_mix(lane: Lane) -> None:
    call = lane.raw("stream_unary", "Join")(stream_of("a"))
    with pytest.raises(grpc.aio.UsageError):
        await call.write(StringValue())
    assert (await call).value == "a"


async def test_an_iterator_that_raises_cancels_the_call(lane: Lane) -> None:
    async def broken() -> AsyncIterator[StringValue]:
        yield StringValue(value="a")
        raise ValueError

    call = lane.raw("stream_unary", "Join")(broken())
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_a_handler_that_answers_early(lane: Lane) -> None:
    call = lane.raw("stream_unary", "Early")()
    assert (await call).value == "early"
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(StringValue())
    await call.done_writing()


async def test_a_handler_that_aborts_early(lane: Lane) -> None:
    call = lane.raw("stream_unary", "AbortAfterFirst")()
    await call.write(StringValue())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "one is enough")


async def test_a_writer_does_not_run_ahead(lane: Lane) -> None:
    call = lane.raw("stream_unary", "Never")()
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await call.write(StringValue(value="x" * 20_000))
            written += 1

    task = asyncio.ensure_future(write())
    await lane.notes.wait_for("waiting")
    await asyncio.sleep(0.3)
    held_back = written
    await asyncio.sleep(0.3)
    assert written == held_back
    assert held_back < (20 if lane.kind == "inprocess" else 1000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await lane.notes.wait_for("cancelled")


@pytest.mark.parametrize("method", ["Mirror", "MirrorReading"])
async def test_both_ways(lane: Lane, method: str) -> None:
    call = lane.raw("stream_stream", method)(stream_of("a", "b"))
    assert [message.value async for message in call] == ["a", "b"]
    call = lane.raw("stream_stream", method)()
    for text in ("a", "b", "c"):
        await call.write(StringValue(value=text))
        assert (await call.read()).value == text
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_cancel_both_ways(lane: Lane) -> None:
    call = lane.raw("stream_stream", "Mirror")()
    await call.write(StringValue(value="a"))
    assert (await call.read()).value == "a"
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(StringValue(value="b"))


async def test_request_larger_than_allowed(lane: Lane) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lane.raw("stream_unary", "Join")(texts("a", "x" * 200_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
