"""From the errors of a provider to failures with a reason."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.reasons import Reason
from dragoman_server.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dragoman.v1.failure_pb2 import Failure
    from dragoman_server.errors import DragomanError

_MAX_MESSAGE = 2000

_SECRETS = re.compile(r"\b(?:sk|pk|rk|key|gsk|xai)[-_][\w*.-]{6,}|\bAIza[\w*.-]{6,}|\bBearer\s+\S+", re.IGNORECASE)
_URLS = re.compile(r"\b(?:https?|wss?)://[^\s\"'<>)]+")

_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
_CONTEXT_WORDS = re.compile(
    r"context[ _](?:length|window|size|limit)|maximum context|exceeds the maximum number of tokens|prompt is too long",
    re.IGNORECASE,
)
_CONTEXT_NUMBERS = re.compile(
    r"(?:token count \(|prompt is too long: )(\d+)"
    r"(?:\) exceeds the maximum number of tokens allowed \(| tokens > )(\d+)"
)
_FILTER_CODES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "moderation_blocked",
        "data_inspection_failed",
    }
)
_SPENT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_SPENT_WORDS = "Your credit balance is too low"
"""How Anthropic's message begins, with status 400: it is not the request that is wrong. What stands later in a message
may be a client's own words."""
_MODEL_CODES = frozenset({"model_not_found", "deploymentnotfound"})
_MODEL_WORDS = re.compile(r"\bmodels?\b|\bdeployment\b", re.IGNORECASE)
"""What a 404 is about if it says so; others are about a file, or the address is wrong."""
_NOTHING_HERE = frozenset({"", "not found", "method not allowed"})
"""What servers say of an address at which they have nothing: the request is not what is wrong."""
_KEY_CODES = frozenset({"api_key_invalid"})  # Google's, with status 400
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")

