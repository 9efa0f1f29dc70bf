"""What only a tunnel has: frames, its bounds, how it breaks, and how one does without it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from dragoman.reasons import Reason
from dragoman.streaming import CallStatus, StreamRpc, open_stream
from dragoman.tunnel import TunnelChannel
from dragoman.tunnel import channel as client_side
from dragoman.tunnel.framing import CONNECT, FRAME_BYTES
from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc
from dragoman.v1.tunnel_service_pb2 import (
    CALL_SIGNAL_CANCEL,
    CALL_SIGNAL_PAUSE,
    CALL_SIGNAL_RESUME,
    CALL_SIGNAL_UNSPECIFIED,
    ConnectRequest,
    ConnectResponse,
    OpenCall,
    RequestFrame,
    ResponseFrame,
)
from dragoman.v1.tunnel_service_pb2_grpc import TunnelServiceStub
from dragoman_server.api import tunnel as server_side
from dragoman_server.inprocess import InProcessServer
from tests.support.echo_service import FLOOD_BYTES, EchoService, Notes, NotingInterceptor
from tests.support.lanes import MAX_BYTES, TunnelServer, stream_request
from tests.support.sinks import KeepingSink
from tests.support.waiting import at_rest, until

STREAM = StreamRpc("/dragoman.v1.RunService/StreamRun", pb.StreamRunRequest, pb.StreamRunResponse)
WATCH = StreamRpc("/dragoman.v1.RunService/WatchRun", pb.WatchRunRequest, pb.WatchRunResponse)


class Served:
    """A server with tunnels that can be stopped and started again at the same socket."""

    def __init__(self, address: str, *, tunnels: bool = True, service: Any = None, limit: int = MAX_BYTES) -> None:
        self.address = address
        self.tunnels = tunnels
        self.notes = Notes()
        self.service: Any = service or EchoService(self.notes)  # type: ignore[abstract]
        self.limit = limit
        self.server: Any = None

    async def start(self) -> None:
        interceptors = [NotingInterceptor(self.notes)]
        self.server = grpc.aio.server(interceptors=interceptors)
        if self.tunnels:
            inner = InProcessServer(interceptors, max_message_bytes=self.limit, check_frozen=True)
            self.server = TunnelServer(inner, self.server)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(self.service, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    def connects(self) -> int:
        """How many tunnels were asked for."""
        return sum(line.startswith(f"intercepted {CONNECT} ") for line in self.notes.lines)


@asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[tuple[Served, TunnelChannel]]:
    server = Served(f"unix:{folder}/s", **options)
    await server.start()
    async with TunnelChannel(grpc.aio.insecure_channel(server.address)) as channel:
        await channel.channel_ready()
        yield server, channel
    await server.server.stop(None)


@pytest.fixture
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Served, TunnelChannel]]:
    async with served(tmp_path_factory.mktemp("t")) as opened:
        yield opened


class Frames:
    """A client that speaks frames itself."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = TunnelServiceStub(channel).Connect()  # type: ignore[no-untyped-call, unused-ignore]
        self._frames: list[ResponseFrame] = []

    async def send(self, *frames: RequestFrame) -> None:
        await self.call.write(ConnectRequest(frames=frames))

    async def next(self) -> ResponseFrame:
        async with asyncio.timeout(10):
            while not self._frames:
                message = await self.call.read()
                assert message is not grpc.aio.EOF, "the tunnel has ended"
                self._frames += message.frames
        return self._frames.pop(0)

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """Reads to the end of the tunnel."""
        async with asyncio.timeout(10):
            while not self.call.done():
                with suppress(grpc.aio.AioRpcError):
                    await self.call.read()
            return await self.call.code(), await self.call.details()


def open_frame(call_id: int, asked: Any, method: str = "StreamRun", **fields: Any) -> RequestFrame:
    data = asked.SerializeToString()
    fields = {"request": data, "request_size": len(data), **fields}
    return RequestFrame(call_id=call_id, open=OpenCall(method=f"/dragoman.v1.RunService/{method}", **fields))


