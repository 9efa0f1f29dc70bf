"""What can go wrong, as one tree.

DragomanClientError
├── InvalidRequest     the request breaks the contract, or the model cannot do what it asks for
├── Unauthenticated    missing, wrong, expired or revoked key
├── Forbidden          the key does not permit this call
├── NotFound           unknown, or another account's
├── Conflict           changed since it was read, taken, or the request id was used with another request
├── EventsEvicted      the events asked for are no longer kept
├── Unavailable        no room, not ready, unreachable or failing: trying again may help
├── DeadlineExceeded   the time that the caller gave is over
├── StreamInterrupted  a stream broke off or cannot be followed
├── RunFailed          the run ended with a failure
└── RunCancelled       the run was cancelled
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from dragoman.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.event_pb2 import CancelReason
    from dragoman.v1.failure_pb2 import Failure

_DETAILS_KEY = "grpc-status-details-bin"


class DragomanClientError(Exception):
    """A call or a run that did not end well.

    Attributes:
        message: What is wrong, where, and what to do; for people.
        reason: The stable name of the cause, one of `dragoman.reasons.Reason` or a newer server's; empty when the call
            never reached a server that gave one.
        code: The gRPC status code; None for a run that failed, since its call went well.
        field: The request field at fault, as a path in the contract, or empty.
        metadata: The variable parts of the message, for programs.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds to wait before trying again, if the server said.
        run_id: The run, if one was involved and is known.
    """

    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode | None = None,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        run_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.field = field
        self.metadata = dict(metadata or {})
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.run_id = run_id

    def __str__(self) -> str:
        name = self.reason or (self.code.name if self.code else "")
        where = f" (field {self.field})" if self.field else ""
        return f"{name}: {self.message}{where}" if name else f"{self.message}{where}"


class InvalidRequest(DragomanClientError):
    """The request breaks the contract, or the model cannot do what it asks for."""


class Unauthenticated(DragomanClientError):
    """The call carries no valid key."""


class Forbidden(DragomanClientError):
    """The key does not permit this call."""


class NotFound(DragomanClientError):
    """The thing does not exist, or belongs to another account."""


class Conflict(DragomanClientError):
    """The thing was changed since it was read, its name is taken, or the request id was used with another request."""


class EventsEvicted(DragomanClientError):
    """The events asked for are no longer kept; `first_available_sequence` names the oldest one that is."""

    @property
    def first_available_sequence(self) -> int:
        """The oldest sequence that can still be watched; 0 if the server did not say."""
        return int(self.metadata.get("first_available_sequence", "0"))


class Unavailable(DragomanClientError):
    """The server or a provider behind it cannot answer now."""

    default_retryable = True


class DeadlineExceeded(DragomanClientError):
    """The time that the caller gave is over."""


class StreamInterrupted(DragomanClientError):
    """A stream broke off before the run ended, or cannot be followed any further."""


class RunFailed(DragomanClientError):
    """The run ended with a failure.

    Attributes:
        failure: The failure as the run's record has it.
    """

    def __init__(self, failure: Failure, run_id: str) -> None:
        super().__init__(
            failure.message,
            reason=failure.reason,
            field=failure.field,
            metadata=failure.metadata,
            retryable=failure.retryable,
            retry_after=failure.retry_after.ToTimedelta().total_seconds() if failure.HasField("retry_after") else None,
            run_id=run_id,
        )
        self.failure = failure


class RunCancelled(DragomanClientError):
    """The run was cancelled: by someone, by the disconnect of its last caller, or by the end of the server.

    Attributes:
        cancel_reason: Which of these it was.
    """

    def __init__(self, cancel_reason: CancelReason, run_id: str) -> None:
        super().__init__("The run was cancelled.", reason=Reason.CANCELLED, run_id=run_id)
        self.cancel_reason = cancel_reason


_CLASSES: dict[grpc.StatusCode, type[DragomanClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.OUT_OF_RANGE: EventsEvicted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.ABORTED: StreamInterrupted,
}
_CLASSES_OF_REASONS: dict[str, type[DragomanClientError]] = {
    Reason.REQUEST_TOO_LARGE: InvalidRequest,
    Reason.CONFLICT: Conflict,
}
"""Where the reason is finer than the status."""


def error_of(error: grpc.aio.AioRpcError, run_id: str = "") -> DragomanClientError:
    """Returns the error that a failed call means, from its status and the `google.rpc` details that it carries."""
    code = error.code()
    reason, field, retry_after = "", "", None
    retryable: bool | None = None
    metadata: dict[str, str] = {}
    for detail in _status_of(error).details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
            if said := metadata.pop("retryable", ""):
                retryable = said == "true"
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field if bad.field_violations else ""
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    cls = _CLASSES_OF_REASONS.get(reason) or _CLASSES.get(code, DragomanClientError)
    return cls(
        error.details() or code.name,
        reason=reason,
        code=code,
        field=field,
        metadata=metadata,
        retryable=retryable,
        retry_after=retry_after,
        run_id=run_id,
    )


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    return status_pb2.Status()
