"""From the library's exceptions to failures with a reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError
from dragoman_server.providers.failures import failure_of_status, sanitized

if TYPE_CHECKING:
    from collections.abc import Mapping

_CODES: Mapping[str, str] = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_filter",
}
"""What some exceptions mean, in the words of error objects; the others mean their status."""
_UNREACHABLE = frozenset({"APIConnectionError", "ConnectError", "ConnectTimeout", "ReadError", "RemoteProtocolError"})
"""Exceptions of the layers below that mean that the connection could not be made, or broke."""
_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?:: | - ))*")

_JSON = re.compile(r"(?:b')?(\{.*\})'?", re.DOTALL)


def failure_of(error: Exception, *, answering: bool) -> ProviderError:
    """Returns the failure that an exception of the library tells.

    Args:
        error: The exception.
        answering: Whether the answer had begun.
    """
    while isinstance(original := getattr(error, "original_exception", None), Exception):
        error = original  # what failed in a stream comes in a wrapper, sometimes in several
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or not 400 <= status <= 599:
        status = 500
    kind = type(error).__name__
    message = _PREFIX.sub("", str(error)).partition("\nTraceback ")[0]  # it appends its own to some
    if status >= 500 and any(map(_is_of_connection, _causes(error))):
        reason = Reason.PROVIDER_PROTOCOL if answering else Reason.PROVIDER_UNREACHABLE
        return ProviderError(sanitized(message) or "the connection broke", reason=reason, retryable=True)
    if kind not in _CODES and (body := _JSON.fullmatch(message)):  # the vendor's own error, as it came
        return failure_of_status(status, _headers(error), body[1].encode())
    told = {"message": message, "code": _CODES.get(kind) or getattr(error, "code", None)}
    return failure_of_status(status, _headers(error), orjson.dumps({"error": told}, default=str))


def _is_of_connection(error: BaseException) -> bool:
    """Whether a layer below tells of the connection; the library's own exception of that name wraps anything."""
    return type(error).__name__ in _UNREACHABLE and not type(error).__module__.startswith("litellm")


def _causes(error: BaseException | None) -> list[BaseException]:
    """Returns an exception and what led to it; not endless, should they name each other."""
    causes: list[BaseException] = []
    while error is not None and len(causes) < 16:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _headers(error: Any) -> dict[bytes, bytes]:
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(
        error, "litellm_response_headers", None
    )
    return {str(name).lower().encode(): str(value).encode() for name, value in (headers or {}).items()}
