"""Errors, as Soke's clients expect them: an envelope with a code in capitals."""

from __future__ import annotations

import re
from typing import Any

import orjson

from dragoman.reasons import Reason
from dragoman_edge.dialects.dialect import ErrorAnswer
from dragoman_edge.dialects.naming import renamed
from dragoman_edge.dialects.openai import errors as openai
from dragoman_edge.dialects.soke.headers import CREDITS_REMAINING, credits_text, tell_limits
from dragoman_edge.errors import EdgeError
from dragoman_edge.rate_state import rate_state_of

PLATFORMS = ("youtube",)
"""The platforms that there are; the first is meant where none is named."""
PLATFORM_NOT_IMPLEMENTED = "PLATFORM_NOT_IMPLEMENTED"

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
    499: "CANCELLED",
}
_BAD_REQUEST, _INTERNAL, _UNAVAILABLE = "BAD_REQUEST", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"
_CONVERSATION = re.compile(r"^(spec\.chat\.)?conversation_id$")

CODES = frozenset(
    {*_BY_REASON.values(), *_BY_STATUS.values(), _BAD_REQUEST, _INTERNAL, _UNAVAILABLE, PLATFORM_NOT_IMPLEMENTED}
)


def platform_not_implemented(platform: str) -> EdgeError:
    """Returns the error for a platform that there is not."""
    return EdgeError(
        f"The platform '{platform[:64]}' is not supported yet; there is: {', '.join(PLATFORMS)}.",
        reason=Reason.UNIMPLEMENTED,
        code=PLATFORM_NOT_IMPLEMENTED,
        param="platform",
        metadata={"platform": platform[:64]},
    )


def render_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of this dialect."""
    answer = openai.render_error(error)
    if (state := rate_state_of(error.metadata)) is not None:
        tell_limits(answer.headers, state)
    if (available := error.metadata.get("available_micros", "")).isdigit():
        answer.headers[CREDITS_REMAINING] = credits_text(int(available))
    body = {"success": False, "error": error_object(error), "meta": {"request_id": error.request_id}}
    return ErrorAnswer(_status(error), orjson.dumps(body), answer.headers)


def error_object(error: EdgeError) -> dict[str, Any]:
    """Returns what is wrong: code, message and details."""
    status = _status(error)
    param = error.param or field_of(error.field)
    if error.reason is Reason.MODEL_NOT_FOUND:
        param = "model"
    message = renamed(error.message, error.field, param) if error.field and param else error.message
    details: dict[str, Any] = {"field": param} if param else {}
    if error.code == PLATFORM_NOT_IMPLEMENTED:
        details = {"platform": error.metadata["platform"], "supported": PLATFORMS}
    if status == 429 and (wait := openai.render_error(error).headers.get("Retry-After")):
        details["retryAfter"] = int(wait)
    return {"code": _code(error, status), "message": message, "details": details}


def field_of(field: str) -> str:
    """Returns the parameter that a path in the contract stands for, or an empty text for an empty path."""
    return "conversationId" if _CONVERSATION.match(field) else openai.param_of_field(field)


def _status(error: EdgeError) -> int:
    if error.reason is Reason.MODEL_NOT_FOUND:
        return 400  # not there is what a resource is
    return error.status or openai.TABLE[error.reason].status


def _code(error: EdgeError, status: int) -> str:
    if error.code == PLATFORM_NOT_IMPLEMENTED:
        return PLATFORM_NOT_IMPLEMENTED
    if code := _BY_REASON.get(error.reason) or _BY_STATUS.get(status):
        return code
    if status < 500:
        return _BAD_REQUEST
    return _UNAVAILABLE if status in (502, 503, 504) else _INTERNAL
