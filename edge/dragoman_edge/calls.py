"""Calls to the core, and what their failures mean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from dragoman.reasons import Reason
from dragoman.streaming import RequestT, ResponseT, StreamRpc
from dragoman.unary import UnaryRpc, begin_call
from dragoman.v1 import (
    account_service_pb2_grpc,
    catalog_service_pb2_grpc,
    conversation_service_pb2_grpc,
    credit_service_pb2_grpc,
    embedding_service_pb2_grpc,
    persona_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    usage_service_pb2_grpc,
)
from dragoman.v1.catalog_service_pb2 import ListModelsRequest
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.run_pb2 import Run
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from dragoman.streaming import CallStatus, Metadata
    from dragoman.unary import CallHandle, Then
    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman.v1.failure_pb2 import Failure
    from dragoman_edge.http.response import Response

T = TypeVar("T")

EXECUTE_RUN = UnaryRpc(
    "/dragoman.v1.RunService/ExecuteRun", run_service_pb2.ExecuteRunRequest, run_service_pb2.ExecuteRunResponse
)
STREAM_RUN = StreamRpc(
    "/dragoman.v1.RunService/StreamRun", run_service_pb2.StreamRunRequest, run_service_pb2.StreamRunResponse
)
WATCH_RUN = StreamRpc(
    "/dragoman.v1.RunService/WatchRun", run_service_pb2.WatchRunRequest, run_service_pb2.WatchRunResponse
)

_PAGE = 1000
"""Models of a page."""
_DETAILS_KEY = "grpc-status-details-bin"

# For statuses without details: from gRPC itself, or from a proxy between edge and core.
_REASON_OF_CODE = {
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_REQUEST,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND: Reason.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Reason.IDEMPOTENCY_CONFLICT,
    grpc.StatusCode.PERMISSION_DENIED: Reason.FORBIDDEN,
    grpc.StatusCode.UNAUTHENTICATED: Reason.API_KEY_INVALID,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.REQUEST_TOO_LARGE,  # gRPC's own use of it: its message size limits
    grpc.StatusCode.OUT_OF_RANGE: Reason.EVENTS_EVICTED,
    grpc.StatusCode.UNIMPLEMENTED: Reason.UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: Reason.OVERLOADED,
}

_CANCELLED: dict[int, tuple[Reason, str]] = {
    CancelReason.CANCEL_REASON_SHUTDOWN: (Reason.SHUTTING_DOWN, "The server shut down before the run ended."),
    CancelReason.CANCEL_REASON_DISCONNECTED: (Reason.CANCELLED, "The run was cancelled: its last caller had gone."),
}


class Core:
    """The core, as the edge reaches it: the stubs on one channel.

    Attributes:
        channel: The in-process channel or a `grpc.aio` channel.
        runs: The run service.
        catalog: The catalogue.
        embeddings: The embedding service.
        accounts: The account service.
        credits: The ledger.
        usage: The usage service.
        conversations: The stored conversations.
        personas: The personas.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.runs = run_service_pb2_grpc.RunServiceStub(channel)
        self.catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        self.embeddings = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self.credits = credit_service_pb2_grpc.CreditServiceStub(channel)
        self.usage = usage_service_pb2_grpc.UsageServiceStub(channel)
        self.accounts = account_service_pb2_grpc.AccountServiceStub(channel)
        self.conversations = conversation_service_pb2_grpc.ConversationServiceStub(channel)
        self.personas = persona_service_pb2_grpc.PersonaServiceStub(channel)


class UnaryAnswer(Generic[RequestT, ResponseT]):
    """The answer to a request, made of one call to the core that is still to be begun.

    It can be awaited, within a task. Whoever answers requests begins it with a callback instead, which needs none.
    """

    __slots__ = ("_call", "_made_of")

    def __init__(
        self,
        core: Core,
        rpc: UnaryRpc[RequestT, ResponseT],
        message: RequestT,
        metadata: Metadata,
        made_of: Callable[[ResponseT], Response],
    ) -> None:
        """Says what is to be called.

        Args:
            core: The core.
            rpc: The method.
            message: What it is asked; not to be changed afterwards.
            metadata: The metadata of the call.
            made_of: Makes the answer of the response, or raises an `EdgeError`.
        """
        self._call = (core.channel, rpc, message, metadata)
        self._made_of = made_of

    def begin(self, then: Then[ResponseT]) -> CallHandle:
        """Begins the call. How it ends is told to a function, perhaps before this returns; `finish` has the answer."""
        channel, rpc, message, metadata = self._call
        return begin_call(channel, rpc, message, then, metadata=metadata)

    def finish(self, response: ResponseT | None, status: CallStatus) -> Response:
        """Returns the answer, after the end of the call.

        Raises:
            EdgeError: If the call failed, or the response does not make a good answer.
        """
        if response is None:
            raise error_of_status(status.code, status.details, status.trailing_metadata)
        return self._made_of(response)

    def __await__(self) -> Generator[Any, None, Response]:
        return self._wait().__await__()

    async def _wait(self) -> Response:
        ended: asyncio.Future[tuple[ResponseT | None, CallStatus]] = asyncio.get_running_loop().create_future()

        def then(response: ResponseT | None, status: CallStatus) -> None:
            if not ended.done():
                ended.set_result((response, status))

        handle = self.begin(then)
        try:
            return self.finish(*await ended)
        except asyncio.CancelledError:
            handle.cancel()
            raise