def code_of(frame: ResponseFrame) -> int:
    assert frame.WhichOneof("kind") == "end", frame
    return frame.end.code


# The rules of frames.


async def test_a_tunnel_says_that_it_stands_and_ends_when_the_client_has_no_more(
    pair: tuple[Served, TunnelChannel],
) -> None:
    frames = Frames(pair[1])
    assert await frames.call.read() == ConnectResponse()
    await frames.call.done_writing()
    assert await frames.call.read() is grpc.aio.EOF
    assert await frames.status() == (grpc.StatusCode.OK, "")


async def test_a_half_closed_tunnel_serves_its_calls_to_the_end(pair: tuple[Served, TunnelChannel]) -> None:
    frames = Frames(pair[1])
    await frames.send(open_frame(1, pb.ExecuteRunRequest(spec=stream_request("slow").spec), "ExecuteRun"))
    await frames.call.done_writing()
    assert (await frames.next()).WhichOneof("kind") == "message"
    assert code_of(await frames.next()) == 0
    assert await frames.call.read() is grpc.aio.EOF


SIGNALS = (CALL_SIGNAL_UNSPECIFIED, CALL_SIGNAL_CANCEL, CALL_SIGNAL_PAUSE, CALL_SIGNAL_RESUME)


async def test_frames_of_unknown_calls_and_of_no_kind_are_ignored(pair: tuple[Served, TunnelChannel]) -> None:
    frames = Frames(pair[1])
    await frames.send(
        RequestFrame(),
        RequestFrame(call_id=9),
        RequestFrame(call_id=9, request=b"x"),
        *[RequestFrame(call_id=9, signal=signal) for signal in SIGNALS],
        open_frame(7, stream_request("count", 1)),
        RequestFrame(call_id=7),
        RequestFrame(call_id=7, signal=CALL_SIGNAL_UNSPECIFIED),
    )
    frame = await frames.next()
    assert (frame.call_id, pb.StreamRunResponse.FromString(frame.message).run_id) == (7, "0")
    assert code_of(await frames.next()) == 0
    frames.call.cancel()


WAITING = stream_request("count_then_wait", 0)
BROKEN = {
    "call 1 is open already": [open_frame(1, WAITING), open_frame(1, WAITING)],
    "call 1 has its request already": [open_frame(1, WAITING), RequestFrame(call_id=1, request=b"x")],
    "the request of call 1 is larger than it said": [open_frame(1, WAITING, request_size=3)],
}


@pytest.mark.parametrize("details", BROKEN)
async def test_a_client_that_breaks_the_rules_loses_its_tunnel(
    pair: tuple[Served, TunnelChannel], details: str
) -> None:
    server, channel = pair
    frames = Frames(channel)
    await frames.send(open_frame(5, WAITING))
    await server.notes.wait_for("waiting")
    await frames.send(*BROKEN[details])
    assert await frames.status() == (grpc.StatusCode.INVALID_ARGUMENT, details)
    await server.notes.wait_for("cleaned up")
    sink = KeepingSink()  # other tunnels go on
    open_stream(channel, STREAM, stream_request("count", 2), sink)
    assert (await sink.end()).code is grpc.StatusCode.OK


async def test_bytes_that_are_no_message_end_the_tunnel(
    pair: tuple[Served, TunnelChannel], caplog: pytest.LogCaptureFixture
) -> None:
    frames = Frames(pair[1])
    frames.call = pair[1].stream_stream(CONNECT)()
    await frames.call.write(b"\xff\xff\xff")
    assert (await frames.status())[0] is grpc.StatusCode.UNKNOWN
    sink = KeepingSink()
    open_stream(pair[1], STREAM, stream_request("count", 2), sink)
    assert (await sink.end()).code is grpc.StatusCode.OK


