"""The RunService over every channel: what a caller sees must not depend on the way to the core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from dragoman.streaming import CallStatus, StreamHandle, StreamRpc, open_stream
from dragoman.v1.account_service_pb2 import GetCallerRequest
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman.v1.catalog_service_pb2 import GetModelRequest, ListModelsRequest
from dragoman.v1.catalog_service_pb2_grpc import CatalogServiceStub
from dragoman.v1.event_pb2 import CancelReason, RunEvent, TextDelta
from dragoman.v1.run_pb2 import DisconnectPolicy, Run
from dragoman.v1.run_service_pb2 import (
    CancelRunRequest,
    ExecuteRunRequest,
    GetRunRequest,
    ListRunsRequest,
    StartRunRequest,
    StreamRunRequest,
    StreamRunResponse,
    WatchRunRequest,
)
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.app import Core
from dragoman_server.inprocess import InProcessChannel
from dragoman_server.runs import run as run_module
from tests.support.core import CHANNELS, METADATA, AnyChannel, channel_to, running_core
from tests.support.runs import chat_spec

STREAM_RUN = StreamRpc("/dragoman.v1.RunService/StreamRun", StreamRunRequest, StreamRunResponse)
SCRIPT: dict[str, Any] = {
    "reasoning": ["hm", "..."],
    "text": ["a", "b", "c"],
    "tool_calls": [{"name": "f", "arguments": ['{"x"', ":1}"], "id": "call_1"}],
}
HANGING: dict[str, Any] = {"text": ["a", "b"], "hang": True}


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with running_core() as running:
        yield running


@pytest.fixture(params=CHANNELS)
async def channel(request: pytest.FixtureRequest, core: Core) -> AsyncIterator[AnyChannel]:
    async with channel_to(core, request.param) as opened:
        yield opened


@pytest.fixture
def stub(channel: AnyChannel) -> Any:
    return RunServiceStub(channel)


async def read(call: AsyncIterator[Any]) -> list[RunEvent]:
    return [event async for batch in call for event in batch.events]


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "dragoman"
    return info


def without_identity(run: Run) -> Run:
    same = Run()
    same.CopyFrom(run)
    for field in ("id", "create_time", "end_time"):
        same.ClearField(field)
    return same


def without_time(event: RunEvent) -> RunEvent:
    same = RunEvent()
    same.CopyFrom(event)
    same.ClearField("event_time")
    return same


class Sink:
    """A reader of a pushed stream that may leave at an event."""

    def __init__(self, leave_at: int | None = None) -> None:
        self.events: list[RunEvent] = []
        self.status: CallStatus | None = None
        self.handle: StreamHandle | None = None
        self.ended = asyncio.Event()
        self._leave_at = leave_at

    def on_message(self, message: StreamRunResponse) -> None:
        self.events.extend(message.events)
        if self._leave_at is not None and len(self.events) >= self._leave_at and self.handle is not None:
            self.handle.cancel()

    def on_end(self, status: CallStatus) -> None:
        assert self.status is None
        self.status = status
        self.ended.set()


async def test_execute_stream_and_watch_tell_the_same_run(stub: Any) -> None:
    executed = (await stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec(**SCRIPT)), metadata=METADATA)).run
    streamed = await read(stub.StreamRun(StreamRunRequest(spec=chat_spec(**SCRIPT), request_id="r"), metadata=METADATA))
    run_id = (await stub.ListRuns(ListRunsRequest(), metadata=METADATA)).runs[0].id
    watched = await read(stub.WatchRun(WatchRunRequest(run_id=run_id), metadata=METADATA))
    got = (await stub.GetRun(GetRunRequest(run_id=run_id), metadata=METADATA)).run
    assert streamed == watched
    assert [event.sequence for event in streamed] == list(range(1, len(streamed) + 1))
    assert executed.choices == got.choices
    assert executed.usage == got.usage
    assert executed.state == got.state == Run.STATE_COMPLETED
    assert executed.choices[0].message.parts[-1].tool_call.arguments == '{"x":1}'


async def test_pushed_and_iterated_streams_are_the_same(channel: AnyChannel, stub: Any) -> None:
    request = StreamRunRequest(spec=chat_spec(**SCRIPT), request_id="same")
    sink = Sink()
    sink.handle = open_stream(channel, STREAM_RUN, request, sink, metadata=METADATA)
    async with asyncio.timeout(10):
        await sink.ended.wait()
    assert sink.status is not None
    assert sink.status.code == grpc.StatusCode.OK
    assert sink.events == await read(stub.StreamRun(request, metadata=METADATA))


class TextSink(Sink):
    """Takes text as such, and makes events of it."""

    texts = 0

    def on_text(self, text: str, sequence: int) -> None:
        self.texts += 1
        event = RunEvent(sequence=sequence, text_delta=TextDelta(text=text))
        self.on_message(StreamRunResponse(events=[event]))


async def test_a_sink_that_takes_text_gets_the_same_events(channel: AnyChannel, stub: Any) -> None:
    request = StreamRunRequest(spec=chat_spec(**SCRIPT), request_id="text")
    sink = TextSink()
    sink.handle = open_stream(channel, STREAM_RUN, request, sink, metadata=METADATA)
    async with asyncio.timeout(10):
        await sink.ended.wait()
    expected = await read(stub.StreamRun(request, metadata=METADATA))
    assert [without_time(event) for event in sink.events] == [without_time(event) for event in expected]
    assert sink.texts == (len(SCRIPT["text"]) if isinstance(channel, InProcessChannel) else 0)


EVENTS_OF_SCRIPT = 15
LAST_BATCH = 4


@pytest.mark.parametrize("kind", CHANNELS)
async def test_a_client_may_leave_at_any_event(core: Core, kind: str) -> None:
    async with channel_to(core, kind) as channel:
        stub: Any = RunServiceStub(channel)
        whole = await read(stub.StreamRun(StreamRunRequest(spec=chat_spec(**SCRIPT)), metadata=METADATA))
        assert len(whole) == EVENTS_OF_SCRIPT
        for leave_at in range(1, len(whole) + 1):
            amid = leave_at <= len(whole) - LAST_BATCH
            spec = chat_spec(**SCRIPT, delay=0.002, hang=amid)  # else it could end before it hears of the leaving
            sink = Sink(leave_at)
            sink.handle = open_stream(channel, STREAM_RUN, StreamRunRequest(spec=spec), sink, metadata=METADATA)
            async with asyncio.timeout(10):
                await sink.ended.wait()
                while core.runs.active:
                    await asyncio.sleep(0.001)
            assert sink.status is not None
            newest = (await stub.ListRuns(ListRunsRequest(page_size=1), metadata=METADATA)).runs[0]
            if newest.state == Run.STATE_CANCELLED:
                assert newest.cancel_reason == CancelReason.CANCEL_REASON_DISCONNECTED
                assert newest.last_sequence >= leave_at
            else:
                assert (newest.state, amid) == (Run.STATE_COMPLETED, False)


async def test_a_stream_can_be_resumed_after_any_event(stub: Any) -> None:
    spec = chat_spec(**SCRIPT)
    whole = await read(stub.StreamRun(StreamRunRequest(spec=spec, request_id="resume"), metadata=METADATA))
    run_id = (await stub.ListRuns(ListRunsRequest(page_size=1), metadata=METADATA)).runs[0].id
    for after in range(len(whole) + 1):
        request = WatchRunRequest(run_id=run_id, after_sequence=after)
        assert await read(stub.WatchRun(request, metadata=METADATA)) == whole[after:]
    beyond = WatchRunRequest(run_id=run_id, after_sequence=len(whole) + 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(stub.WatchRun(beyond, metadata=METADATA))
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE


async def test_evicted_events_are_out_of_range_and_the_record_remains(stub: Any) -> None:
    await stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec("hi")), metadata=METADATA)
    run = (await stub.ListRuns(ListRunsRequest(), metadata=METADATA)).runs[0]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(stub.WatchRun(WatchRunRequest(run_id=run.id), metadata=METADATA))
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE
    info = error_info(caught.value)
    assert info.reason == "EVENTS_EVICTED"
    assert int(info.metadata["first_available_sequence"]) == run.last_sequence + 1 == run.first_available_sequence
    got = (await stub.GetRun(GetRunRequest(run_id=run.id), metadata=METADATA)).run
    assert got.choices[0].message.parts[0].text.text == "You said: hi"


async def test_a_watcher_follows_a_run_that_goes_on(stub: Any) -> None:
    spec = chat_spec(text=["a", "b", "c", "d"], delay=0.01)
    started = (await stub.StartRun(StartRunRequest(spec=spec), metadata=METADATA)).run
    assert started.state == Run.STATE_RUNNING
    events = await read(stub.WatchRun(WatchRunRequest(run_id=started.id), metadata=METADATA))
    assert "".join(event.text_delta.text for event in events) == "abcd"
    assert events[-1].WhichOneof("kind") == "run_completed"


async def test_cancel_run_ends_the_stream_of_its_caller(stub: Any) -> None:
    call = stub.StreamRun(StreamRunRequest(spec=chat_spec(**HANGING)), metadata=METADATA)
    events: list[RunEvent] = []
    async for batch in call:
        events.extend(batch.events)
        if any(event.HasField("text_delta") for event in batch.events):
            run = (await stub.CancelRun(CancelRunRequest(run_id=batch.run_id), metadata=METADATA)).run
            assert run.state == Run.STATE_CANCELLED
    assert events[-1].run_cancelled.reason == CancelReason.CANCEL_REASON_REQUESTED
    assert await call.code() == grpc.StatusCode.OK


async def test_the_deadline_of_a_stream_is_that_of_its_run(
    core: Core, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "DEADLINE_SLACK_SECONDS", 5.0)  # a busy machine holds timers up
    call = stub.StreamRun(StreamRunRequest(spec=chat_spec(**HANGING)), metadata=METADATA, timeout=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while core.runs.active:
            await asyncio.sleep(0.01)
    run = (await stub.ListRuns(ListRunsRequest(), metadata=METADATA)).runs[0]
    assert run.failure.reason == "DEADLINE_EXCEEDED"


async def test_the_deadline_of_a_watch_ends_the_watch_only(core: Core, stub: Any) -> None:
    started = (await stub.StartRun(StartRunRequest(spec=chat_spec(**HANGING)), metadata=METADATA)).run
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(stub.WatchRun(WatchRunRequest(run_id=started.id), metadata=METADATA, timeout=0.2))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert core.runs.active == 1


async def test_a_caller_of_execute_that_leaves_cancels_its_run(core: Core, stub: Any) -> None:
    call = stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec(**HANGING)), metadata=METADATA)
    async with asyncio.timeout(10):
        while not core.runs.active:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while core.runs.active:
            await asyncio.sleep(0.001)


async def test_a_duplicate_request_attaches_while_the_run_goes_on(core: Core, stub: Any) -> None:
    request = StreamRunRequest(spec=chat_spec(text=["a"] * 5, delay=0.02), request_id="dup")
    first, second = await asyncio.gather(
        read(stub.StreamRun(request, metadata=METADATA)), read(stub.StreamRun(request, metadata=METADATA))
    )
    assert first == second
    assert len((await stub.ListRuns(ListRunsRequest(), metadata=METADATA)).runs) == 1
    other = StreamRunRequest(spec=chat_spec("other"), request_id="dup")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(stub.StreamRun(other, metadata=METADATA))
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert error_info(caught.value).reason == "IDEMPOTENCY_CONFLICT"


async def test_a_detached_run_survives_its_caller(core: Core, stub: Any) -> None:
    spec = chat_spec(text=["a"] * 5, delay=0.02)
    spec.disconnect_policy = DisconnectPolicy.DISCONNECT_POLICY_DETACH
    call = stub.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA)
    run_id = (await call.read()).run_id
    call.cancel()
    events = await read(stub.WatchRun(WatchRunRequest(run_id=run_id), metadata=METADATA))
    assert "".join(event.text_delta.text for event in events) == "aaaaa"
    assert events[-1].HasField("run_completed")


async def test_a_failed_run_is_an_answer_and_not_a_failed_call(stub: Any) -> None:
    spec = chat_spec(text=["a"], fail_after={"after": 1, "reason": "PROVIDER_TIMEOUT", "message": "too slow"})
    run = (await stub.ExecuteRun(ExecuteRunRequest(spec=spec), metadata=METADATA)).run
    assert run.state == Run.STATE_FAILED
    assert run.failure.reason == "PROVIDER_TIMEOUT"
    events = await read(stub.StreamRun(StreamRunRequest(spec=spec), metadata=METADATA))
    assert events[-1].run_failed.failure == run.failure


async def test_refusals_are_statuses_with_details(stub: Any) -> None:
    hot = chat_spec("hi")
    hot.chat.sampling.temperature = 3
    for call, code, reason in (
        (stub.ExecuteRun(ExecuteRunRequest(spec=hot), metadata=METADATA), "INVALID_ARGUMENT", "INVALID_REQUEST"),
        (
            stub.ExecuteRun(ExecuteRunRequest(spec=chat_spec(model="no/such")), metadata=METADATA),
            "NOT_FOUND",
            "MODEL_NOT_FOUND",
        ),
        (stub.GetRun(GetRunRequest(run_id="run_x"), metadata=METADATA), "NOT_FOUND", "RUN_NOT_FOUND"),
        (stub.GetRun(GetRunRequest(run_id="run_x")), "UNAUTHENTICATED", "API_KEY_MISSING"),
        (
            stub.GetRun(GetRunRequest(run_id="run_x"), metadata=(("x-api-key", "dgm_wrong"),)),
            "UNAUTHENTICATED",
            "API_KEY_INVALID",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code().name == code
        assert error_info(caught.value).reason == reason


async def test_the_catalogue_and_the_caller(channel: AnyChannel) -> None:
    catalog: Any = CatalogServiceStub(channel)
    listed = (await catalog.ListModels(ListModelsRequest(), metadata=METADATA)).models
    assert [model.id for model in listed] == ["demo/echo", "demo/echo-slow", "demo/embed", "fast"]
    first = await catalog.ListModels(ListModelsRequest(page_size=2), metadata=METADATA)
    rest = await catalog.ListModels(ListModelsRequest(page_size=2, page_token=first.next_page_token), metadata=METADATA)
    assert [*first.models, *rest.models] == list(listed)
    assert not rest.next_page_token
    default = (await catalog.GetModel(GetModelRequest(), metadata=METADATA)).model
    assert default.is_default
    assert default.ready
    accounts: Any = AccountServiceStub(channel)
    assert (await accounts.GetCaller(GetCallerRequest(), metadata=METADATA)).account_id == "default"


async def test_the_channels_give_the_same_run(core: Core) -> None:
    runs = []
    for kind in CHANNELS:
        async with channel_to(core, kind) as channel:
            stub: Any = RunServiceStub(channel)
            request = ExecuteRunRequest(spec=chat_spec(**SCRIPT))
            runs.append(without_identity((await stub.ExecuteRun(request, metadata=METADATA)).run))
    assert runs[0] == runs[1] == runs[2]
