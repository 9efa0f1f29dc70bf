from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from dragoman.streaming import CallStatus
from dragoman.unary import CallHandle, UnaryRpc, begin_call
from dragoman.v1 import run_service_pb2 as pb
from tests.support.echo_service import handler_mark, interceptor_mark
from tests.support.lanes import MAX_BYTES

if TYPE_CHECKING:
    from tests.support.lanes import Lane

EXECUTE = UnaryRpc("/dragoman.v1.RunService/ExecuteRun", pb.ExecuteRunRequest, pb.ExecuteRunResponse)
OK = CallStatus(grpc.StatusCode.OK)

mark: ContextVar[str] = ContextVar("mark", default="unset")


class Answer:
    """Keeps what a call tells of its end, and in which context."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, CallStatus]] = []
        self.context: Any = None
        self._news = asyncio.Event()

    def __call__(self, response: Any, status: CallStatus) -> None:
        self.told.append((response, status))
        self.context = copy_context()
        self._news.set()

    async def end(self) -> tuple[Any, CallStatus]:
        async with asyncio.timeout(10):
            await self._news.wait()
        return self.told[0]

    async def status(self) -> CallStatus:
        response, status = await self.end()
        assert response is None
        return status


def begin(lane: Lane, answer: Answer, do: str, request_id: str = "", /, labels: Any = (), **call: Any) -> CallHandle:
    request = pb.ExecuteRunRequest(request_id=request_id)
    request.spec.labels.update({"do": do, **dict(labels)})
    return begin_call(lane.channel, EXECUTE, request, answer, **call)


async def test_response_and_status(lane: Lane) -> None:
    plain, echo = Answer(), Answer()
    begin(lane, plain, "plain", "r1")
    begin(lane, echo, "echo", "r2", timeout=30)
    response, status = await plain.end()
    assert type(response) is pb.ExecuteRunResponse
    assert (response.run.id, status) == ("r1", OK)
    response, status = await echo.end()
    assert response.run.id == "r2"
    assert status == CallStatus(grpc.StatusCode.OK, "", (("last", "1"), ("last", "2"), ("last-bin", b"\xfe\xff")))
    await asyncio.sleep(0.05)
    assert (len(plain.told), len(echo.told)) == (1, 1)


async def test_many_calls_at_a_time(lane: Lane) -> None:
    answers = [Answer() for _ in range(50)]
    for number, answer in enumerate(answers):
        begin(lane, answer, "slow" if number % 2 else "plain", str(number))
    ids = [(await answer.end())[0].run.id for answer in answers]
    assert ids == [str(number) for number in range(50)]


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        ("abort", CallStatus(grpc.StatusCode.FAILED_PRECONDITION, "not now, é", (("why", "test"),))),
        ("abort_suppressed", CallStatus(grpc.StatusCode.ABORTED, "first")),
        ("preset_abort", CallStatus(grpc.StatusCode.ABORTED, "set before", (("kept", "yes"),))),
        ("set_code", CallStatus(grpc.StatusCode.NOT_FOUND, "set, not raised", (("k", "v"),))),
        ("fail", CallStatus(grpc.StatusCode.UNKNOWN, "Unexpected <class 'ValueError'>: bad é")),
        ("bad_trailing", CallStatus(grpc.StatusCode.INTERNAL, "Invalid metadata")),
        ("bad_initial", CallStatus(grpc.StatusCode.INTERNAL, "Invalid metadata")),
    ],
)
async def test_failures(lane: Lane, do: str, expected: CallStatus) -> None:
    answer = Answer()
    begin(lane, answer, do)
    assert await answer.status() == expected
    await lane.notes.wait_for("done True")
    assert len(answer.told) == 1


@pytest.mark.parametrize("do", ["none", "wrong_type"])
async def test_a_response_of_no_message_type(lane: Lane, do: str) -> None:
    answer = Answer()
    begin(lane, answer, do)
    assert (await answer.status()).code is grpc.StatusCode.UNKNOWN


async def test_messages_of_other_types_are_read_as_the_expected_ones(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "other_message", "r1")
    response, _ = await answer.end()
    assert type(response) is pb.ExecuteRunResponse
    assert response.run.id == "r1"
    answer, request = Answer(), pb.StartRunRequest(request_id="r2")
    request.spec.labels["do"] = "plain"
    begin_call(lane.channel, UnaryRpc(EXECUTE.path, pb.StartRunRequest, pb.GetRunResponse), request, answer)
    response, status = await answer.end()
    assert type(response) is pb.GetRunResponse
    assert (response.run.id, status) == ("r2", OK)


@pytest.mark.parametrize("request_message", ["text", StringValue(value="of another method")])
async def test_a_request_of_a_wrong_type(lane: Lane, request_message: Any) -> None:
    answer = Answer()
    begin_call(lane.channel, EXECUTE, request_message, answer)
    assert (await answer.status()).code is not grpc.StatusCode.OK


async def test_unknown_method(lane: Lane) -> None:
    answer = Answer()
    rpc = UnaryRpc("/dragoman.v1.RunService/Nothing", pb.GetRunRequest, pb.GetRunResponse)
    begin_call(lane.channel, rpc, pb.GetRunRequest(), answer)
    assert await answer.status() == CallStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_a_handler_with_a_response_stream_gives_no_response(lane: Lane) -> None:
    answer = Answer()
    rpc = UnaryRpc("/dragoman.v1.RunService/StreamRun", pb.StreamRunRequest, pb.StreamRunResponse)
    request = pb.StreamRunRequest()
    request.spec.labels.update({"do": "count", "messages": "0"})
    begin_call(lane.channel, rpc, request, answer)
    assert await answer.status() == CallStatus(grpc.StatusCode.INTERNAL, "The response is missing.")


async def test_generic_handlers(lane: Lane) -> None:
    answer = Answer()
    begin_call(lane.channel, UnaryRpc("/test.Raw/Join", StringValue, StringValue), StringValue(value="alone"), answer)
    response, status = await answer.end()
    assert (response.value, status) == ("alone", OK)


async def test_metadata_reaches_the_handler(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "plain", metadata=(("mark", "m1"), ("x-bin", b"\xff")))
    await answer.end()
    await lane.notes.wait_for("mark m1 b'\\xff'")


async def test_interceptors_may_refuse(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "plain", metadata=(("refuse", "yes"),))
    assert await answer.status() == CallStatus(grpc.StatusCode.PERMISSION_DENIED, "refused by the interceptor")


@pytest.mark.parametrize(
    "entry",
    [("Upper", "v"), ("", "v"), ("a b", "v"), ("a", "é"), ("a", "x\ny"), ("a", 5), (5, "a"), ("a-bin", "text")],
)
async def test_metadata_that_cannot_be_sent(lane: Lane, entry: Any) -> None:
    answer = Answer()
    begin(lane, answer, "plain", metadata=(("fine", "1"), entry))
    assert (await answer.status()).code is grpc.StatusCode.INTERNAL


async def test_metadata_entries_must_be_pairs(lane: Lane) -> None:
    answer = Answer()
    with pytest.raises(ValueError, match="unpack"):
        begin(lane, answer, "plain", metadata=(("alone",),))
    await asyncio.sleep(0.05)
    assert answer.told == []


async def test_sizes(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "large", labels={"size": "150000"})
    details = f"SERVER: Sent message larger than max (150008 vs. {MAX_BYTES})"
    assert await answer.status() == CallStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
    answer = Answer()
    begin(lane, answer, "plain", "x" * MAX_BYTES)
    status = await answer.status()
    assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status.details.startswith("SERVER: Received message larger than max")


async def test_deadline(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "wait", timeout=1)
    await lane.notes.wait_for("waiting")
    assert await answer.status() == CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    await lane.notes.wait_for("cancelled")


async def test_a_deadline_that_is_past_reaches_no_handler(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "wait", timeout=-1)
    assert await answer.status() == CallStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert "waiting" not in lane.notes.lines


async def test_cancel(lane: Lane) -> None:
    answer = Answer()
    handle = begin(lane, answer, "wait", timeout=60)
    await lane.notes.wait_for("waiting")
    handle.cancel()
    handle.cancel()
    await lane.notes.wait_for("cancelled")
    await lane.notes.wait_for("done True")
    await asyncio.sleep(0.05)
    assert answer.told == []


async def test_cancel_before_the_first_step(lane: Lane) -> None:
    answer, next_answer = Answer(), Answer()
    begin(lane, answer, "wait").cancel()
    begin(lane, next_answer, "plain")
    await next_answer.end()
    await asyncio.sleep(0.05)
    assert answer.told == []
    assert "waiting" not in lane.notes.lines


async def test_cancel_after_the_end(lane: Lane) -> None:
    answer = Answer()
    handle = begin(lane, answer, "plain", "r1")
    await answer.end()
    handle.cancel()
    await asyncio.sleep(0.05)
    assert [status for _, status in answer.told] == [OK]


async def test_the_call_goes_on_if_nobody_holds_its_handle(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "slow", "r1")
    gc.collect()
    assert (await answer.end())[0].run.id == "r1"


async def test_the_end_is_told_in_the_context_of_the_caller(lane: Lane) -> None:
    for do, call in (("contexts", {}), ("wait", {"timeout": 0.2}), ("plain", {"metadata": (("Upper", "v"),)})):
        answer = Answer()
        token = mark.set(do)
        begin(lane, answer, do, **call)
        mark.reset(token)
        await answer.end()
        assert [answer.context.get(var) for var in (mark, interceptor_mark, handler_mark)] == [do, None, None]


async def test_a_closed_channel(lane: Lane) -> None:
    answer = Answer()
    begin(lane, answer, "wait")
    await lane.notes.wait_for("waiting")
    await lane.channel.close()
    assert (await answer.status()).code is grpc.StatusCode.CANCELLED
    with pytest.raises(grpc.aio.UsageError):
        begin(lane, answer, "plain")
    assert len(answer.told) == 1


async def test_a_stopped_server(lane: Lane) -> None:
    answer, late = Answer(), Answer()
    begin(lane, answer, "wait")
    await lane.notes.wait_for("waiting")
    await lane.server.stop(None)
    assert (await answer.status()).code is grpc.StatusCode.UNAVAILABLE
    begin(lane, late, "plain")
    assert (await late.status()).code is grpc.StatusCode.UNAVAILABLE