async def test_a_request_that_is_no_message_ends_its_call_only(
    pair: tuple[Served, TunnelChannel], caplog: pytest.LogCaptureFixture
) -> None:
    frames = Frames(pair[1])
    await frames.send(
        open_frame(1, WAITING, request=b"\xff\xff", request_size=2), open_frame(2, stream_request("count", 1))
    )
    ends = {frame.call_id: frame.end.code for frame in [await frames.next() for _ in range(3)] if frame.HasField("end")}
    assert ends == {1: grpc.StatusCode.UNKNOWN.value[0], 2: 0}
    frames.call.cancel()


async def test_no_tunnel_within_a_tunnel(pair: tuple[Served, TunnelChannel]) -> None:
    frames = Frames(pair[1])
    await frames.send(RequestFrame(call_id=1, open=OpenCall(method=CONNECT)))
    assert code_of(await frames.next()) == grpc.StatusCode.UNIMPLEMENTED.value[0]
    frames.call.cancel()


async def test_a_deadline_beyond_all_measure_is_none(pair: tuple[Served, TunnelChannel]) -> None:
    frames = Frames(pair[1])
    opening = open_frame(1, stream_request("count", 1))
    opening.open.timeout.seconds = 2**63 - 1
    await frames.send(opening)
    assert (await frames.next()).WhichOneof("kind") == "message"
    assert code_of(await frames.next()) == 0
    frames.call.cancel()


async def test_signals(pair: tuple[Served, TunnelChannel]) -> None:
    server, channel = pair
    frames = Frames(channel)
    pause, resume = (RequestFrame(call_id=1, signal=signal) for signal in (CALL_SIGNAL_PAUSE, CALL_SIGNAL_RESUME))
    await frames.send(open_frame(1, stream_request("count", 3)), pause, pause, open_frame(2, WAITING))
    await server.notes.wait_for("waiting")
    await frames.send(resume, RequestFrame(call_id=2, signal=CALL_SIGNAL_CANCEL))
    kinds = [(frame.call_id, frame.WhichOneof("kind")) for frame in [await frames.next() for _ in range(4)]]
    assert kinds == [(1, "message")] * 3 + [(1, "end")]
    await server.notes.wait_for("cleaned up")
    await frames.send(open_frame(3, stream_request("count", 0)))
    assert (await frames.next()).call_id == 3  # nothing came of 2
    frames.call.cancel()


# Sizes and bounds.


SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 7, 2_000_000]


class SizedService(run_service_pb2_grpc.RunServiceServicer):
    """Answers with messages of the sizes asked for, and tells what it was asked."""

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> None:  # type: ignore[override]
        for size in SIZES:
            context.push.on_message(pb.WatchRunResponse(run_id=request.run_id[:1] * size))

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        response = pb.GetRunResponse()
        response.run.id = request.run_id[::-1]
        return response


async def test_large_messages_travel_in_pieces_and_whole_frames_stay_small(tmp_path: Path) -> None:
    async with served(tmp_path, service=cast("Any", SizedService)(), limit=10_000_000) as (_, channel):
        sinks = {name: KeepingSink() for name in "abc"}
        for name, sink in sinks.items():
            open_stream(channel, WATCH, pb.WatchRunRequest(run_id=name), sink)
        for name, sink in sinks.items():
            assert (await sink.end()).code is grpc.StatusCode.OK
            assert [message.run_id for message in sink.messages] == [name * size for size in SIZES]
        stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
        texts = ["ab" * size for size in SIZES]
        answers = await asyncio.gather(*[stub.GetRun(pb.GetRunRequest(run_id=text)) for text in texts])
        assert [answer.run.id for answer in answers] == [text[::-1] for text in texts]

        frames = Frames(channel)
        await frames.send(open_frame(1, pb.WatchRunRequest(run_id="x"), "WatchRun"))
        async with asyncio.timeout(20):
            ended = False
            while not ended:
                message = await frames.call.read()
                assert message.ByteSize() < 2 * FRAME_BYTES + 1000
                ended = any(frame.HasField("end") for frame in message.frames)
        frames.call.cancel()


