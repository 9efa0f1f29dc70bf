"""A `RunService` that does what the labels of a request say, and raw methods for request streams.

The label `do` names the behaviour; see the functions marked `@_unary` and `@_stream`. What happens on the server's side
is written to `notes`, for tests to wait for.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

FLOOD_BYTES = 20_000
"""Size of each message of the behaviour `flood`."""

interceptor_mark: ContextVar[str] = ContextVar("interceptor_mark", default="unset")
handler_mark: ContextVar[str] = ContextVar("handler_mark", default="unset")


class Notes:
    """What happened on the server's side."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    async def wait_for(self, line: str) -> None:
        """Waits until a line was noted.

        Raises:
            TimeoutError: If it takes longer than 10 s.
        """
        async with asyncio.timeout(10):
            while line not in self.lines:
                self._news.clear()
                await self._news.wait()


class NotingInterceptor(grpc.aio.ServerInterceptor):
    """Notes every call, and marks its context."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        metadata = dict(handler_call_details.invocation_metadata or ())
        interceptor_mark.set(str(metadata.get("mark", "none")))
        if "mark" in metadata:
            self._notes.add(f"mark {metadata['mark']!s} {metadata.get('x-bin')!r}")
        handler = await continuation(handler_call_details)
        self._notes.add(f"intercepted {handler_call_details.method} {'found' if handler else 'missing'}")
        if metadata.get("refuse") == "yes":
            return grpc.unary_unary_rpc_method_handler(_refuse)
        return handler


async def _refuse(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "refused by the interceptor")
    return b""


def metadata_seen(context: grpc.aio.ServicerContext[Any, Any]) -> list[tuple[str, str | bytes]]:
    """Returns the caller's metadata without what only some transports add."""
    return [(key, value) for key, value in context.invocation_metadata() or () if key != "user-agent"]


