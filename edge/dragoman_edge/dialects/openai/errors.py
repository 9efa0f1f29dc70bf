"""Errors, as OpenAI's clients expect them: one table from reasons to HTTP statuses and codes."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import orjson

from dragoman.reasons import Reason
from dragoman_edge.dialects.dialect import ErrorAnswer
from dragoman_edge.dialects.naming import renamed
from dragoman_edge.rate_state import rate_state_of, tell_rate_state

if TYPE_CHECKING:
    from dragoman_edge.errors import EdgeError

REQUEST = "invalid_request_error"
"""The `type` of errors that the client can mend."""
AUTHENTICATION = "authentication_error"
"""The `type` of errors about a credential, an upstream's included."""
PERMISSION = "permission_error"
"""The `type` of errors about what a good credential may not do."""
SERVER = "server_error"
"""The `type` of errors that it cannot."""


class Row(NamedTuple):
    """What a reason is in this dialect.

    Attributes:
        status: The HTTP status.
        type: The `type` of the error object.
        code: The `code` of the error object.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds that clients should wait if the server does not say; 0 gives no advice.
    """

    status: int
    type: str
    code: str | None
    retryable: bool = False
    retry_after: float = 0


TABLE: dict[Reason, Row] = {
    Reason.INVALID_REQUEST: Row(400, REQUEST, "invalid_value"),
    Reason.UNSUPPORTED_FEATURE: Row(400, REQUEST, "unsupported_feature"),
    Reason.CONTEXT_LENGTH_EXCEEDED: Row(400, REQUEST, "context_length_exceeded"),
    Reason.REQUEST_TOO_LARGE: Row(413, REQUEST, "request_too_large"),
    Reason.API_KEY_MISSING: Row(401, AUTHENTICATION, "invalid_api_key"),
    Reason.API_KEY_INVALID: Row(401, AUTHENTICATION, "invalid_api_key"),
    Reason.API_KEY_EXPIRED: Row(401, AUTHENTICATION, "api_key_expired"),
    Reason.API_KEY_REVOKED: Row(401, AUTHENTICATION, "api_key_disabled"),
    Reason.TOKEN_INVALID: Row(401, AUTHENTICATION, "invalid_token"),
    Reason.TOKEN_EXPIRED: Row(401, AUTHENTICATION, "token_expired"),
    Reason.LOGIN_FAILED: Row(401, AUTHENTICATION, "login_failed"),
    Reason.ACCOUNT_DISABLED: Row(403, PERMISSION, "account_disabled"),
    Reason.FORBIDDEN: Row(403, PERMISSION, "forbidden"),
    Reason.NOT_FOUND: Row(404, REQUEST, "not_found"),
    Reason.MODEL_NOT_FOUND: Row(404, REQUEST, "model_not_found"),
    Reason.RUN_NOT_FOUND: Row(404, REQUEST, "run_not_found"),
    Reason.IDEMPOTENCY_CONFLICT: Row(409, REQUEST, "idempotency_conflict"),
    Reason.CONFLICT: Row(409, REQUEST, "conflict"),
    Reason.INSUFFICIENT_CREDITS: Row(402, "insufficient_quota", "insufficient_quota"),
    Reason.SUBSCRIPTION_REQUIRED: Row(403, PERMISSION, "subscription_required"),
    Reason.RATE_LIMITED: Row(429, "rate_limit_error", "rate_limit_exceeded", retryable=True, retry_after=1),
    Reason.EVENTS_EVICTED: Row(410, REQUEST, "events_evicted"),
    Reason.WATCHER_TOO_SLOW: Row(503, SERVER, "watcher_too_slow", retryable=True),
    Reason.UPSTREAM_NOT_ALLOWED: Row(400, REQUEST, "upstream_not_allowed"),
    Reason.UPSTREAM_AUTH: Row(401, AUTHENTICATION, "upstream_auth"),
    Reason.OVERLOADED: Row(503, SERVER, "overloaded", retryable=True, retry_after=1),
    Reason.MODEL_NOT_READY: Row(503, SERVER, "model_not_ready", retryable=True, retry_after=2),
    Reason.SHUTTING_DOWN: Row(503, SERVER, "shutting_down", retryable=True, retry_after=1),
    Reason.DEADLINE_EXCEEDED: Row(504, SERVER, "deadline_exceeded"),
    Reason.CANCELLED: Row(499, SERVER, "cancelled"),
    Reason.PROVIDER_REJECTED: Row(400, REQUEST, "provider_rejected"),
    Reason.PROVIDER_AUTH: Row(502, SERVER, "provider_auth"),
    Reason.PROVIDER_RATE_LIMITED: Row(429, "rate_limit_error", "rate_limit_exceeded", retryable=True, retry_after=1),
    Reason.PROVIDER_FAILED: Row(502, SERVER, "provider_failed", retryable=True),
    Reason.PROVIDER_UNREACHABLE: Row(502, SERVER, "provider_unreachable", retryable=True),
    Reason.PROVIDER_TIMEOUT: Row(504, SERVER, "provider_timeout", retryable=True),
    Reason.PROVIDER_PROTOCOL: Row(502, SERVER, "provider_protocol", retryable=True),
    Reason.STORE_UNAVAILABLE: Row(503, SERVER, "store_unavailable", retryable=True, retry_after=1),
    Reason.CONTENT_FILTERED: Row(400, REQUEST, "content_filter"),
    Reason.UNIMPLEMENTED: Row(501, SERVER, "unimplemented"),
    Reason.INTERNAL: Row(500, SERVER, "internal_error", retryable=True),
}