async def test_small_calls_pass_a_large_one(tmp_path: Path) -> None:
    class Service(SizedService):
        async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> None:  # type: ignore[override]
            size = 8_000_000 if request.run_id == "large" else 10
            context.push.on_message(pb.WatchRunResponse(run_id="x" * size))

    async with served(tmp_path, service=cast("Any", Service)(), limit=10_000_000) as (_, channel):
        frames = Frames(channel)
        await frames.send(
            *[open_frame(n, pb.WatchRunRequest(run_id=r), "WatchRun") for n, r in [(1, "large"), (2, "")]]
        )
        seen = []
        while (frame := await frames.next()).call_id != 2 or not frame.HasField("end"):
            seen.append((frame.call_id, frame.WhichOneof("kind")))
        assert seen.count((1, "message_part")) < 20
        frames.call.cancel()


async def test_a_request_that_comes_in_pieces_may_be_given_up(pair: tuple[Served, TunnelChannel]) -> None:
    frames = Frames(pair[1])
    for call_id in range(1, 12):  # more than may be on their way at a time, if any stayed
        await frames.send(
            open_frame(call_id, WAITING, request=b"", request_size=MAX_BYTES),
            RequestFrame(call_id=call_id, signal=CALL_SIGNAL_CANCEL),
        )
    unfinished = [open_frame(n, WAITING, request=b"", request_size=MAX_BYTES) for n in (20, 21, 22)]
    await frames.send(*unfinished, RequestFrame(call_id=22, request=b"ignored"))
    frame = await frames.next()
    assert (frame.call_id, code_of(frame)) == (22, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    frames.call.cancel()


async def test_large_requests_that_run_out_of_time_leave_room_for_others(tmp_path: Path) -> None:
    async with served(tmp_path, service=cast("Any", SizedService)(), limit=10_000_000) as (_, channel):
        stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
        request = pb.GetRunRequest(run_id="x" * 4_000_000)
        for number in range(20):
            with suppress(grpc.aio.AioRpcError):  # some are quick enough
                await stub.GetRun(request, timeout=0.0005 * (number + 1))
        assert len((await stub.GetRun(request)).run.id) == 4_000_000


async def test_a_flood_of_calls_is_refused_one_by_one(
    pair: tuple[Served, TunnelChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_side, "MAX_CALLS", 3)
    frames = Frames(pair[1])
    await frames.send(*[open_frame(n, WAITING) for n in range(10)])
    for n in range(3, 10):
        frame = await frames.next()
        assert (frame.call_id, code_of(frame)) == (n, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        details = {entry.key: entry.binary for entry in frame.end.trailing_metadata}["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(info)
        assert info.reason == Reason.OVERLOADED
    await frames.send(RequestFrame(call_id=0, signal=CALL_SIGNAL_CANCEL), open_frame(11, stream_request("count", 0)))
    assert code_of(await frames.next()) == 0
    frames.call.cancel()


async def test_a_client_does_without_for_calls_that_a_full_tunnel_has_no_room_for(
    pair: tuple[Served, TunnelChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_side, "MAX_CALLS", 2)
    sinks = [KeepingSink() for _ in range(5)]
    for sink in sinks:
        open_stream(pair[1], STREAM, stream_request("count_then_wait", 1), sink, timeout=2)
    for sink in sinks:
        await sink.count(1)
        assert (await sink.end()).code is grpc.StatusCode.DEADLINE_EXCEEDED


# Slow readers.


async def test_a_paused_call_does_not_hold_up_others(pair: tuple[Served, TunnelChannel]) -> None:
    server, channel = pair
    slow, quick = KeepingSink(), KeepingSink()
    handle = open_stream(channel, STREAM, stream_request("flood"), slow)
    await slow.count(1)
    handle.pause()
    open_stream(channel, STREAM, stream_request("count", 500), quick)
    assert (await quick.end()).code is grpc.StatusCode.OK
    assert len(quick.messages) == 500
    sent, _ = await at_rest(lambda: (server.service.sent, len(slow.messages)))
    handle.resume()
    await slow.count(sent + 5)
    handle.cancel()
    assert (await slow.end()).code is grpc.StatusCode.CANCELLED


async def test_a_client_that_reads_nothing_holds_back_its_calls(pair: tuple[Served, TunnelChannel]) -> None:
    server, channel = pair
    frames = Frames(channel)
    await frames.send(*[open_frame(n, stream_request("flood")) for n in range(3)])
    await frames.next()
    sent = await at_rest(lambda: server.service.sent)
    assert sent * FLOOD_BYTES < 20_000_000  # with what the socket holds
    while server.service.sent < sent + 50:
        await frames.next()
    frames.call.cancel()


async def test_a_full_tunnel_holds_back_all_its_calls(
    pair: tuple[Served, TunnelChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, channel = pair
    monkeypatch.setattr(server_side, "MAX_UNSENT_BYTES", 100_000)
    monkeypatch.setattr(server_side, "MAX_UNSENT_BYTES_PER_CALL", 10**9)
    sinks = [KeepingSink() for _ in range(4)]
    handles = [open_stream(channel, STREAM, stream_request("flood"), sink) for sink in sinks]
    for sink in sinks:
        await sink.count(200)  # held back again and again, they all get on
    for handle, sink in zip(handles, sinks, strict=True):
        handle.cancel()
        await sink.end()
    await until(lambda: server.notes.lines.count("cleaned up") == 4)


async def test_calls_that_are_given_up_leave_room_for_those_held_back(
    pair: tuple[Served, TunnelChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, channel = pair
    monkeypatch.setattr(server_side, "MAX_UNSENT_BYTES", 100_000)
    sink, floods = KeepingSink(), [KeepingSink() for _ in range(4)]
    handles = [open_stream(channel, STREAM, stream_request("flood"), flood) for flood in floods]
    await floods[0].count(20)
    open_stream(channel, STREAM, stream_request("count", 300), sink)
    for handle in handles:
        handle.cancel()
    assert (await sink.end()).code is grpc.StatusCode.OK
    assert len(sink.messages) == 300


async def test_a_status_message_that_is_no_text_still_ends_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Service(SizedService):
        async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
            raise ValueError("\ud800")

    async with served(tmp_path, service=cast("Any", Service)()) as (_, channel):
        stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetRun(pb.GetRunRequest(), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN


# Tunnels that break, and servers without.


async def test_a_cut_tunnel_ends_its_calls_and_the_next_call_has_another(pair: tuple[Served, TunnelChannel]) -> None:
    server, channel = pair
    sinks = [KeepingSink() for _ in range(3)]
    for sink in sinks:
        open_stream(channel, STREAM, stream_request("count_then_wait", 1), sink)
        await sink.count(1)
    unary = asyncio.ensure_future(
        run_service_pb2_grpc.RunServiceStub(channel).ExecuteRun(pb.ExecuteRunRequest(spec=stream_request("wait").spec))
    )
    await server.notes.wait_for("waiting")
    await server.server.outer.stop(None)  # the connection is gone: nothing was said to the calls
    for sink in sinks:
        assert (await sink.end()).code is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.notes.wait_for("cleaned up")
    late = KeepingSink()
    open_stream(channel, STREAM, stream_request("count", 1), late)
    assert (await late.end()).code is grpc.StatusCode.UNAVAILABLE
    await server.start()
    async with asyncio.timeout(30):
        await channel.channel_ready()
    asked = server.connects()
    again = KeepingSink()
    open_stream(channel, STREAM, stream_request("count", 5), again)
    assert (await again.end()).code is grpc.StatusCode.OK
    assert len(again.messages) == 5
    assert asked >= 2


@pytest.mark.parametrize("why", ["none", "too many"])
async def test_a_server_without_tunnels_is_called_without(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_side, "MAX_TUNNELS", 0)
    async with served(tmp_path, tunnels=why == "too many") as (server, channel):
        for _ in range(3):
            sink = KeepingSink()
            open_stream(channel, STREAM, stream_request("count", 3), sink, metadata=(("mark", "m"),))
            assert (await sink.end()).code is grpc.StatusCode.OK
            assert len(sink.messages) == 3
            request = pb.ExecuteRunRequest(request_id="r", spec=stream_request("describe").spec)
            stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
            assert (await stub.ExecuteRun(request)).run.id == "r"
        assert server.connects() == 1
        assert "peer inprocess" not in server.notes.lines
        monkeypatch.setattr(server_side, "MAX_TUNNELS", 1)
        later = asyncio.get_running_loop().time() + client_side.REFUSED_SECONDS + 1
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
        await channel.channel_ready()
        monkeypatch.undo()
        assert server.connects() == 2
        await stub.ExecuteRun(request)
        assert ("peer inprocess" in server.notes.lines) is (why == "too many")


async def test_calls_go_on_while_the_tunnel_is_built(tmp_path: Path) -> None:
    server = Served(f"unix:{tmp_path}/s")
    await server.start()
    async with TunnelChannel(grpc.aio.insecure_channel(server.address)) as channel:
        sinks = [KeepingSink() for _ in range(20)]
        for sink in sinks:
            open_stream(channel, STREAM, stream_request("count", 3), sink)
            await asyncio.sleep(0)
        for sink in sinks:
            assert (await sink.end()).code is grpc.StatusCode.OK
        assert server.connects() == 1
    await server.server.stop(None)


async def test_options_of_a_single_call_are_kept(pair: tuple[Served, TunnelChannel]) -> None:
    server, channel = pair
    stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
    request = pb.ExecuteRunRequest(spec=stream_request("describe").spec)
    await stub.ExecuteRun(request, wait_for_ready=True)
    await stub.ExecuteRun(request, compression=grpc.Compression.Gzip)
    assert "peer inprocess" not in server.notes.lines
    await stub.ExecuteRun(request)
    assert "peer inprocess" in server.notes.lines


async def test_a_message_that_cannot_be_parsed_ends_its_call_only(
    pair: tuple[Served, TunnelChannel], caplog: pytest.LogCaptureFixture
) -> None:
    class Picky:
        @staticmethod
        def FromString(data: bytes) -> Any:
            raise ValueError("not mine")

    server, channel = pair
    broken, sound = KeepingSink(), KeepingSink()
    rpc: Any = StreamRpc(STREAM.path, pb.StreamRunRequest, Picky)
    open_stream(channel, rpc, stream_request("count_then_wait", 1), broken)
    open_stream(channel, STREAM, stream_request("count", 3), sound)
    assert await broken.end() == CallStatus(grpc.StatusCode.INTERNAL, "ValueError: not mine")
    assert (await sound.end()).code is grpc.StatusCode.OK
    await server.notes.wait_for("cleaned up")


async def test_finished_calls_leave_no_cycles(pair: tuple[Served, TunnelChannel]) -> None:
    server, channel = pair
    stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
    gc.collect()
    gc.disable()
    try:
        sinks = [KeepingSink() for _ in range(4)]
        handles: list[Any] = [
            open_stream(channel, STREAM, stream_request("count", 3), sinks[0], timeout=60),
            open_stream(channel, STREAM, stream_request("count_then_fail", 1), sinks[1]),
            open_stream(channel, STREAM, stream_request("count_then_wait", 1), sinks[2]),
            open_stream(channel, STREAM, stream_request("count_then_wait", 1), sinks[3], timeout=0.2),
        ]
        await server.notes.wait_for("waiting")
        handles[2].cancel()
        call = stub.ExecuteRun(pb.ExecuteRunRequest(spec=stream_request("plain").spec), timeout=60)
        await call
        for sink in sinks:
            await sink.end()
        await asyncio.sleep(0.05)
        dead = [weakref.ref(thing) for thing in (call, *sinks)]
        del call, sink, sinks, handles
        await asyncio.sleep(0)
        assert [ref() for ref in dead] == [None] * 5
    finally:
        gc.enable()
