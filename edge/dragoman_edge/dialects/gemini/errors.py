"""Errors, as Google's clients expect them: one table from reasons to HTTP statuses and the names of Google's codes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from dragoman.reasons import DOMAIN, Reason
from dragoman_edge.dialects.dialect import ErrorAnswer
from dragoman_edge.dialects.naming import renamed
from dragoman_edge.rate_state import rate_state_of, tell_rate_state

if TYPE_CHECKING:
    from dragoman_edge.errors import EdgeError


class Row(NamedTuple):
    """What a reason is in this dialect.

    Attributes:
        code: The HTTP status, and the `code` of the error object.
        status: The `status` of the error object.
        retry_after: Seconds that clients should wait if the server does not say; 0 gives no advice.
    """

    code: int
    status: str
    retry_after: float = 0


_INVALID = Row(400, "INVALID_ARGUMENT")
_UNAUTHENTICATED = Row(401, "UNAUTHENTICATED")
_NOT_FOUND = Row(404, "NOT_FOUND")
_UNAVAILABLE = Row(503, "UNAVAILABLE")
_INTERNAL = Row(500, "INTERNAL")
_LATE = Row(504, "DEADLINE_EXCEEDED")

TABLE: dict[Reason, Row] = {
    Reason.INVALID_REQUEST: _INVALID,
    Reason.UNSUPPORTED_FEATURE: _INVALID,
    Reason.CONTEXT_LENGTH_EXCEEDED: _INVALID,
    Reason.REQUEST_TOO_LARGE: _INVALID,
    Reason.API_KEY_MISSING: _UNAUTHENTICATED,
    Reason.API_KEY_INVALID: _UNAUTHENTICATED,
    Reason.API_KEY_EXPIRED: _UNAUTHENTICATED,
    Reason.API_KEY_REVOKED: _UNAUTHENTICATED,
    Reason.TOKEN_INVALID: _UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: _UNAUTHENTICATED,
    Reason.LOGIN_FAILED: _UNAUTHENTICATED,
    Reason.ACCOUNT_DISABLED: Row(403, "PERMISSION_DENIED"),
    Reason.FORBIDDEN: Row(403, "PERMISSION_DENIED"),
    Reason.NOT_FOUND: _NOT_FOUND,
    Reason.MODEL_NOT_FOUND: _NOT_FOUND,
    Reason.RUN_NOT_FOUND: _NOT_FOUND,
    Reason.IDEMPOTENCY_CONFLICT: Row(409, "ALREADY_EXISTS"),
    Reason.CONFLICT: Row(409, "ABORTED"),
    Reason.INSUFFICIENT_CREDITS: Row(402, "FAILED_PRECONDITION"),
    Reason.SUBSCRIPTION_REQUIRED: Row(403, "PERMISSION_DENIED"),
    Reason.RATE_LIMITED: Row(429, "RESOURCE_EXHAUSTED", 1),
    Reason.EVENTS_EVICTED: Row(400, "OUT_OF_RANGE"),
    Reason.WATCHER_TOO_SLOW: _UNAVAILABLE,
    Reason.UPSTREAM_NOT_ALLOWED: _INVALID,
    Reason.UPSTREAM_AUTH: _UNAUTHENTICATED,
    Reason.OVERLOADED: Row(503, "UNAVAILABLE", 1),
    Reason.MODEL_NOT_READY: Row(503, "UNAVAILABLE", 2),
    Reason.SHUTTING_DOWN: Row(503, "UNAVAILABLE", 1),
    Reason.DEADLINE_EXCEEDED: _LATE,
    Reason.CANCELLED: Row(499, "CANCELLED"),
    Reason.PROVIDER_REJECTED: _INVALID,
    Reason.PROVIDER_AUTH: _INTERNAL,
    Reason.PROVIDER_RATE_LIMITED: Row(429, "RESOURCE_EXHAUSTED", 1),
    Reason.PROVIDER_FAILED: _UNAVAILABLE,
    Reason.PROVIDER_UNREACHABLE: _UNAVAILABLE,
    Reason.PROVIDER_TIMEOUT: _LATE,
    Reason.PROVIDER_PROTOCOL: _INTERNAL,
    Reason.STORE_UNAVAILABLE: Row(503, "UNAVAILABLE", 1),
    Reason.CONTENT_FILTERED: _INVALID,
    Reason.UNIMPLEMENTED: Row(501, "UNIMPLEMENTED"),
    Reason.INTERNAL: _INTERNAL,
}
_TYPE = "type.googleapis.com/google.rpc."


def render_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of this dialect."""
    headers = dict(error.headers)
    if wait := _wait(error):
        headers["Retry-After"] = str(math.ceil(wait))
    if (state := rate_state_of(error.metadata)) is not None:
        tell_rate_state(headers, state)
    if error.run_id:
        headers["x-dragoman-run-id"] = error.run_id
    return ErrorAnswer(_code(error), error_body(error), headers)


