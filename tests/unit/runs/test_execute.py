"""The two ways into ExecuteRun: the plain function of the in-process server, and the coroutine of all others."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from dragoman.v1.run_pb2 import DISCONNECT_POLICY_CANCEL
from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman_server.api.interceptors import call_id_var, caller_var
from dragoman_server.api.run import RunServicer
from dragoman_server.caller import Caller
from dragoman_server.errors import InvalidRequest
from dragoman_server.runs.service import StartOptions

CALLER = Caller("default", "key_1")


class RefusingRuns:
    """Keeps what it is asked to start, and refuses it: at once, or when awaited."""

    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.asked: list[tuple[Caller, StartOptions]] = []

    def begin(self, caller: Caller, _spec: Any, options: StartOptions) -> Any:
        self.asked.append((caller, options))
        if self.waits:
            return self._refuse()
        raise InvalidRequest("no", field="spec")

    async def submit(self, caller: Caller, spec: Any, options: StartOptions) -> Any:
        return await self.begin(caller, spec, options)

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


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("time_remaining", [None, 3.5])
async def test_both_ways_ask_for_the_same_and_are_refused_alike(*, waits: bool, time_remaining: float | None) -> None:
    runs: Any = RefusingRuns(waits=waits)
    servicer = RunServicer(runs)
    request = ExecuteRunRequest(request_id="r1")
    caller_var.set(CALLER)
    call_id_var.set("call-1")
    for way in (servicer.begin_execute, servicer.ExecuteRun):
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
    for way in (servicer.begin_execute, servicer.ExecuteRun):
        context: Any = CallContext(None)
        with pytest.raises(grpc.aio.AbortError):
            await way(ExecuteRunRequest(), context)
        assert [code for code, _ in context.ended] == [grpc.StatusCode.UNAUTHENTICATED]
    assert runs.asked == []
