"""Failures as gRPC statuses: the one table, and how a servicer uses it."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from dragoman.reasons import DOMAIN, Reason
from dragoman_server.errors import DragomanError

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

Code = grpc.StatusCode

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.INVALID_REQUEST: Code.INVALID_ARGUMENT,
    Reason.UNSUPPORTED_FEATURE: Code.INVALID_ARGUMENT,
    Reason.CONTEXT_LENGTH_EXCEEDED: Code.INVALID_ARGUMENT,
    Reason.REQUEST_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    Reason.API_KEY_MISSING: Code.UNAUTHENTICATED,
    Reason.API_KEY_INVALID: Code.UNAUTHENTICATED,
    Reason.API_KEY_EXPIRED: Code.UNAUTHENTICATED,
    Reason.API_KEY_REVOKED: Code.UNAUTHENTICATED,
    Reason.TOKEN_INVALID: Code.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: Code.UNAUTHENTICATED,
    Reason.LOGIN_FAILED: Code.UNAUTHENTICATED,
    Reason.ACCOUNT_DISABLED: Code.PERMISSION_DENIED,
    Reason.FORBIDDEN: Code.PERMISSION_DENIED,
    Reason.NOT_FOUND: Code.NOT_FOUND,
    Reason.MODEL_NOT_FOUND: Code.NOT_FOUND,
    Reason.RUN_NOT_FOUND: Code.NOT_FOUND,
    Reason.IDEMPOTENCY_CONFLICT: Code.ALREADY_EXISTS,
    Reason.CONFLICT: Code.ABORTED,
    Reason.INSUFFICIENT_CREDITS: Code.FAILED_PRECONDITION,
    Reason.SUBSCRIPTION_REQUIRED: Code.PERMISSION_DENIED,
    Reason.RATE_LIMITED: Code.RESOURCE_EXHAUSTED,
    Reason.EVENTS_EVICTED: Code.OUT_OF_RANGE,
    Reason.WATCHER_TOO_SLOW: Code.ABORTED,
    Reason.UPSTREAM_NOT_ALLOWED: Code.INVALID_ARGUMENT,
    Reason.UPSTREAM_AUTH: Code.FAILED_PRECONDITION,
    Reason.OVERLOADED: Code.RESOURCE_EXHAUSTED,
    Reason.MODEL_NOT_READY: Code.UNAVAILABLE,
    Reason.SHUTTING_DOWN: Code.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
    Reason.CANCELLED: Code.CANCELLED,
    Reason.PROVIDER_REJECTED: Code.INVALID_ARGUMENT,
    Reason.PROVIDER_AUTH: Code.FAILED_PRECONDITION,
    Reason.PROVIDER_RATE_LIMITED: Code.RESOURCE_EXHAUSTED,
    Reason.PROVIDER_FAILED: Code.UNAVAILABLE,
    Reason.PROVIDER_UNREACHABLE: Code.UNAVAILABLE,
    Reason.PROVIDER_TIMEOUT: Code.UNAVAILABLE,
    Reason.PROVIDER_PROTOCOL: Code.UNAVAILABLE,
    Reason.CONTENT_FILTERED: Code.INVALID_ARGUMENT,
    Reason.STORE_UNAVAILABLE: Code.UNAVAILABLE,
    Reason.UNIMPLEMENTED: Code.UNIMPLEMENTED,
    Reason.INTERNAL: Code.INTERNAL,
}


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def status_of(error: DragomanError) -> status_pb2.Status:
    """Returns the failure as a `google.rpc.Status`: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    metadata = {**error.metadata, "retryable": "true" if error.retryable else "false"}
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(_packed(retry))
    return status_pb2.Status(code=CODES[error.reason].value[0], message=error.message, details=details)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: DragomanError) -> NoReturn:
    """Ends the call with the failure's status."""
    status = status_of(error)
    trailing = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(CODES[error.reason], error.message, (trailing,))
    raise AssertionError("abort returned")  # it always raises


HandlerT = TypeVar("HandlerT", bound="Callable[..., Any]")


def mapped(handler: HandlerT) -> HandlerT:
    """Decorates a servicer method (a coroutine function): what it raises from `errors.py` becomes the call's status."""
    assert inspect.iscoroutinefunction(handler)

    @functools.wraps(handler)
    async def wrapper(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handler(self, request, context)
        except DragomanError as error:
            await abort(context, error)

    return wrapper  # type: ignore[return-value]  # the same signature, which functools.wraps cannot say