class EchoService(run_service_pb2_grpc.RunServiceServicer):
    """Behaves as told."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.sent = 0
        """How many messages the behaviour `flood` has handed over."""

    async def ExecuteRun(self, request: pb.ExecuteRunRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        response = pb.ExecuteRunResponse()
        response.run.id = request.request_id
        self._watch(context)
        labels = request.spec.labels
        return await _UNARY[labels["do"]](Call(self, context, labels, response))

    async def StreamRun(
        self, request: pb.StreamRunRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        self._watch(context)
        labels = request.spec.labels
        async with aclosing(_STREAM[labels["do"]](Call(self, context, labels, None))) as messages:
            async for message in messages:
                yield message

    async def WatchRun(  # type: ignore[override]  # the stubs do not know handlers that write
        self, request: pb.WatchRunRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Pushes `after_sequence` messages if it can, else writes them."""
        self._watch(context)
        push = getattr(context, "push", None)
        for number in range(request.after_sequence):
            message = pb.WatchRunResponse(run_id=str(number))
            if push is None:
                await context.write(message)
            else:
                push.on_message(message)
        if request.run_id == "fail":
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more", (("kept", "3"),))
        if request.run_id == "wait":
            await wait_noting(self.notes)

    def _watch(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        def note(ctx: object) -> None:
            self.notes.add(f"done {ctx is context}")

        context.add_done_callback(note)  # type: ignore[arg-type]  # the stub names a class, not a protocol


@dataclass
class Call:
    """What a behaviour works with; `response` echoes the request id of a unary call."""

    service: EchoService
    context: Any
    labels: Mapping[str, str]
    response: Any

    @property
    def notes(self) -> Notes:
        return self.service.notes


async def wait_noting(notes: Notes) -> None:
    """Waits to be cancelled."""
    notes.add("waiting")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        notes.add("cancelled")
        raise


_UNARY: dict[str, Callable[[Call], Awaitable[Any]]] = {}
_STREAM: dict[str, Callable[[Call], AsyncGenerator[Any, None]]] = {}


def _unary(behaviour: Callable[[Call], Awaitable[Any]]) -> Callable[[Call], Awaitable[Any]]:
    _UNARY[behaviour.__name__] = behaviour
    return behaviour


def _stream(behaviour: Callable[[Call], AsyncGenerator[Any, None]]) -> Callable[[Call], AsyncGenerator[Any, None]]:
    _STREAM[behaviour.__name__] = behaviour
    return behaviour


# Behaviours of ExecuteRun.


@_unary
async def echo(call: Call) -> Any:
    seen = repr(metadata_seen(call.context)).encode("unicode_escape").decode()
    await call.context.send_initial_metadata((("seen", seen), ("first-bin", b"\x00\x01")))
    call.context.set_trailing_metadata((("last", "1"), ("last-bin", b"\xfe\xff"), ("last", "2")))
    return call.response


@_unary
async def plain(call: Call) -> Any:
    return call.response


@_unary
async def wait(call: Call) -> Any:
    await wait_noting(call.notes)
    return call.response


@_unary
async def stubborn(call: Call) -> Any:
    try:
        await wait_noting(call.notes)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        call.notes.add("went on")
    return call.response


@_unary
async def slow(call: Call) -> Any:
    await asyncio.sleep(0.1)
    call.notes.add("finished")
    return call.response


@_unary
async def abort(call: Call) -> Any:
    await call.context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now, é", (("why", "test"),))


@_unary
async def abort_suppressed(call: Call) -> Any:
    try:
        await call.context.abort(grpc.StatusCode.ABORTED, "first")
    except grpc.aio.AbortError as error:
        call.notes.add(str(error))
    try:
        await call.context.abort(grpc.StatusCode.DATA_LOSS, "second")
    except grpc.aio.UsageError as error:
        call.notes.add(str(error))
    return call.response


@_unary
async def abort_with_details(call: Call) -> Any:
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no such run")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain="dragoman"))
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await call.context.abort(grpc.StatusCode.NOT_FOUND, status.message, trailing)


@_unary
async def preset_abort(call: Call) -> Any:
    call.context.set_details("set before")
    call.context.set_trailing_metadata((("kept", "yes"),))
    await call.context.abort(grpc.StatusCode.ABORTED)


@_unary
async def set_code(call: Call) -> Any:
    call.context.set_code(grpc.StatusCode.NOT_FOUND)
    call.context.set_details("set, not raised")
    call.context.set_trailing_metadata((("k", "v"),))
    call.notes.add(f"code {call.context.code()} {call.context.details()} {call.context.trailing_metadata()}")
    return call.response


@_unary
async def set_code_number(call: Call) -> Any:
    call.context.set_code(5)
    return call.response


@_unary
async def fail(call: Call) -> Any:
    raise ValueError("bad é")


@_unary
async def fail_with_code(call: Call) -> Any:
    call.context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
    call.context.set_trailing_metadata((("k", "v"),))
    raise ValueError("bad")


@_unary
async def none(call: Call) -> Any:
    return None


@_unary
async def wrong_type(call: Call) -> Any:
    return 5


@_unary
async def other_message(call: Call) -> Any:
    return pb.GetRunResponse(run=call.response.run)  # the same fields under another name


@_unary
async def large(call: Call) -> Any:
    call.response.run.id = "x" * int(call.labels["size"])
    return call.response


@_unary
async def initial_twice(call: Call) -> Any:
    await call.context.send_initial_metadata((("once", "1"),))
    try:
        await call.context.send_initial_metadata((("twice", "1"),))
    except grpc.aio.UsageError as error:
        call.notes.add(str(error))
    return call.response


@_unary
async def bad_initial(call: Call) -> Any:
    try:
        await call.context.send_initial_metadata((("Upper", "1"),))
    except grpc.aio.InternalError:
        call.notes.add("refused")
    return call.response


@_unary
async def bad_trailing(call: Call) -> Any:
    for wrong in (5, {"a": "b"}, (("a", 5),), ("a",), ((1, "a"),)):
        try:
            call.context.set_trailing_metadata(wrong)
        except TypeError:
            call.notes.add("wrong type")
    call.context.set_trailing_metadata((("Upper", "1"),))
    return call.response


@_unary
async def describe(call: Call) -> Any:
    remaining = call.context.time_remaining()
    in_time = remaining if remaining is None else 0 < remaining < 31
    context = call.context
    call.notes.add(f"identity {context.peer_identities()} {context.peer_identity_key()}")
    call.notes.add(f"state {in_time} {context.done()} {context.cancelled()}")
    call.notes.add(f"status {context.code()} {context.details()!r} {context.trailing_metadata()}")
    call.notes.add(f"peer {context.peer().partition(':')[0]}")
    return call.response


@_unary
async def contexts(call: Call) -> Any:
    call.notes.add(f"{interceptor_mark.get()} {handler_mark.get()}")
    handler_mark.set("set by a handler")
    return call.response


# Behaviours of StreamRun.


def batch(number: int) -> pb.StreamRunResponse:
    return pb.StreamRunResponse(run_id=str(number))


@_stream
async def count(call: Call) -> AsyncGenerator[Any, None]:
    for number in range(int(call.labels["messages"])):
        yield batch(number)
    call.context.set_trailing_metadata((("sent", call.labels["messages"]),))


@_stream
async def echo_metadata(call: Call) -> AsyncGenerator[Any, None]:
    seen = repr(metadata_seen(call.context)).encode("unicode_escape").decode()
    await call.context.send_initial_metadata((("seen", seen),))
    yield batch(0)


@_stream
async def count_then_abort(call: Call) -> AsyncGenerator[Any, None]:
    for number in range(int(call.labels["messages"])):
        yield batch(number)
    await call.context.abort(grpc.StatusCode.ABORTED, "enough", (("k", "v"), ("k-bin", b"\xff")))


@_stream
async def count_then_fail(call: Call) -> AsyncGenerator[Any, None]:
    for number in range(int(call.labels["messages"])):
        yield batch(number)
    raise KeyError("k")


@_stream
async def count_then_wait(call: Call) -> AsyncGenerator[Any, None]:
    try:
        for number in range(int(call.labels["messages"])):
            yield batch(number)
        await wait_noting(call.notes)
    finally:
        call.notes.add("cleaned up")


@_stream
async def count_then_code(call: Call) -> AsyncGenerator[Any, None]:
    for number in range(int(call.labels["messages"])):
        yield batch(number)
    call.context.set_code(grpc.StatusCode.NOT_FOUND)
    call.context.set_details("gone")


@_stream
async def none_between(call: Call) -> AsyncGenerator[Any, None]:
    yield batch(0)
    yield None
    yield batch(1)


@_stream
async def large_second(call: Call) -> AsyncGenerator[Any, None]:
    yield batch(0)
    yield pb.StreamRunResponse(run_id="x" * int(call.labels["size"]))
    yield batch(2)


@_stream
async def flood(call: Call) -> AsyncGenerator[Any, None]:
    try:
        while True:
            yield pb.StreamRunResponse(run_id="x" * FLOOD_BYTES)
            call.service.sent += 1
    finally:
        call.notes.add("cleaned up")


class RawService:
    """Methods with request streams, as generic handlers of `StringValue` messages."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def handlers(self) -> grpc.GenericRpcHandler:
        codec: dict[str, Any] = {
            "request_deserializer": StringValue.FromString,
            "response_serializer": StringValue.SerializeToString,
        }
        unary, stream = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            "test.Raw",
            {
                "Join": unary(self.join, **codec),
                "Early": unary(self.early, **codec),
                "AbortAfterFirst": unary(self.abort_after_first, **codec),
                "Never": unary(self.never, **codec),
                "Mirror": stream(self.mirror, **codec),
                "MirrorReading": stream(self.mirror_reading, **codec),
                "Bytes": grpc.unary_unary_rpc_method_handler(self.raw_bytes),
            },
        )

    async def join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value=",".join([request.value async for request in requests]))

    async def early(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value="early")

    async def abort_after_first(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        await context.read()
        await context.abort(grpc.StatusCode.ABORTED, "one is enough")
        return StringValue()

    async def never(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        await wait_noting(self._notes)
        return StringValue()

    async def mirror(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield request
        self._notes.add("mirrored")

    async def mirror_reading(self, requests: AsyncIterator[StringValue], context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(request)

    async def raw_bytes(self, request: bytes, context: Any) -> bytes:
        return request[::-1]
