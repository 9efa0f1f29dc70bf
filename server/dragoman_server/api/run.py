"""The RunService: proto in, engine call, proto out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dragoman.v1 import run_service_pb2_grpc
from dragoman.v1.event_pb2 import CANCEL_REASON_REQUESTED
from dragoman.v1.run_pb2 import DISCONNECT_POLICY_CANCEL, DISCONNECT_POLICY_DETACH
from dragoman.v1.run_service_pb2 import (
    CancelRunRequest,
    CancelRunResponse,
    ExecuteRunRequest,
    ExecuteRunResponse,
    GetRunRequest,
    GetRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    StartRunRequest,
    StartRunResponse,
    StreamRunRequest,
    StreamRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from dragoman_server.api.interceptors import call_id_var, caller_of
from dragoman_server.api.status import abort, mapped
from dragoman_server.api.streams import relay
from dragoman_server.errors import DragomanError, InvalidRequest
from dragoman_server.inprocess import DEFERRED, begun_by
from dragoman_server.paging import decode_token, encode_token, page_size
from dragoman_server.runs.run import LiveRun
from dragoman_server.runs.service import Runs, StartOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


class RunServicer(run_service_pb2_grpc.RunServiceServicer):
    """Serves `dragoman.v1.RunService`.

    Args:
        runs: The engine.
        on_start: Is told of each run that a call starts, and of the method.
    """

    def __init__(self, runs: Runs, on_start: Callable[[LiveRun, str], None] | None = None) -> None:
        self._runs = runs
        self._on_start = on_start

    def begin_execute(self, request: ExecuteRunRequest, context: Any) -> Any:
        """Does what ExecuteRun does, for the in-process server: no task waits for the run, whose end is the call's."""
        begun: Any
        try:
            begun = self._runs.begin(caller_of(), request.spec, _execute_options(request, context))
        except DragomanError as error:
            return partial(abort, context, error)
        if begun.__class__ is not LiveRun:  # it has to be admitted first
            return partial(self._execute, begun, context)
        return self._executed_later(begun, context)

    @begun_by(begin_execute)
    @mapped
    async def ExecuteRun(self, request: ExecuteRunRequest, context: Context) -> ExecuteRunResponse:
        submit = partial(self._runs.submit, caller_of(), request.spec, _execute_options(request, context))
        response: ExecuteRunResponse = await self._execute(submit, context)
        return response

    @mapped
    async def _execute(self, submit: Callable[[], Awaitable[LiveRun]], context: Any) -> Any:
        run = await submit()
        return self._executed_later(run, context) or await self._executed(run)

    def _executed_later(self, run: LiveRun, context: Any) -> Any:
        """Has the call answered by the run's end, and returns DEFERRED; returns None where that is not possible."""
        if self._on_start is not None:
            self._on_start(run, "ExecuteRun")
        run.add_caller()
        defer = getattr(context, "defer", None)
        respond = None if defer is None else defer(run.remove_caller)
        if respond is None:
            return None
        run.when_ended(lambda: respond(run.response(), run.response_size))
        return DEFERRED

    async def _executed(self, run: LiveRun) -> ExecuteRunResponse:
        try:
            await run.wait_ended()
        finally:
            run.remove_caller()
        return run.response()

    @mapped
    async def StreamRun(  # type: ignore[override]  # a coroutine that writes, as grpc.aio allows
        self, request: StreamRunRequest, context: Context
    ) -> None:
        options = StartOptions(
            "StreamRun",
            request.request_id,
            time_remaining=context.time_remaining(),
            call_id=call_id_var.get(),
            size=getattr(context, "request_size", 0),
        )
        run = await self._start(request, options)
        run.add_caller()
        try:
            await relay(context, run, after_sequence=0)
        finally:
            run.remove_caller()

    @mapped
    async def StartRun(self, request: StartRunRequest, context: Context) -> StartRunResponse:
        options = StartOptions(
            "StartRun", request.request_id, default_policy=DISCONNECT_POLICY_DETACH, call_id=call_id_var.get()
        )
        return StartRunResponse(run=(await self._start(request, options)).record())

    @mapped
    async def WatchRun(  # type: ignore[override]  # a coroutine that writes, as grpc.aio allows
        self, request: WatchRunRequest, context: Context
    ) -> None:
        if request.after_sequence < 0:
            raise InvalidRequest("`after_sequence` must not be negative", field="after_sequence")
        run = self._runs.get(caller_of(), request.run_id)
        await relay(context, run, request.after_sequence, convert=_as_watched)

    @mapped
    async def GetRun(self, request: GetRunRequest, context: Context) -> GetRunResponse:
        return GetRunResponse(run=self._runs.get(caller_of(), request.run_id).record())

    @mapped
    async def ListRuns(self, request: ListRunsRequest, context: Context) -> ListRunsResponse:
        caller = caller_of()
        size = page_size(request.page_size)
        before = decode_token(caller.account_id, request.page_token, str)
        found = self._runs.list(caller, size + 1, str(before[0]) if before else "")
        response = ListRunsResponse()
        for run in found[:size]:
            listed = response.runs.add()
            listed.CopyFrom(run.record())
            listed.ClearField("choices")
        if len(found) > size:
            response.next_page_token = encode_token(caller.account_id, found[size - 1].id)
        return response

    @mapped
    async def CancelRun(self, request: CancelRunRequest, context: Context) -> CancelRunResponse:
        run = self._runs.get(caller_of(), request.run_id)
        run.cancel(CANCEL_REASON_REQUESTED)
        return CancelRunResponse(run=run.record())

    async def _start(
        self, request: ExecuteRunRequest | StreamRunRequest | StartRunRequest, options: StartOptions
    ) -> LiveRun:
        run = await self._runs.submit(caller_of(), request.spec, options)
        if self._on_start is not None:
            self._on_start(run, options.method)
        return run


def _execute_options(request: ExecuteRunRequest, context: Any) -> StartOptions:
    return tuple.__new__(  # half the time of StartOptions(...)
        StartOptions,
        (
            "ExecuteRun",
            request.request_id,
            DISCONNECT_POLICY_CANCEL,
            False,  # incremental
            context.time_remaining(),
            call_id_var.get(),
            getattr(context, "request_size", 0),
        ),
    )


def _as_watched(batch: StreamRunResponse) -> WatchRunResponse:
    return WatchRunResponse(run_id=batch.run_id, events=batch.events)
