"""Errors, as Soke's clients expect them: an envelope with a code in capitals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from dragoman.reasons import Reason
from dragoman_edge.dialects.dialect import ErrorAnswer
from dragoman_edge.dialects.openai import errors as openai

if TYPE_CHECKING:
    from dragoman_edge.errors import EdgeError

_BY_REASON = {
    Reason.INSUFFICIENT_CREDITS: "INSUFFICIENT_CREDITS",
    Reason.SUBSCRIPTION_REQUIRED: "SUBSCRIPTION_REQUIRED",
    Reason.UNIMPLEMENTED: "NOT_IMPLEMENTED",
}
_BY_STATUS = {
    401: "UNAUTHORIZED",
    402: "INSUFFICIENT_CREDITS",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "RATE_LIMIT_EXCEEDED",
}

CODES = frozenset({*_BY_REASON.values(), *_BY_STATUS.values(), "BAD_REQUEST", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"})


def render_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of this dialect."""
    answer = openai.render_error(error)
    param, message = openai.param_and_message(error)
    details: dict[str, object] = {"field": param} if param else {}
    if answer.status == 429 and "Retry-After" in answer.headers:
        details["retryAfter"] = int(answer.headers["Retry-After"])
    body = {"code": _code(error.reason, answer.status), "message": message, "details": details}
    return ErrorAnswer(answer.status, orjson.dumps({"success": False, "error": body}), answer.headers)


def _code(reason: Reason, status: int) -> str:
    if code := _BY_REASON.get(reason) or _BY_STATUS.get(status):
        return code
    if status < 500:
        return "BAD_REQUEST"
    return "SERVICE_UNAVAILABLE" if status in (502, 503, 504) else "INTERNAL_ERROR"
