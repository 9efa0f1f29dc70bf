"""Calls that begin within the call that starts them, and end within the call chain that responds."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from dragoman.streaming import CallStatus, StreamRpc, open_stream
from dragoman.unary import CallHandle, UnaryRpc, begin_call
from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc
from dragoman_server.inprocess import DEFERRED, InProcessServer, begun_by
from tests.support.sinks import KeepingSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman_server.inprocess import InProcessChannel

GET = UnaryRpc("/dragoman.v1.RunService/GetRun", pb.GetRunRequest, pb.GetRunResponse)
OK = CallStatus(grpc.StatusCode.OK)
RUN = pb.GetRunResponse(run={"id": "r"})

mark: ContextVar[str] = ContextVar("mark", default="unset")


class Service(run_service_pb2_grpc.RunServiceServicer):
    """Its GetRun is begun by a plain function, and keeps what that is given."""

    def __init__(self, react: Callable[[Any, Any], Any] | None = None) -> None:
        self.react = react
        self.contexts: list[Any] = []
        self.responds: list[Any] = []
        self.notes: list[str] = []

    def begin_get(self, request: pb.GetRunRequest, context: Any) -> Any:
        self.contexts.append(context)
        if self.react is not None:
            return self.react(request, context)
        self.responds.append(context.defer(lambda: self.notes.append("ended")))
        return DEFERRED

    @begun_by(begin_get)
    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        self.notes.append("general way")
        return pb.GetRunResponse(run={"id": request.run_id})


class Ends(list[tuple[Any, CallStatus]]):
    """Keeps how a call ended; `react` is called then."""

    def __init__(self, react: Callable[[], Any] = lambda: None) -> None:
        self.react = react

    def __call__(self, response: Any, status: CallStatus) -> None:
        self.append((response, status))
        self.react()


def server_of(service: Any, *interceptors: Any, check_frozen: bool = False) -> InProcessServer:
    server = InProcessServer(interceptors, max_message_bytes=100_000, check_frozen=check_frozen)
    run_service_pb2_grpc.add_RunServiceServicer_to_server(service, server)
    return server


def channel_to(service: Any, *interceptors: Any, check_frozen: bool = False) -> InProcessChannel:
    return server_of(service, *interceptors, check_frozen=check_frozen).channel()


def begin(channel: InProcessChannel, ends: Ends, run_id: str = "", **call: Any) -> CallHandle:
    return begin_call(channel, GET, pb.GetRunRequest(run_id=run_id), ends, **call)


@pytest.fixture
def service() -> Service:
    return Service()  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED


@pytest.mark.parametrize("check_frozen", [False, True])
@pytest.mark.parametrize("size", [None, 3, 100_001])
async def test_the_end_is_told_in_the_call_chain_that_responds(
    service: Service, check_frozen: bool, size: int | None
) -> None:
    ends = Ends()
    begin(channel_to(service, check_frozen=check_frozen), ends)
    (respond,) = service.responds
    assert ends == []
    respond(RUN, size)
    assert ends == [(RUN, OK)]
    assert ends[0][0] is RUN
    respond(RUN, size)
    await asyncio.sleep(0.01)
    assert (len(ends), service.notes) == (1, ["ended"])


async def test_the_call_is_over_when_its_end_is_told(service: Service) -> None:
    server = server_of(service)
    channel = server.channel()
    seen: list[object] = []
    ends = Ends(lambda: seen.extend([list(service.notes), server.active(channel), begin(channel, Ends())]))
    begin(channel, ends)
    service.contexts[0].add_done_callback(lambda _: service.notes.append("done"))
    service.responds[0](RUN)
    assert seen[:2] == [["ended", "done"], []]
    assert len(service.responds) == 2
    assert len(server.active(channel)) == 1


async def test_a_response_within_the_handler_is_told_before_the_call_returns() -> None:
    def respond_at_once(request: Any, context: Any) -> Any:
        context.defer(lambda: notes.append("ended"))(RUN)
        return DEFERRED

    notes: list[str] = []
    ends = Ends()
    server = server_of(Service(respond_at_once))  # type: ignore[abstract]  # as above
    channel = server.channel()
    begin(channel, ends)
    assert ends == [(RUN, OK)]
    assert notes == ["ended"]
    assert server.active(channel) == []


async def test_the_end_is_told_in_the_callers_context(service: Service) -> None:
    seen: list[str] = []
    channel = channel_to(service)
    mark.set("caller")
    begin(channel, Ends(lambda: seen.append(mark.get())))
    mark.set("elsewhere")
    service.responds[0](RUN)
    assert seen == ["caller"]


@pytest.mark.parametrize("how", ["cancel", "deadline", "close", "stop"])
async def test_other_ends(service: Service, how: str) -> None:
    server, ends = server_of(service), Ends()
    channel = server.channel()
    handle = begin(channel, ends, timeout=0.01 if how == "deadline" else 60)
    if how == "cancel":
        handle.cancel()
    elif how == "close":
        await channel.close()
    elif how == "stop":
        await server.stop(None)
    await asyncio.sleep(0.05)
    codes = {
        "deadline": [grpc.StatusCode.DEADLINE_EXCEEDED],
        "close": [grpc.StatusCode.CANCELLED],
        "stop": [grpc.StatusCode.UNAVAILABLE],
    }
    assert [(response, status.code) for response, status in ends] == [(None, code) for code in codes.get(how, [])]
    assert service.notes == ["ended"]
    assert server.active(channel) == []
    service.responds[0](RUN)
    await asyncio.sleep(0)
    assert (len(ends), service.notes) == (len(codes.get(how, [])), ["ended"])


async def test_cancel_between_the_end_and_its_telling(service: Service) -> None:
    channel, ends = channel_to(service), Ends()
    handle = begin(channel, ends)
    await channel.close()
    handle.cancel()
    await asyncio.sleep(0.01)
    assert ends == []


async def test_a_response_that_is_too_large(service: Service) -> None:
    ends = Ends()
    begin(channel_to(service), ends)
    service.responds[0](pb.GetRunResponse(run={"id": "x" * 200_000}))
    assert [(response, status.code) for response, status in ends] == [(None, grpc.StatusCode.RESOURCE_EXHAUSTED)]
    assert service.notes == ["ended"]


async def test_a_response_of_another_type_is_read_as_the_expected_one(service: Service) -> None:
    ends = Ends()
    begin(channel_to(service), ends)
    service.responds[0](pb.CancelRunResponse(run={"id": "r"}), 3)
    assert ends == [(RUN, OK)]
    assert type(ends[0][0]) is pb.GetRunResponse


async def test_a_status_that_was_set_counts(service: Service) -> None:
    ends = Ends()
    channel = channel_to(service)
    reacts: list[Callable[[Any], object]] = [
        lambda context: context.set_code(grpc.StatusCode.NOT_FOUND),
        lambda context: context.set_details("set"),
        lambda context: context.set_trailing_metadata((("k", "v"),)),
    ]
    for react in reacts:
        begin(channel, ends)
        react(service.contexts[-1])
        service.responds[-1](RUN, 3)
    assert ends == [
        (None, CallStatus(grpc.StatusCode.NOT_FOUND)),
        (RUN, CallStatus(grpc.StatusCode.OK, "set")),
        (RUN, CallStatus(grpc.StatusCode.OK, "", (("k", "v"),))),
    ]


async def test_a_request_that_is_too_large_reaches_nobody(service: Service) -> None:
    ends = Ends()
    begin(channel_to(service), ends, "x" * 100_000)
    assert [status.code for _, status in ends] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert service.contexts == []


async def test_what_begins_a_call_may_leave_the_rest_to_a_task() -> None:
    async def rest(request: Any) -> Any:
        async with asyncio.timeout(10):  # needs a task, and that of the call
            await asyncio.sleep(0)
        return pb.GetRunResponse(run={"id": request.run_id})

    ends = Ends()
    channel = channel_to(Service(lambda request, _: partial(rest, request)))  # type: ignore[abstract]  # as above
    asyncio.get_running_loop().call_soon(begin, channel, ends, "r")  # within no task
    await asyncio.sleep(0)
    assert ends == []
    await asyncio.sleep(0.01)
    assert ends == [(RUN, OK)]


async def test_what_begins_a_call_may_fail() -> None:
    def fail(_request: Any, context: Any) -> Any:
        context.defer(lambda: notes.append("ended"))
        raise ValueError("bad")

    notes: list[str] = []
    ends = Ends()
    server = server_of(Service(fail))  # type: ignore[abstract]  # as above
    channel = server.channel()
    begin(channel, ends)
    await asyncio.sleep(0)
    assert ends == [(None, CallStatus(grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: bad"))]
    assert notes == ["ended"]
    assert server.active(channel) == []


async def test_what_begins_a_call_may_abort() -> None:
    def refuse(_request: Any, context: Any) -> Any:
        return partial(context.abort, grpc.StatusCode.NOT_FOUND, "none")

    ends = Ends()
    begin(channel_to(Service(refuse)), ends)  # type: ignore[abstract]  # as above
    await asyncio.sleep(0.01)
    assert ends == [(None, CallStatus(grpc.StatusCode.NOT_FOUND, "none"))]


class Admitting(grpc.aio.ServerInterceptor):
    """Lets in at once what it is told to."""

    def __init__(self, admits: bool) -> None:
        self.admits, self.asked = admits, 0

    def admit(self, method: str, metadata: Any) -> bool:
        return self.admits

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self.asked += 1
        return await continuation(handler_call_details)


async def test_what_is_not_admitted_at_once_goes_the_general_way(service: Service) -> None:
    ends, admitting, other = Ends(), Admitting(True), Admitting(False)
    begin(channel_to(service, admitting), ends)
    assert (len(service.responds), admitting.asked) == (1, 0)
    begin(channel_to(service, admitting, other), ends, "r")
    await asyncio.sleep(0.01)
    assert ends == [(RUN, OK)]
    assert (service.notes, admitting.asked, other.asked) == (["general way"], 1, 1)


async def test_a_caller_who_expects_a_stream_goes_the_general_way_and_cannot_be_answered_later() -> None:
    class Deferring(run_service_pb2_grpc.RunServiceServicer):
        def begin_get(self, _request: Any, _context: Any) -> Any:
            raise AssertionError("such a caller may be gone before a task could take note of it")

        @begun_by(begin_get)
        async def GetRun(self, _request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
            assert context.defer(lambda: None) is None
            return RUN

    channel, sink = channel_to(Deferring()), KeepingSink()  # type: ignore[abstract]
    open_stream(channel, StreamRpc(GET.path, GET.request_type, GET.response_type), pb.GetRunRequest(), sink)
    assert await sink.end() == OK
    assert sink.messages == [RUN]


async def test_a_caller_who_sends_a_stream_goes_the_general_way(service: Service) -> None:
    call: Any = channel_to(service).stream_unary(GET.path, GET.request_type.SerializeToString, RUN.FromString)
    assert await call([pb.GetRunRequest(run_id="r")]) == RUN
    assert service.notes == ["general way"]


async def test_stubs_are_answered_as_well(service: Service) -> None:
    stub: Any = run_service_pb2_grpc.RunServiceStub(channel_to(service))
    call = stub.GetRun(pb.GetRunRequest())
    service.responds[0](RUN, 3)
    assert call.done()
    assert await call is RUN


async def test_a_begun_call_leaves_no_cycle(service: Service) -> None:
    class Reader:
        """Holds the handle of its call, as who may want to cancel it does."""

        handle: Any = None

        def then(self, response: Any, status: CallStatus) -> None:
            ended.append(status.code)

    ended: list[grpc.StatusCode] = []
    channel = channel_to(service)
    gc.collect()
    gc.disable()
    try:
        readers = [Reader() for _ in range(3)]
        for reader, timeout in zip(readers, (None, 60, 0.01), strict=True):
            reader.handle = begin_call(channel, GET, pb.GetRunRequest(), reader.then, timeout=timeout)
        for respond in service.responds[:2]:
            respond(RUN, 3)
        await asyncio.sleep(0.05)
        assert ended == [grpc.StatusCode.OK, grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED]
        service.contexts.clear()
        service.responds.clear()
        dead = [weakref.ref(reader) for reader in readers]
        del readers, reader, respond
        assert [ref() for ref in dead] == [None, None, None]
    finally:
        gc.enable()


async def test_an_interceptor_that_fails_fails_the_call(service: Service) -> None:
    class Failing(Admitting):
        def admit(self, method: str, metadata: Any) -> bool:
            raise ValueError("bad")

    ends = Ends()
    server = server_of(service, Failing(True))
    channel = server.channel()
    begin(channel, ends)
    assert ends == [(None, CallStatus(grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: bad"))]
    assert server.active(channel) == []