def render_error(error: EdgeError) -> ErrorAnswer:
    """Puts an error into the words of this dialect."""
    row = TABLE[error.reason]
    status = error.status or row.status
    retryable = row.retryable if error.retryable is None else error.retryable
    headers = dict(error.headers)
    if not retryable:
        headers["x-should-retry"] = "false"  # OpenAI's SDKs otherwise ask three times, on 409 and 5xx
    elif wait := error.retry_after or row.retry_after:
        headers["Retry-After"] = str(math.ceil(wait))
    if (state := rate_state_of(error.metadata)) is not None:
        tell_rate_state(headers, state)
    if "first_available_sequence" in error.metadata:
        headers["x-dragoman-first-available-sequence"] = error.metadata["first_available_sequence"]
    if error.run_id:
        headers["x-dragoman-run-id"] = error.run_id
    return ErrorAnswer(status, error_body(error), headers)


def error_body(error: EdgeError) -> bytes:
    """Returns the JSON object that describes an error; all four members are always there."""
    row = TABLE[error.reason]
    param, message = param_and_message(error)
    code = error.code or row.code
    if error.reason is Reason.FORBIDDEN and "providers" in error.metadata:  # those that the key is limited to
        code = "supplier_not_allowed"
    return orjson.dumps({"error": {"message": message, "type": row.type, "param": param, "code": code}})


def param_and_message(error: EdgeError) -> tuple[str | None, str]:
    """Returns the parameter at fault, if there is one, and what is wrong, both in the words of this dialect."""
    param, message = error.param or param_of_field(error.field) or None, error.message
    if error.reason is Reason.MODEL_NOT_FOUND:
        param = "model"
    if param and error.field:
        message = renamed(message, error.field, param)
    return param, message


_WHOLE_FIELDS = {
    "after_sequence": "after",
    "request_id": "Idempotency-Key",
    "spec.disconnect_policy": "X-Dragoman-Disconnect",
    "spec.detach_ttl": "X-Dragoman-Disconnect",
    "spec.chat.conversation_id": "X-Dragoman-Conversation",
    "spec.chat.persona": "X-Dragoman-Persona",
}
_PARTS_OF_FIELDS = (
    (re.compile(r"^inputs\b(\[\d+\])?(\.text|\.tokens)?"), r"input\1"),  # of embeddings
    (re.compile(r"^(spec\.)?(chat\.)?(sampling\.)?(filter\.)?"), ""),
    (re.compile(r"\bmax_output_tokens\b"), "max_completion_tokens"),
    (re.compile(r"\bchoice_count\b"), "n"),
    (re.compile(r"\.parts\[\d+\]\.tool_result\.call_id\b"), ".tool_call_id"),
    (re.compile(r"\.parts\[\d+\]\.tool_result\.parts\b"), ".content"),
    (re.compile(r"\.parts\b"), ".content"),
    (re.compile(r"\.image\b(\.data|\.url)?"), ".image_url"),
    (re.compile(r"\.audio\b(\.data)?"), ".input_audio"),
    (re.compile(r"_json\b"), ""),
)


_OF_FUNCTIONS = (
    (re.compile(r"^(spec\.)?(chat\.)?tools\b(\[\d*\])?(\.function)?"), r"functions\3"),
    (re.compile(r"^(spec\.)?(chat\.)?parallel_tool_calls$"), "functions"),
    (re.compile(r"^(spec\.)?(chat\.)?tool_choice\b.*"), "function_call"),
    (re.compile(r"\.parts\[\d+\]\.tool_call\b"), ".function_call"),
)


def param_of_function_field(field: str) -> str:
    """Does what `param_of_field` does, for a request that has the deprecated `functions` in place of tools."""
    for pattern, replacement in _OF_FUNCTIONS:
        field = pattern.sub(replacement, field)
    return param_of_field(field)


def named_for_functions(error: EdgeError) -> EdgeError:
    """Has an error name the parameter at fault as a request does that has the deprecated `functions`."""
    error.param = error.param or param_of_function_field(error.field) or None
    return error


def param_of_field(field: str) -> str:
    """Returns the request parameter that a path in the contract stands for, or an empty text for an empty path."""
    if field in _WHOLE_FIELDS:
        return _WHOLE_FIELDS[field]
    for pattern, replacement in _PARTS_OF_FIELDS:
        field = pattern.sub(replacement, field)
    return field