async def answer_of(call: Awaitable[T]) -> T:
    """Awaits a unary call; cancelling the task that waits cancels the call.

    Raises:
        EdgeError: If the call fails.
    """
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of_status(error.code(), error.details() or "", tuple(error.trailing_metadata() or ())) from error


async def all_models(core: Core, metadata: Metadata, timeout: float | None = None) -> list[Model]:
    """Returns the whole catalogue, by id.

    Args:
        core: The core.
        metadata: The metadata of the calls.
        timeout: Seconds that each call may take.

    Raises:
        EdgeError: If a call fails.
    """
    models: list[Model] = []
    request = ListModelsRequest(page_size=_PAGE)
    while True:
        page = await answer_of(core.catalog.ListModels(request, metadata=metadata, timeout=timeout))
        models += page.models
        if not page.next_page_token:
            return models
        request = ListModelsRequest(page_size=_PAGE, page_token=page.next_page_token)


def error_of_status(code: grpc.StatusCode, message: str, trailing_metadata: Metadata) -> EdgeError:
    """Returns what a failed call's status means."""
    details = _details(trailing_metadata)
    if details is None or (info := _error_info(details)) is None:
        return _error_without_details(code, message)
    metadata = info.metadata
    error = EdgeError(
        details.message or message,
        reason=_reason(info.reason),
        retryable=metadata["retryable"] == "true" if "retryable" in metadata else None,
        metadata=metadata,
        run_id=metadata.get("run_id", ""),
    )
    violation, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in details.details:
        if detail.Unpack(violation) and violation.field_violations:
            error.field = violation.field_violations[0].field
        elif detail.Unpack(retry):
            error.retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return error


def error_of_failure(failure: Failure, run_id: str) -> EdgeError:
    """Returns what a failed run's failure means."""
    return EdgeError(
        failure.message,
        reason=_reason(failure.reason),
        field=failure.field,
        retryable=failure.retryable,
        retry_after=failure.retry_after.ToMilliseconds() / 1000 if failure.HasField("retry_after") else None,
        metadata=failure.metadata,
        run_id=run_id,
    )


def error_of_cancellation(reason: int, run_id: str) -> EdgeError:
    """Returns what a cancelled run means to a client that still waits for its answer."""
    name, message = _CANCELLED.get(reason, (Reason.CANCELLED, "The run was cancelled."))
    return EdgeError(message, reason=name, run_id=run_id)


def error_of_restart(run_id: str) -> EdgeError:
    """Returns why a stream that cannot take back what it said ends when a step of the run begins again."""
    message = f"The run {run_id} began a step again, and what this stream said of it is void: read the run."
    return EdgeError(message, reason=Reason.UNIMPLEMENTED, run_id=run_id)


def error_of_unknown_event() -> EdgeError:
    """Returns why a stream ends at an event that it has no words for, and must not leave out."""
    return EdgeError("The run did what this dialect cannot tell.", reason=Reason.UNIMPLEMENTED)


def raise_unless_completed(run: Run) -> None:
    """Does nothing for a run that ended well.

    Raises:
        EdgeError: If the run failed or was cancelled.
    """
    if run.state == Run.STATE_COMPLETED:
        return
    if run.state == Run.STATE_FAILED:
        raise error_of_failure(run.failure, run.id)
    raise error_of_cancellation(run.cancel_reason, run.id)


def _details(trailing_metadata: Metadata) -> status_pb2.Status | None:
    for key, value in trailing_metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return None


def _error_info(details: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    return info if any(detail.Unpack(info) for detail in details.details) else None


def _reason(name: str) -> Reason:
    """Returns the reason of a name; a core newer than this edge may know more of them."""
    try:
        return Reason(name)
    except ValueError:
        return Reason.INTERNAL


def _error_without_details(code: grpc.StatusCode, message: str) -> EdgeError:
    reason = _REASON_OF_CODE.get(code, Reason.INTERNAL)
    if code is grpc.StatusCode.UNAVAILABLE:
        message = "The core cannot be reached."  # gRPC's own message names addresses
    elif reason is Reason.INTERNAL:
        message = "The core had a fault while it handled the request."
    return EdgeError(message or code.name, reason=reason)