_BY_WORD: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
    "server_error": 500,
    "api_error": 500,
    "overloaded_error": 503,
    "timeout": 504,
    "timeout_error": 504,
    # The names of gRPC's codes, as Google writes them.
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The status that an error within a stream would have had, by its type or code."""


def failure_of_status(status: int, headers: Mapping[bytes, bytes], body: bytes) -> ProviderError:
    """Returns the failure of an answer with a status other than 200."""
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        decoded = None
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    if isinstance(error, list) and error:  # Google's form: a list of objects
        error = error[0].get("error") if isinstance(error[0], dict) else error[0]
    return _failure(status, error, retry_after_seconds(headers))


def failure_of_error(error: Any) -> ProviderError:
    """Returns the failure of an error object that came with status 200, in a stream or as the whole answer."""
    code = error.get("code") if isinstance(error, dict) else None
    status = error.get("status_code") or error.get("status") if isinstance(error, dict) else None
    for candidate in (status, code):
        if isinstance(candidate, str) and candidate.isdigit():
            candidate = int(candidate)
        if isinstance(candidate, int) and 400 <= candidate <= 599:
            return _failure(candidate, error, None)
    words = (code, error.get("type"), status) if isinstance(error, dict) else ()
    known = next((_BY_WORD[word] for word in words if isinstance(word, str) and word in _BY_WORD), 500)
    return _failure(known, error, None)


def broken(what: str) -> ProviderError:
    """Returns the failure of an answer that makes no sense."""
    return ProviderError(f"the provider's answer makes no sense: {what}", reason=Reason.PROVIDER_PROTOCOL)


def reported(error: DragomanError, provider: str, secrets: Iterable[str]) -> Failure:
    """Returns a failure as clients see it: it names the provider, and none of its secrets."""
    failure = error.to_failure()
    failure.metadata["provider"] = provider
    for secret in secrets:
        failure.message = failure.message.replace(secret, "[secret]")
        for key, value in failure.metadata.items():
            failure.metadata[key] = value.replace(secret, "[secret]")
    return failure


def retry_after_seconds(headers: Mapping[bytes, bytes]) -> float | None:
    """Returns how long the provider asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    try:
        if (milliseconds := headers.get(b"retry-after-ms")) is not None:
            return _sane(float(milliseconds) / 1000)
        value = headers.get(b"retry-after")
        if value is None:
            return None
        text = value.decode("ascii").strip()
        if re.fullmatch(r"\d+(\.\d*)?", text):
            return _sane(float(text))
        return _sane(parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:  # what cannot be read is as good as absent
        return None


def _sane(seconds: float) -> float | None:
    return max(0.0, seconds) if seconds < 7 * 86_400 else None


def _failure(status: int, error: Any, retry_after: float | None) -> ProviderError:
    fields: dict[str, Any] = error if isinstance(error, dict) else {}
    text = fields.get("message") or fields.get("detail") or (error if isinstance(error, str) else "")
    message = sanitized(text if isinstance(text, str) else orjson.dumps(text).decode())
    codes = {word.lower() for key in ("code", "type") if isinstance(word := fields.get(key), str)}
    inner = fields.get("innererror")
    if isinstance(inner, dict) and isinstance(inner.get("code"), str):
        codes.add(inner["code"].lower())
    about = fields.get("metadata")
    if isinstance(about, dict) and "flagged_input" in about:  # OpenRouter's, with status 403
        codes.add("content_filter")
    told, delay = _details(fields.get("details"))
    spent = status == 400 and message.startswith(_SPENT_WORDS)
    reason, retryable = _reason(402 if spent else status, codes | told, message)
    if reason == Reason.PROVIDER_AUTH:
        message = "the provider refused this server's credential"
    metadata = {"status": str(status)}
    for key in ("code", "type", "param"):
        if isinstance(value := fields.get(key), str) and value:
            metadata[key] = sanitized(value)
    if isinstance(word := fields.get("status"), str) and word in _BY_WORD:
        metadata.setdefault("code", word)
    if reason == Reason.CONTEXT_LENGTH_EXCEEDED and (numbers := _CONTEXT_NUMBERS.search(message)):
        metadata["prompt_tokens"], metadata["context_tokens"] = numbers.groups()
    return ProviderError(
        message or f"the provider answered with status {status}",
        reason=reason,
        metadata=metadata,
        retryable=retryable,
        retry_after=delay if retry_after is None else retry_after,
    )


def _details(details: Any) -> tuple[set[str], float | None]:
    """Returns the reasons that details in the form of google.rpc name, and how long they ask to wait."""
    reasons: set[str] = set()
    delay = None
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        if isinstance(reason := detail.get("reason"), str):
            reasons.add(reason.lower())
        if isinstance(text := detail.get("retryDelay"), str) and (seconds := _DURATION.fullmatch(text)):
            delay = _sane(float(seconds[1]))
    return reasons, delay


def _reason(status: int, codes: set[str], message: str) -> tuple[Reason, bool]:
    """Returns the reason, and whether another try may help."""
    refused = status in (400, 413, 422)
    if codes & _CONTEXT_CODES or (refused and _CONTEXT_WORDS.search(message)):
        return Reason.CONTEXT_LENGTH_EXCEEDED, False
    if codes & _FILTER_CODES:
        return Reason.CONTENT_FILTERED, False
    if codes & _KEY_CODES:
        return Reason.PROVIDER_AUTH, False
    match status:
        case 401 | 403:
            return Reason.PROVIDER_AUTH, False
        case 402:
            return Reason.PROVIDER_RATE_LIMITED, False
        case 429:
            return Reason.PROVIDER_RATE_LIMITED, not codes & _SPENT_CODES
        case 404 | 405:
            return _reason_of_absence(codes, message), False
        case 408 | 504:
            return Reason.PROVIDER_TIMEOUT, True
        case 409 | 425:
            return Reason.PROVIDER_FAILED, True
        case _ if status >= 500:
            return Reason.PROVIDER_FAILED, True
        case _ if status >= 400:
            return Reason.PROVIDER_REJECTED, False
    return Reason.PROVIDER_FAILED, False  # a redirect, or a success without content


def _reason_of_absence(codes: set[str], message: str) -> Reason:
    if codes & _MODEL_CODES or _MODEL_WORDS.search(message):
        return Reason.MODEL_NOT_FOUND
    return Reason.PROVIDER_FAILED if message.lower() in _NOTHING_HERE else Reason.PROVIDER_REJECTED


def sanitized(text: str) -> str:
    """Returns a provider's text without addresses and credentials, and not endless."""
    text = _URLS.sub("[address]", _SECRETS.sub("[secret]", text.strip()))
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"
