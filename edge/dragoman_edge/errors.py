"""What can go wrong at the edge, before a dialect puts it into its own words."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from dragoman.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.http.errors import HttpError


class EdgeError(Exception):
    """A request that cannot be answered as it should be.

    The reason decides the HTTP status and code; what a dialect already knows better is given beside it.

    Attributes:
        message: What is wrong, where, and what to do; for people.
        reason: The stable name.
        field: The field at fault, as a path in the contract; dialects translate it.
        param: The field at fault in the dialect's own words, if known; wins over `field`.
        code: The dialect's code, if it is finer than what the reason says.
        status: The HTTP status, if it is finer than what the reason says.
        retryable: Whether the same request may succeed later; None leaves it to the reason.
        retry_after: Seconds to wait before trying again, if known.
        metadata: The variable parts of the message, for programs.
        headers: Further headers of the answer.
        run_id: The run that failed, if there was one.
        request_id: The name of the request, once it is about to be answered.
        close: Whether the connection is closed after the answer: what follows on it cannot be relied on.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.INVALID_REQUEST,
        field: str = "",
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        run_id: str = "",
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.param = param
        self.code = code
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})
        self.headers = dict(headers or {})
        self.run_id = run_id
        self.request_id = ""
        self.close = close


_REASONS_OF_HTTP = {
    "overloaded": Reason.OVERLOADED,
    "request_too_large": Reason.REQUEST_TOO_LARGE,
    "shutting_down": Reason.SHUTTING_DOWN,
}


def error_of_http(error: HttpError) -> EdgeError:
    """Returns what bad HTTP means; the connection is closed after it."""
    reason = _REASONS_OF_HTTP.get(error.code, Reason.INVALID_REQUEST)
    retryable = True if error.status == HTTPStatus.REQUEST_TIMEOUT else None
    return EdgeError(
        error.message, reason=reason, status=error.status, code=error.code, retryable=retryable, close=True
    )


def internal_error() -> EdgeError:
    """Returns the error for a fault of the edge itself; the log has the details, the client does not."""
    return EdgeError("The server had a fault while it handled the request.", reason=Reason.INTERNAL)
