from __future__ import annotations

from typing import Any

import orjson
import pytest

from dragoman_server.providers.failures import failure_of_error
from dragoman_server.providers.gemini.dialect import DIALECT
from tests.support.upstream_gemini import error, retry_info

BAD_KEY = {"@type": "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
QUOTA = {"@type": "QuotaFailure", "violations": [{"quotaId": "PerDay", "quotaValue": "20"}]}
TOO_LONG = "The input token count (134123) exceeds the maximum number of tokens allowed (131072)."


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(
    ("body", "reason", "retryable", "code"),
    [
        (error(400, "wrong", "INVALID_ARGUMENT"), "PROVIDER_REJECTED", False, "INVALID_ARGUMENT"),
        (error(400, "not here", "FAILED_PRECONDITION"), "PROVIDER_REJECTED", False, "FAILED_PRECONDITION"),
        (error(400, "API key not valid.", "INVALID_ARGUMENT", BAD_KEY), "PROVIDER_AUTH", False, "INVALID_ARGUMENT"),
        (error(403, "no", "PERMISSION_DENIED"), "PROVIDER_AUTH", False, "PERMISSION_DENIED"),
        (error(404, "no model", "NOT_FOUND"), "MODEL_NOT_FOUND", False, "NOT_FOUND"),
        (error(400, TOO_LONG, "INVALID_ARGUMENT"), "CONTEXT_LENGTH_EXCEEDED", False, "INVALID_ARGUMENT"),
        (error(429, "slow", "RESOURCE_EXHAUSTED", QUOTA), "PROVIDER_RATE_LIMITED", True, "RESOURCE_EXHAUSTED"),
        (error(500, "oops", "INTERNAL"), "PROVIDER_FAILED", True, "INTERNAL"),
        (error(503, "later", "UNAVAILABLE"), "PROVIDER_FAILED", True, "UNAVAILABLE"),
        (error(504, "slow", "DEADLINE_EXCEEDED"), "PROVIDER_TIMEOUT", True, "DEADLINE_EXCEEDED"),
    ],
)
def test_statuses(body: dict[str, Any], reason: str, retryable: bool, code: str, as_list: bool) -> None:
    status = body["error"]["code"]
    failed = DIALECT.failure_of_status(status, {}, orjson.dumps([body] if as_list else body))
    assert (failed.reason, failed.retryable, failed.metadata["code"]) == (reason, retryable, code)
    in_stream = failure_of_error(body["error"])
    assert (in_stream.reason, in_stream.retryable, in_stream.message) == (reason, retryable, failed.message)
    without_code = {key: value for key, value in body["error"].items() if key != "code"}
    assert failure_of_error(without_code).reason == reason


def test_the_numbers_of_a_prompt_that_is_too_long() -> None:
    failed = failure_of_error(error(400, TOO_LONG, "INVALID_ARGUMENT")["error"])
    assert (failed.metadata["prompt_tokens"], failed.metadata["context_tokens"]) == ("134123", "131072")


@pytest.mark.parametrize(
    ("delay", "headers", "seconds"),
    [
        ("36s", {}, 36),
        ("36.429760048s", {}, 36.429760048),
        ("36s", {b"retry-after": b"3"}, 3),
        ("soon", {}, None),
        ("-3s", {}, None),
        ("99999999s", {}, None),
    ],
)
def test_how_long_to_wait(delay: str, headers: dict[bytes, bytes], seconds: float | None) -> None:
    body = error(429, "slow", "RESOURCE_EXHAUSTED", QUOTA, retry_info(delay))
    assert DIALECT.failure_of_status(429, headers, orjson.dumps(body)).retry_after == seconds


def test_keys_are_taken_out() -> None:
    body = error(400, "Consumer 'api_key:AIzaSyA1234567890-abc_def' is suspended", "INVALID_ARGUMENT")
    assert "AIza" not in DIALECT.failure_of_status(400, {}, orjson.dumps(body)).message


@pytest.mark.parametrize("details", [3, [3], [{"reason": 3, "retryDelay": 3}], {"a": 1}])
def test_odd_details(details: Any) -> None:
    failed = failure_of_error({"code": 429, "message": "slow", "details": details})
    assert (failed.reason, failed.retry_after) == ("PROVIDER_RATE_LIMITED", None)
