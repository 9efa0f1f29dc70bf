"""The Python client's streams over calls that break: a service whose calls end where the test says."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from dragoman.reasons import DOMAIN, Reason
from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1 import run_service_pb2_grpc
from dragoman.v1.event_pb2 import CancelReason, RunCancelled, RunCompleted, RunEvent, RunFailed, RunStarted, TextDelta
from dragoman.v1.failure_pb2 import Failure
from dragoman_client import (
    DeadlineExceeded,
    Dragoman,
    EventsEvicted,
    NotFound,
    RunStream,
    StreamInterrupted,
    Unavailable,
)
from dragoman_client import RunCancelled as RunCancelledError
from dragoman_client import RunFailed as RunFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.message import Message

RUN = "run_0192f0c1"


@dataclass(frozen=True)
class Break:
    """Ends a call after some events: with a status, or silently."""

    after: int
    code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
    reason: Reason | None = None
    retry_after: float | None = 0.0
    metadata: dict[str, str] = field(default_factory=dict)


class BreakingRuns(run_service_pb2_grpc.RunServiceServicer):
    """Serves one log; the n-th call breaks as the n-th entry of `breaks` says, later ones go through."""

    def __init__(self, events: list[RunEvent]) -> None:
        self.events = events
        self.breaks: deque[Break] = deque()
        self.calls: list[tuple[str, str | int]] = []

    async def StreamRun(self, request: pb.StreamRunRequest, context: Any) -> AsyncIterator[pb.StreamRunResponse]:
        self.calls.append(("StreamRun", request.request_id))
        async for event in self._play(0, context):
            yield pb.StreamRunResponse(run_id=RUN, events=[event])

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        self.calls.append(("WatchRun", request.after_sequence))
        async for event in self._play(request.after_sequence, context):
            yield pb.WatchRunResponse(run_id=request.run_id, events=[event])

    async def _play(self, after: int, context: Any) -> AsyncIterator[RunEvent]:
        broken = self.breaks.popleft() if self.breaks else None
        rest = self.events[after:]
        for event in rest if broken is None else rest[: broken.after]:
            yield event
        if broken is not None and broken.code is not grpc.StatusCode.OK:
            await _abort(context, broken)


async def _abort(context: Any, broken: Break) -> None:
    assert broken.code is not None
    details: list[Message] = []
    if broken.reason is not None:
        info = error_details_pb2.ErrorInfo(reason=broken.reason, domain=DOMAIN, metadata=broken.metadata)
        details.append(info)
    if broken.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=int(broken.retry_after * 1e9))))
    status = status_pb2.Status(code=broken.code.value[0], message="broken")
    for detail in details:
        status.details.add().Pack(detail)
    await context.abort(broken.code, "broken", (("grpc-status-details-bin", status.SerializeToString()),))


def log(*kinds: dict[str, Any]) -> list[RunEvent]:
    return [RunEvent(sequence=sequence, **kind) for sequence, kind in enumerate(kinds, 1)]


def text(*pieces: str) -> Iterator[dict[str, Any]]:
    return ({"text_delta": TextDelta(text=piece)} for piece in pieces)


STARTED: dict[str, Any] = {"run_started": RunStarted(model="m")}
COMPLETED: dict[str, Any] = {"run_completed": RunCompleted()}
EVENTS = log(STARTED, *text("a", "b", "c", "d"), COMPLETED)


@asynccontextmanager
async def serving(events: list[RunEvent], *breaks: Break) -> AsyncIterator[tuple[Dragoman, BreakingRuns]]:
    runs = BreakingRuns(events)  # type: ignore[abstract]  # only what is called
    runs.breaks.extend(breaks)
    server = grpc.aio.server()
    run_service_pb2_grpc.add_RunServiceServicer_to_server(runs, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Dragoman(f"127.0.0.1:{port}") as client:
            yield client, runs
    finally:
        await server.stop(None)


async def collect(stream: RunStream, *, into: list[RunEvent]) -> None:
    async for event in stream:
        into.append(event)  # noqa: PERF401 - what came before an error is wanted too


async def test_goes_on_by_watching_after_the_last_event() -> None:
    too_slow = Break(after=2, code=grpc.StatusCode.ABORTED, reason=Reason.WATCHER_TOO_SLOW)
    async with serving(EVENTS, Break(after=2), too_slow) as (client, runs):
        stream = client.stream("hi", request_id="r1")
        assert [event.sequence async for event in stream] == [1, 2, 3, 4, 5, 6]
        assert runs.calls == [("StreamRun", "r1"), ("WatchRun", 2), ("WatchRun", 4)]
        assert (stream.run_id, stream.last_sequence) == (RUN, 6)


async def test_starts_again_under_its_request_id_while_the_run_is_unknown() -> None:
    async with serving(EVENTS, Break(after=0), Break(after=0)) as (client, runs):
        assert [piece async for piece in client.stream("hi", request_id="r1").text()] == ["a", "b", "c", "d"]
        assert runs.calls == [("StreamRun", "r1")] * 3


async def test_a_detached_run_is_followed_but_never_started_twice() -> None:
    async with serving(EVENTS, Break(after=1)) as (client, runs):
        assert len([event async for event in client.stream("hi", detach=True)]) == 6
        assert runs.calls == [("StreamRun", ""), ("WatchRun", 1)]
    async with serving(EVENTS, Break(after=0)) as (client, runs):
        with pytest.raises(Unavailable):
            await anext(client.stream("hi", detach=True))
        assert runs.calls == [("StreamRun", "")]


@pytest.mark.parametrize("options", [{}, {"request_id": "r1", "detach": False}])
async def test_a_run_that_ends_with_its_caller_is_not_followed(options: dict[str, Any]) -> None:
    async with serving(EVENTS, Break(after=3)) as (client, runs):
        stream = client.stream("hi", **options)
        seen: list[RunEvent] = []
        with pytest.raises(Unavailable) as caught:
            await collect(stream, into=seen)
        assert [event.sequence for event in seen] == [1, 2, 3]
        assert (caught.value.code, caught.value.run_id) == (grpc.StatusCode.UNAVAILABLE, RUN)
        assert len(runs.calls) == 1


async def test_an_end_without_a_terminal_event_is_a_break() -> None:
    async with serving(EVENTS, Break(after=2, code=grpc.StatusCode.OK)) as (client, runs):
        assert len([event async for event in client.stream("hi", detach=True)]) == 6
        assert runs.calls == [("StreamRun", ""), ("WatchRun", 2)]
    async with serving(EVENTS, Break(after=2, code=grpc.StatusCode.OK)) as (client, _):
        with pytest.raises(StreamInterrupted):
            _ = [event async for event in client.stream("hi")]


async def test_gives_up_after_calls_that_bring_nothing() -> None:
    async with serving(EVENTS, Break(after=1), *[Break(after=0)] * 20) as (client, runs):
        with pytest.raises(Unavailable):
            _ = [event async for event in client.stream("hi", request_id="r1")]
        assert len(runs.calls) == 7  # the first, which broke, and six resumptions


async def test_progress_renews_the_patience() -> None:
    pieces = [str(number) for number in range(30)]
    events = log(STARTED, *text(*pieces), COMPLETED)
    async with serving(events, *[Break(after=1), Break(after=0)] * 30) as (client, _):
        assert [piece async for piece in client.stream("hi", request_id="r1").text()] == pieces


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (Break(0, grpc.StatusCode.NOT_FOUND, Reason.RUN_NOT_FOUND), NotFound),
        (
            Break(0, grpc.StatusCode.OUT_OF_RANGE, Reason.EVENTS_EVICTED, None, {"first_available_sequence": "5"}),
            EventsEvicted,
        ),
    ],
)
async def test_what_cannot_be_resumed_is_said(broken: Break, error: type[NotFound | EventsEvicted]) -> None:
    async with serving(EVENTS, Break(after=2), broken) as (client, runs):
        with pytest.raises(error) as caught:
            _ = [event async for event in client.stream("hi", request_id="r1")]
        assert caught.value.reason == broken.reason
        if isinstance(caught.value, EventsEvicted):
            assert caught.value.first_available_sequence == 5
        assert len(runs.calls) == 2


async def test_a_gap_is_refused() -> None:
    events = [event for event in EVENTS if event.sequence != 3]
    async with serving(events) as (client, _):
        stream = client.stream("hi", request_id="r1")
        assert [(await anext(stream)).sequence, (await anext(stream)).sequence] == [1, 2]
        with pytest.raises(StreamInterrupted, match="Event 4 came after 2"):
            await anext(stream)


async def test_unknown_kinds_are_skipped_only_if_they_say_so() -> None:
    events = log(STARTED, *text("a"), {"ignorable": True}, *text("b"), COMPLETED)
    async with serving(events) as (client, _):
        assert [event.sequence async for event in client.stream("hi")] == [1, 2, 4, 5]
    async with serving(log(STARTED, {}, COMPLETED)) as (client, _):
        with pytest.raises(StreamInterrupted, match="too old"):
            _ = [event async for event in client.stream("hi")]


async def test_the_terminal_event_comes_before_what_it_means() -> None:
    failed = log(
        STARTED, *text("a"), {"run_failed": RunFailed(failure=Failure(reason="PROVIDER_FAILED", message="no"))}
    )
    async with serving(failed) as (client, _):
        stream = client.stream("hi")
        seen: list[RunEvent] = []
        with pytest.raises(RunFailedError) as caught:
            await collect(stream, into=seen)
        kinds = [event.WhichOneof("kind") for event in seen]
        assert kinds == ["run_started", "text_delta", "run_failed"]
        assert (caught.value.reason, caught.value.message, caught.value.run_id) == ("PROVIDER_FAILED", "no", RUN)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        watched = [event.WhichOneof("kind") async for event in client.runs.watch(RUN)]
        assert watched == kinds
    cancelled = log(STARTED, {"run_cancelled": RunCancelled(reason=CancelReason.CANCEL_REASON_REQUESTED)})
    async with serving(cancelled) as (client, _):
        with pytest.raises(RunCancelledError) as cancellation:
            _ = [event async for event in client.stream("hi")]
        assert cancellation.value.cancel_reason == CancelReason.CANCEL_REASON_REQUESTED


async def test_watching_resumes_and_ends_where_nothing_is_left() -> None:
    async with serving(EVENTS, Break(after=1)) as (client, runs):
        assert [event.sequence async for event in client.runs.watch(RUN, after_sequence=2)] == [3, 4, 5, 6]
        assert runs.calls == [("WatchRun", 2), ("WatchRun", 3)]
        assert [event async for event in client.runs.watch(RUN, after_sequence=6)] == []


async def test_the_timeout_spans_all_calls() -> None:
    async with serving(EVENTS, *[Break(after=0, retry_after=0.2)] * 20) as (client, _):
        with pytest.raises(DeadlineExceeded):
            _ = [event async for event in client.stream("hi", request_id="r1", timeout=0.5)]


async def test_a_closed_stream_brings_nothing_more() -> None:
    async with serving(EVENTS) as (client, runs):
        stream = client.stream("hi")
        async with stream:
            await anext(stream)
        assert [event async for event in stream] == []
        unread = client.stream("hi")
        await unread.aclose()
        assert [event async for event in unread] == []
        assert len(runs.calls) == 1


async def test_cancelling_the_reader_ends_the_call() -> None:
    left = asyncio.Event()

    class Endless(run_service_pb2_grpc.RunServiceServicer):
        async def StreamRun(self, request: pb.StreamRunRequest, context: Any) -> AsyncIterator[pb.StreamRunResponse]:
            try:
                yield pb.StreamRunResponse(run_id=RUN, events=EVENTS[:1])
                await asyncio.sleep(60)
            finally:
                left.set()

    server = grpc.aio.server()
    run_service_pb2_grpc.add_RunServiceServicer_to_server(Endless(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Dragoman(f"127.0.0.1:{port}") as client:
        stream = client.stream("hi")
        await anext(stream)
        reader = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await asyncio.wait_for(left.wait(), 10)
    await server.stop(None)
