"""The two ways into ExecuteRun: the plain function of the in-process server, and the coroutine of all others."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from dragoman.unary import UnaryRpc, begin_call
from dragoman.v1 import run_service_pb2_grpc
from dragoman.v1.run_pb2 import DISCONNECT_POLICY_CANCEL, RunSpec
from dragoman.v1.run_service_pb2 import ExecuteRunRequest, ExecuteRunResponse
from dragoman_server.api.interceptors import call_id_var, caller_var
from dragoman_server.api.run import RunServicer
from dragoman_server.caller import Caller
from dragoman_server.errors import InvalidRequest
from dragoman_server.inprocess import InProcessChannel, InProcessServer
from dragoman_server.runs.service import StartOptions
from tests.support.runs import chat_spec, engine
from tests.support.sinks import KeepingSink

CALLER = Caller("default", "key_1")
METHOD = "/dragoman.v1.RunService/ExecuteRun"


class RefusingRuns:
    """Keeps what it is asked to start, and refuses it: at once, or when awaited."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.asked: list[tuple[Caller, StartOptions]] = []

    def begin(self, caller: Caller, _spec: Any, options: StartOptions) -> Any:
        self.asked.append((caller, options))
        if self.waits:
            return self._refuse
        raise InvalidRequest("no", field="spec")

    async def submit(self, caller: Caller, spec: Any, options: StartOptions) -> Any:
        return await self.begin(caller, spec, options)()

    async def _refuse(self) -> Any:
        raise InvalidRequest("no", field="spec")


class CallContext:
    """Keeps the status that a call is ended with."""

    def __init__(self, time_remaining: float | None) -> None:
        self._time_remaining = time_remaining
        self.ended: list[tuple[grpc.StatusCode, str]] = []

    def time_remaining(self) -> float | None:
        return self._time_remaining

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.ended.append((code, details))
        raise grpc.aio.AbortError


def as_a_task_does(servicer: RunServicer) -> Callable[[Any, Any], Any]:
    """Returns the plain function, and what is left of it in a task."""
    return lambda request, context: servicer.begin_execute(request, context)()


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("time_remaining", [None, 3.5])
async def test_both_ways_ask_for_the_same_and_are_refused_alike(*, waits: bool, time_remaining: float | None) -> None:
    runs: Any = RefusingRuns(waits=waits)
    servicer = RunServicer(runs)
    request = ExecuteRunRequest(request_id="r1")
    caller_var.set(CALLER)
    call_id_var.set("call-1")
    for way in (as_a_task_does(servicer), servicer.ExecuteRun):
        context: Any = CallContext(time_remaining)
        with pytest.raises(grpc.aio.AbortError):
            await way(request, context)
        assert context.ended == [(grpc.StatusCode.INVALID_ARGUMENT, "no")]
    expected = StartOptions(
        method="ExecuteRun",
        request_id="r1",
        default_policy=DISCONNECT_POLICY_CANCEL,
        incremental=False,
        time_remaining=time_remaining,
        call_id="call-1",
    )
    assert runs.asked == [(CALLER, expected), (CALLER, expected)]
    assert all(type(options) is StartOptions for _, options in runs.asked)


async def test_without_a_caller_both_ways_refuse() -> None:
    runs: Any = RefusingRuns(waits=False)
    servicer = RunServicer(runs)
    for way in (as_a_task_does(servicer), servicer.ExecuteRun):
        context: Any = CallContext(None)
        with pytest.raises(grpc.aio.AbortError):
            await way(ExecuteRunRequest(), context)
        assert [code for code, _ in context.ended] == [grpc.StatusCode.UNAUTHENTICATED]
    assert runs.asked == []


class Admitting(grpc.aio.ServerInterceptor):
    """Lets every call through at once."""

    def admit(self, _method: str, _metadata: Any) -> bool:
        caller_var.set(CALLER)
        return True

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        raise AssertionError("it was admitted")


def open_as_a_tunnel_does(channel: InProcessChannel, request: ExecuteRunRequest) -> Callable[[], object]:
    return channel.open_serialized(METHOD, request.SerializeToString(), KeepingSink()).cancel


def call_as_a_stub_does(channel: InProcessChannel, request: ExecuteRunRequest) -> Callable[[], object]:
    method = channel.unary_unary(METHOD, ExecuteRunRequest.SerializeToString, ExecuteRunResponse.FromString)
    return method(request).cancel


def begin_as_the_edge_does(channel: InProcessChannel, request: ExecuteRunRequest) -> Callable[[], object]:
    rpc = UnaryRpc(METHOD, ExecuteRunRequest, ExecuteRunResponse)
    return begin_call(channel, rpc, request, lambda _response, _status: None).cancel


def admitted_later() -> RunSpec:
    spec = chat_spec(first_delay=60)
    spec.chat.persona = "nobody"
    return spec


@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("spec", [admitted_later(), RunSpec()], ids=["admitted later", "refused"])
@pytest.mark.parametrize("call", [begin_as_the_edge_does, open_as_a_tunnel_does, call_as_a_stub_does])
async def test_a_call_that_is_cancelled_at_any_time_leaves_nothing_to_await(
    call: Any, spec: RunSpec, turns: int
) -> None:
    async with engine() as runs:
        server = InProcessServer([Admitting()], max_message_bytes=1_000_000)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(RunServicer(runs), server)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            cancel = call(server.channel(), ExecuteRunRequest(spec=spec))
            for _ in range(turns):
                await asyncio.sleep(0)
            cancel()
            await server.stop(None)
            gc.collect()
        assert [str(warning.message) for warning in warned] == []
        assert runs.active == 0


@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("call", [open_as_a_tunnel_does, call_as_a_stub_does])
async def test_a_caller_who_goes_at_any_time_takes_the_run_along(call: Any, turns: int) -> None:
    async with engine() as runs:
        server = InProcessServer([Admitting()], max_message_bytes=1_000_000)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(RunServicer(runs), server)
        cancel = call(server.channel(), ExecuteRunRequest(spec=chat_spec(first_delay=60)))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert runs.active == 0
        await server.stop(None)