def error_body(error: EdgeError) -> bytes:
    """Returns the JSON object that describes an error, on one line."""
    field, message = error.param or field_of(error.field), error.message
    if error.field:
        message = renamed(message, error.field, field)
    details: list[dict[str, Any]] = [
        {"@type": f"{_TYPE}ErrorInfo", "reason": error.reason, "domain": DOMAIN, "metadata": error.metadata}
    ]
    if field:
        violation = {"field": field, "description": message}
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]})
    if wait := _wait(error):
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{wait:g}s"})
    status = TABLE[error.reason].status
    body = {"code": _code(error), "message": message, "status": status, "details": details}
    return orjson.dumps({"error": body})


def _code(error: EdgeError) -> int:
    return error.status or TABLE[error.reason].code


def _wait(error: EdgeError) -> float:
    """Returns the seconds to wait before trying again; 0 if that cannot help, or nobody knows."""
    if error.retryable is False:
        return 0
    return error.retry_after or TABLE[error.reason].retry_after


_CONFIG = "generation_config."
_FIELDS = (
    (re.compile(r"^spec\.chat\.conversation_id$"), "X-Dragoman-Conversation"),
    (re.compile(r"^spec\.chat\.persona$"), "X-Dragoman-Persona"),
    (re.compile(r"^(spec\.)?(chat\.)?"), ""),
    (re.compile(r"^inputs\[(\d+)\].*"), r"requests[\1].content"),  # of embeddings
    (re.compile(r"^inputs$"), "requests"),
    (re.compile(r"^dimensions$"), "output_dimensionality"),
    (re.compile(r"^sampling\.choice_count\b"), f"{_CONFIG}candidate_count"),
    (re.compile(r"^sampling\.stop\b"), f"{_CONFIG}stop_sequences"),
    (re.compile(r"^sampling\.logprobs\b"), f"{_CONFIG}response_logprobs"),
    (re.compile(r"^sampling\.top_logprobs\b"), f"{_CONFIG}logprobs"),
    (re.compile(r"^sampling\."), _CONFIG),
    (re.compile(r"^response_format\.json_schema\b.*"), f"{_CONFIG}response_schema"),
    (re.compile(r"^response_format\b.*"), f"{_CONFIG}response_mime_type"),
    (re.compile(r"^reasoning_effort\b"), f"{_CONFIG}thinking_config.thinking_level"),
    (re.compile(r"^reasoning_budget_tokens\b"), f"{_CONFIG}thinking_config.thinking_budget"),
    (re.compile(r"^include_reasoning\b"), f"{_CONFIG}thinking_config.include_thoughts"),
    (re.compile(r"^modalities\b"), f"{_CONFIG}response_modalities"),
    (re.compile(r"^audio\b.*"), f"{_CONFIG}speech_config"),
    (re.compile(r"^messages\b.*"), "contents"),  # their numbers differ: instructions and results are messages too
    (re.compile(r"^tools\b(\[\d+\])?\.(function|custom)\b"), "tools.function_declarations"),
    (re.compile(r"\bparameters_json\b"), "parameters"),
    (re.compile(r"^tool_choice\b.*"), "tool_config.function_calling_config"),
    (re.compile(r"^request_id\b"), "Idempotency-Key"),
    (re.compile(r"^(disconnect_policy|detach_ttl)\b"), "X-Dragoman-Disconnect"),
)


def field_of(field: str) -> str:
    """Returns the field that a path in the contract stands for, or an empty text for an empty path."""
    for pattern, replacement in _FIELDS:
        field = pattern.sub(replacement, field)
    return field
