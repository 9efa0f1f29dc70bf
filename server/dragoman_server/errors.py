"""The failures of the core.

    DragomanError
    ├── InvalidRequest            the request breaks the contract
    │   ├── UnsupportedFeature    the model cannot do what is asked for
    │   └── ContextLengthExceeded the prompt does not fit
    ├── Unauthenticated           missing, wrong, expired or revoked key
    ├── Forbidden                 the key does not permit this
    ├── NotFound                  unknown, or another account's
    ├── IdempotencyConflict       request id used with another request
    ├── Conflict                  changed since it was read, or its name is taken
    ├── InsufficientCredits       the balance does not buy the work
    ├── RateLimited               more than the caller's limits allow
    ├── EventsEvicted             the events asked for are no longer kept
    ├── WatcherTooSlow            the reader fell behind
    ├── Unavailable               no room, not ready, or shutting down: try again
    ├── DeadlineExceeded
    ├── ProviderError             what a provider did wrong; one reason each
    └── Unimplemented             not offered, or an extra is missing

Every failure has a stable `reason` (`dragoman.reasons`). `api/status.py` maps reasons to gRPC statuses; each dialect of
the edge maps them to its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dragoman.reasons import Reason
from dragoman.v1 import failure_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.usage_pb2 import Usage


class DragomanError(Exception):
    """A failure with a stable reason.

    Attributes:
        message: What is wrong, where, and what to do; for people.
        reason: The stable name.
        field: The request field at fault, as a path in the contract, or empty.
        metadata: The variable parts of the message, for programs.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds to wait before trying again, if known.
    """

    default_reason: ClassVar[Reason] = Reason.INTERNAL
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after = retry_after

    def to_failure(self) -> failure_pb2.Failure:
        """Returns the failure as data, for the event that ends a run."""
        failure = failure_pb2.Failure(
            reason=self.reason,
            message=self.message,
            retryable=self.retryable,
            field=self.field,
            metadata=self.metadata,
        )
        if self.retry_after is not None:
            failure.retry_after.FromMilliseconds(int(self.retry_after * 1000))
        return failure


class InvalidRequest(DragomanError):
    """The request breaks the contract."""

    default_reason = Reason.INVALID_REQUEST


class UnsupportedFeature(InvalidRequest):
    """The model cannot do what is asked for."""

    default_reason = Reason.UNSUPPORTED_FEATURE


class Dispensable(UnsupportedFeature):
    """The model has no word for a wish that it all but fulfils as it is: the field may be left out, if that is told."""


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the model's context."""

    default_reason = Reason.CONTEXT_LENGTH_EXCEEDED


class Unauthenticated(DragomanError):
    """The call carries no valid key."""

    default_reason = Reason.API_KEY_INVALID


class Forbidden(DragomanError):
    """The key does not permit this call."""

    default_reason = Reason.FORBIDDEN


class NotFound(DragomanError):
    """The thing does not exist, or belongs to another account."""

    default_reason = Reason.NOT_FOUND


class IdempotencyConflict(DragomanError):
    """The request id was used with another request."""

    default_reason = Reason.IDEMPOTENCY_CONFLICT


class Conflict(DragomanError):
    """The thing was changed since it was read, or one with this name exists."""

    default_reason = Reason.CONFLICT


class InsufficientCredits(DragomanError):
    """The balance does not buy the work."""

    default_reason = Reason.INSUFFICIENT_CREDITS


class RateLimited(DragomanError):
    """The caller asks for more than its limits allow."""

    default_reason = Reason.RATE_LIMITED
    default_retryable = True


class EventsEvicted(DragomanError):
    """The events asked for are no longer kept."""

    default_reason = Reason.EVENTS_EVICTED


class WatcherTooSlow(DragomanError):
    """The reader fell behind what is kept; it may resume."""

    default_reason = Reason.WATCHER_TOO_SLOW
    default_retryable = True


class Unavailable(DragomanError):
    """The server cannot take the request now."""

    default_reason = Reason.OVERLOADED
    default_retryable = True


class DeadlineExceeded(DragomanError):
    """The time that the caller gave is over."""

    default_reason = Reason.DEADLINE_EXCEEDED


class ProviderError(DragomanError):
    """A provider did something wrong; the reason says what.

    Attributes:
        usage: What a call that returns its answer at once has consumed all the same, as far as the provider told.
    """

    default_reason = Reason.PROVIDER_FAILED
    default_retryable = True

    usage: Usage | None = None


class Unimplemented(DragomanError):
    """The server does not offer this, or an extra is not installed."""

    default_reason = Reason.UNIMPLEMENTED
