"""What only the in-process channel has: push with flow control, stricter endings, the check of frozen messages."""

from __future__ import annotations

import asyncio
import gc
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from dragoman.streaming import CallStatus, StreamRpc, open_stream
from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc
from dragoman_server.inprocess import DEFERRED, InProcessServer, begun_by
from tests.support.sinks import KeepingSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dragoman_server.inprocess import InProcessChannel, PushTarget

WATCH = StreamRpc("/dragoman.v1.RunService/WatchRun", pb.WatchRunRequest, pb.WatchRunResponse)


class Service(run_service_pb2_grpc.RunServiceServicer):
    """Has its methods from the test."""

    def __init__(self, **methods: Callable[[Any, Any], Any]) -> None:
        vars(self).update(methods)


def begun(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Has a method begin within the call that starts it."""
    return begun_by(handler)(handler)


def channel_to(check_frozen: bool = False, **methods: Callable[[Any, Any], Any]) -> InProcessChannel:
    server = InProcessServer(max_message_bytes=100_000, check_frozen=check_frozen)
    service = Service(**methods)  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED
    run_service_pb2_grpc.add_RunServiceServicer_to_server(service, server)
    return server.channel()


def stub_of(check_frozen: bool = False, **methods: Callable[[Any, Any], Any]) -> Any:
    return run_service_pb2_grpc.RunServiceStub(channel_to(check_frozen, **methods))


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class Flow:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


class PushingHandler:
    """Shows its push target to the test, and ends when told."""

    def __init__(self) -> None:
        self.target: asyncio.Future[PushTarget] = asyncio.get_running_loop().create_future()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self, request: Any, context: Any) -> None:
        self.target.set_result(context.push)
        await self.over


async def test_messages_are_pushed_in_the_producers_call_chain() -> None:
    handler, sink = PushingHandler(), KeepingSink()
    open_stream(channel_to(WatchRun=handler), WATCH, pb.WatchRunRequest(), sink)
    target = await handler.target
    message = pb.WatchRunResponse(run_id="r")
    target.on_message(message)
    assert sink.messages == [message]
    assert sink.messages[0] is message
    handler.over.set_result(None)
    assert await sink.end() == CallStatus(grpc.StatusCode.OK)
    target.on_message(message)
    target.bind(Flow())
    assert len(sink.messages) == 1


async def test_pause_and_resume_reach_the_bound_flow() -> None:
    handler, sink, flow = PushingHandler(), KeepingSink(), Flow()
    handle = open_stream(channel_to(WatchRun=handler), WATCH, pb.WatchRunRequest(), sink)
    handle.pause()
    target = await handler.target
    target.bind(flow)
    assert flow.calls == ["pause"]
    handle.pause()
    handle.resume()
    handle.resume()
    assert flow.calls == ["pause", "resume"]
    target.on_message(pb.WatchRunResponse())
    handle.cancel()
    handle.pause()
    assert flow.calls == ["pause", "resume"]
    assert (await sink.end()).code is grpc.StatusCode.CANCELLED


async def test_a_flow_that_is_bound_after_resume_hears_nothing() -> None:
    handler, sink, flow = PushingHandler(), KeepingSink(), Flow()
    handle = open_stream(channel_to(WatchRun=handler), WATCH, pb.WatchRunRequest(), sink)
    handle.pause()
    handle.resume()
    (await handler.target).bind(flow)
    assert flow.calls == []
    handle.cancel()
    await sink.end()


async def test_a_pushed_message_that_is_too_large_ends_the_call() -> None:
    handler, sink = PushingHandler(), KeepingSink()
    open_stream(channel_to(WatchRun=handler), WATCH, pb.WatchRunRequest(), sink)
    target = await handler.target
    target.on_message(pb.WatchRunResponse(run_id="x" * 100_000))
    target.on_message(pb.WatchRunResponse(run_id="late"))
    assert (await sink.end()).details == "SERVER: Sent message larger than max (100004 vs. 100000)"
    assert sink.messages == []
    async with asyncio.timeout(10):
        await asyncio.wait([handler.over])
    assert handler.over.cancelled()


class TextKeepingSink(KeepingSink):
    """Takes text as such, too."""

    def on_text(self, text: str, sequence: int) -> None:
        self.on_message((text, sequence))


async def test_text_is_pushed_without_a_message_to_who_takes_it() -> None:
    handler, sink = PushingHandler(), TextKeepingSink()
    open_stream(channel_to(True, WatchRun=handler), WATCH, pb.WatchRunRequest(), sink)
    target = await handler.target
    message = pb.WatchRunResponse(run_id="r")
    target.on_message(message)
    assert target.on_text("Hel", 2, 50)
    assert not target.on_text("too large, perhaps", 3, 100_001)
    assert target.on_text("lo", 3, 100_000)
    assert sink.messages == [message, ("Hel", 2), ("lo", 3)]
    handler.over.set_result(None)
    assert await sink.end() == CallStatus(grpc.StatusCode.OK)
    assert target.on_text("late", 4, 50)
    assert len(sink.messages) == 3


async def test_a_sink_of_messages_gets_no_text() -> None:
    handler, sink = PushingHandler(), KeepingSink()
    handle = open_stream(channel_to(WatchRun=handler), WATCH, pb.WatchRunRequest(), sink)
    target = await handler.target
    assert not target.on_text("Hel", 2, 50)
    handle.cancel()
    await sink.end()
    assert sink.messages == []


async def test_only_pushed_calls_have_a_push_target() -> None:
    seen: list[object] = []

    async def watch(request: Any, context: Any) -> None:
        seen.append(context.push)
        assert context.peer() == "inprocess:"

    async for _ in stub_of(WatchRun=watch).WatchRun(pb.WatchRunRequest()):
        pass
    assert seen == [None]


async def test_a_yielding_handler_gives_way_to_others() -> None:
    async def endless(request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            yield pb.WatchRunResponse()

    sink = KeepingSink()
    handle = open_stream(channel_to(WatchRun=endless), WATCH, pb.WatchRunRequest(), sink)
    for _ in range(10):
        await asyncio.sleep(0)
    handle.cancel()
    assert (await sink.end()).code is grpc.StatusCode.CANCELLED
    assert 0 < len(sink.messages) < 200


async def test_a_dropped_stream_call_is_cancelled() -> None:
    cleaned_up = asyncio.Event()

    async def endless(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield pb.WatchRunResponse()
        finally:
            cleaned_up.set()

    call = stub_of(WatchRun=endless).WatchRun(pb.WatchRunRequest())
    async for _ in call:
        break
    del call
    async with asyncio.timeout(10):
        await cleaned_up.wait()


async def test_a_finished_call_leaves_no_cycle() -> None:
    async def execute(request: Any, context: Any) -> Any:
        return pb.ExecuteRunResponse()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield pb.WatchRunResponse()

    channel = channel_to(ExecuteRun=execute, WatchRun=watch)
    stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
    gc.collect()
    gc.disable()
    try:
        call, stream, sink = stub.ExecuteRun(pb.ExecuteRunRequest()), stub.WatchRun(pb.WatchRunRequest()), KeepingSink()
        handle: Any = open_stream(channel, WATCH, pb.WatchRunRequest(), sink, timeout=60)
        await call
        assert len([message async for message in stream]) == 1
        await sink.end()
        await asyncio.sleep(0.01)
        dead = [weakref.ref(call), weakref.ref(stream), weakref.ref(sink)]
        del call, stream, sink, handle
        assert [ref() for ref in dead] == [None, None, None]
    finally:
        gc.enable()


async def test_a_request_that_cannot_be_serialized_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    called: list[object] = []

    async def execute(request: Any, context: Any) -> Any:
        called.append(request)

    for wrong in ("text", None, 5):
        error = await failure_of(stub_of(ExecuteRun=execute).ExecuteRun(wrong))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Exception serializing request!")
    assert called == []


async def test_handlers_must_be_asynchronous() -> None:
    def execute(request: Any, context: Any) -> Any:
        return pb.ExecuteRunResponse()

    error = await failure_of(stub_of(ExecuteRun=execute).ExecuteRun(pb.ExecuteRunRequest()))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "make it `async def`" in (error.details() or "")


async def test_abort_needs_a_failure() -> None:
    async def execute(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.OK, "well")

    error = await failure_of(stub_of(ExecuteRun=execute).ExecuteRun(pb.ExecuteRunRequest()))
    assert error.details() == "Unexpected <class 'ValueError'>: abort needs another status code than OK"


async def test_a_handler_that_cancels_itself_ends_the_call() -> None:
    async def execute(request: Any, context: Any) -> Any:
        raise asyncio.CancelledError

    error = await failure_of(stub_of(ExecuteRun=execute).ExecuteRun(pb.ExecuteRunRequest()))
    assert (error.code(), error.details()) == (grpc.StatusCode.CANCELLED, "The handler was cancelled.")


async def test_the_context_knows_that_the_caller_went_away() -> None:
    seen: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()

    async def execute(request: Any, context: Any) -> Any:
        before = context.cancelled()
        try:
            await asyncio.sleep(60)
        finally:
            seen.set_result([before, context.cancelled()])

    call = stub_of(ExecuteRun=execute).ExecuteRun(pb.ExecuteRunRequest())
    await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(10):
        assert await seen == [False, True]


async def test_writing_to_a_caller_that_went_away_fails() -> None:
    errors: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()

    async def watch(request: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await context.write(pb.WatchRunResponse())
            except grpc.aio.InternalError as error:
                errors.set_result(type(error))

    call = stub_of(WatchRun=watch).WatchRun(pb.WatchRunRequest())
    await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(10):
        assert issubclass(await errors, grpc.aio.InternalError)


async def test_there_are_no_ports() -> None:
    server = InProcessServer(max_message_bytes=1000)
    await server.start()
    with pytest.raises(grpc.aio.UsageError):
        server.add_insecure_port("127.0.0.1:0")
    assert await server.wait_for_termination(0.01)
    await server.stop(None)
    assert not await server.wait_for_termination()


async def test_call_credentials_are_refused() -> None:
    credentials = grpc.access_token_call_credentials("t")
    with pytest.raises(grpc.aio.UsageError):
        stub_of().ExecuteRun(pb.ExecuteRunRequest(), credentials=credentials)


async def test_state_changes_when_closed() -> None:
    channel = channel_to()
    await channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
    waiter = asyncio.ensure_future(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
    await asyncio.sleep(0)
    assert not waiter.done()
    await channel.close()
    async with asyncio.timeout(10):
        await waiter


async def test_closing_one_channel_leaves_the_others() -> None:
    async def execute(request: Any, context: Any) -> Any:
        await asyncio.sleep(0.05)
        return pb.ExecuteRunResponse()

    server = InProcessServer(max_message_bytes=1000)
    run_service_pb2_grpc.add_RunServiceServicer_to_server(
        Service(ExecuteRun=execute),  # type: ignore[abstract]  # as above
        server,
    )
    one, two = server.channel(), server.channel()
    calls: list[Any] = [
        run_service_pb2_grpc.RunServiceStub(each).ExecuteRun(pb.ExecuteRunRequest()) for each in (one, two)
    ]
    await one.close()
    assert calls[0].cancelled()
    assert await calls[1] == pb.ExecuteRunResponse()


async def test_interceptors_run_in_order() -> None:
    order: list[str] = []

    class Named(grpc.aio.ServerInterceptor):
        def __init__(self, name: str) -> None:
            self.name = name

        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            order.append(f"{self.name} in")
            handler = await continuation(handler_call_details)
            order.append(f"{self.name} out")
            return handler

    async def execute(request: Any, context: Any) -> Any:
        order.append("handler")
        return pb.ExecuteRunResponse()

    server = InProcessServer([Named("a"), Named("b")], max_message_bytes=1000)
    run_service_pb2_grpc.add_RunServiceServicer_to_server(
        Service(ExecuteRun=execute),  # type: ignore[abstract]  # as above
        server,
    )
    stub: Any = run_service_pb2_grpc.RunServiceStub(server.channel())
    await stub.ExecuteRun(pb.ExecuteRunRequest())
    assert order == ["a in", "b in", "b out", "a out", "handler"]


async def test_an_interceptor_may_answer_a_stream_with_a_unary_handler() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return pb.WatchRunResponse(run_id="only").SerializeToString()

    class Answering(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    channel = InProcessServer([Answering()], max_message_bytes=1000).channel()
    stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
    assert [message.run_id async for message in stub.WatchRun(pb.WatchRunRequest())] == ["only"]
    sink = KeepingSink()
    open_stream(channel, WATCH, pb.WatchRunRequest(), sink)
    assert await sink.end() == CallStatus(grpc.StatusCode.OK)
    assert [message.run_id for message in sink.messages] == ["only"]


async def test_changing_a_request_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    async def execute(request: Any, context: Any) -> Any:
        request.request_id = "changed"
        return pb.ExecuteRunResponse()

    error = await failure_of(stub_of(check_frozen=True, ExecuteRun=execute).ExecuteRun(pb.ExecuteRunRequest()))
    assert "dragoman.v1.ExecuteRunRequest was changed after it was handed over" in (error.details() or "")


@pytest.mark.parametrize("by", ["servicer", "reader"])
async def test_changing_a_pushed_message_is_noticed(by: str, caplog: pytest.LogCaptureFixture) -> None:
    async def watch(request: Any, context: Any) -> None:
        message = pb.WatchRunResponse(run_id="r")
        context.push.on_message(message)
        if by == "servicer":
            message.run_id = "changed"

    def change(count: int) -> None:
        if by == "reader":
            sink.messages[0].run_id = "changed"

    sink = KeepingSink(change)
    open_stream(channel_to(check_frozen=True, WatchRun=watch), WATCH, pb.WatchRunRequest(), sink)
    status = await sink.end()
    assert status.code is grpc.StatusCode.UNKNOWN
    assert "dragoman.v1.WatchRunResponse was changed after it was handed over" in status.details


async def test_many_calls_at_a_time_end_exactly_once() -> None:
    async def watch(request: Any, context: Any) -> None:
        for number in range(request.after_sequence):
            context.push.on_message(pb.WatchRunResponse(run_id=str(number)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01 if request.run_id else 0)

    channel = channel_to(WatchRun=watch)
    sinks = [KeepingSink() for _ in range(300)]
    for index, sink in enumerate(sinks):
        request = pb.WatchRunRequest(after_sequence=index % 7, run_id="late" if index % 2 else "")
        handle = open_stream(channel, WATCH, request, sink, timeout=0.001 if index % 5 == 0 else 30)
        if index % 3 == 0:
            asyncio.get_running_loop().call_later(index / 20_000, handle.cancel)
    codes = {(await sink.end()).code for sink in sinks}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
    await asyncio.sleep(0.05)
    assert [len(sink.ends) for sink in sinks] == [1] * 300


def respond_later(context: Any) -> tuple[Callable[[Any], None], list[str]]:
    """Defers the response of a handler; returns what takes it, and notes of the end."""
    notes: list[str] = []
    return context.defer(lambda: notes.append("ended")), notes


async def test_a_deferred_response_ends_the_call_in_the_call_chain_that_gives_it() -> None:
    deferred: list[Any] = []

    def handler(request: Any, context: Any) -> Any:
        deferred.append(respond_later(context))
        return DEFERRED

    call = stub_of(check_frozen=True, GetRun=begun(handler)).GetRun(pb.GetRunRequest())
    assert deferred, "the handler begins at once"
    await asyncio.sleep(0.01)
    assert not call.done()
    (respond, notes) = deferred[0]
    respond(pb.GetRunResponse(run={"id": "r"}))
    assert call.done()
    assert notes == ["ended"]
    assert (await call).run.id == "r"
    respond(pb.GetRunResponse())
    assert (await call).run.id == "r"
    assert notes == ["ended"]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("end", ["cancel", "deadline"])
async def test_a_deferred_call_that_ends_first_tells_its_handler_once(waits: bool, end: str) -> None:
    deferred: list[Any] = []

    def handler(request: Any, context: Any) -> Any:
        if waits:
            return partial(later, context)
        deferred.append(respond_later(context))
        return DEFERRED

    async def later(context: Any) -> Any:
        await asyncio.sleep(0)
        deferred.append(respond_later(context))
        return DEFERRED

    timeout = 0.05 if end == "deadline" else None
    call = stub_of(GetRun=begun(handler)).GetRun(pb.GetRunRequest(), timeout=timeout)
    await asyncio.sleep(0.01)
    respond, notes = deferred[0]
    if end == "deadline":
        assert (await failure_of(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        call.cancel()
        assert notes == [], "the handler hears of it on a turn of its own"
        with pytest.raises(asyncio.CancelledError):
            await call
    await asyncio.sleep(0.01)
    respond(pb.GetRunResponse())
    assert notes == ["ended"]


async def test_a_deferred_response_that_is_too_large_fails_the_call() -> None:
    deferred: list[Any] = []

    def handler(request: Any, context: Any) -> Any:
        deferred.append(respond_later(context))
        return DEFERRED

    call = stub_of(GetRun=begun(handler)).GetRun(pb.GetRunRequest())
    respond, notes = deferred[0]
    respond(pb.GetRunResponse(run={"id": "x" * 200_000}))
    assert (await failure_of(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await asyncio.sleep(0)
    assert notes == ["ended"]


async def test_a_stopping_server_waits_for_deferred_calls_and_then_ends_them() -> None:
    deferred: list[Any] = []

    def handler(request: Any, context: Any) -> Any:
        deferred.append(respond_later(context))
        return DEFERRED

    server = InProcessServer(max_message_bytes=100_000)
    service = Service(GetRun=begun(handler))  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED
    run_service_pb2_grpc.add_RunServiceServicer_to_server(service, server)
    stub: Any = run_service_pb2_grpc.RunServiceStub(server.channel())
    first, second = stub.GetRun(pb.GetRunRequest()), stub.GetRun(pb.GetRunRequest())
    stopping = asyncio.ensure_future(server.stop(0.05))
    await asyncio.sleep(0)
    deferred[0][0](pb.GetRunResponse(run={"id": "r"}))
    assert (await first).run.id == "r"
    assert (await failure_of(second)).code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(stopping, 10)
    assert [notes for _, notes in deferred] == [["ended"], ["ended"]]


async def test_what_has_to_wait_has_a_task_of_its_own() -> None:
    caller, tasks, ended = asyncio.current_task(), [], asyncio.Event()

    async def handler(request: Any, context: Any) -> Any:
        tasks.append(asyncio.current_task())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, ValueError("news"))
        with pytest.raises(ValueError, match="news"):
            await future
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        if request.run_id:
            return pb.GetRunResponse(run={"id": request.run_id})
        try:
            await asyncio.sleep(10)
        finally:
            ended.set()

    stub = stub_of(GetRun=begun(lambda request, context: partial(handler, request, context)))
    assert (await stub.GetRun(pb.GetRunRequest(run_id="r"))).run.id == "r"
    assert tasks[0] is tasks[1]
    assert tasks[0] not in (caller, None)
    call = stub.GetRun(pb.GetRunRequest())
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait_for(ended.wait(), 10)
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_what_fails_at_once_fails_the_call_and_not_the_caller(error: type[BaseException]) -> None:
    async def handler(request: Any, context: Any) -> Any:
        raise error

    method = begun(lambda request, context: partial(handler, request, context))
    failure = await failure_of(stub_of(GetRun=method).GetRun(pb.GetRunRequest()))
    assert failure.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
