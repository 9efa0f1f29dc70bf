from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from dragoman_server.providers.failures import failure_of_status, retry_after_seconds, sanitized


def error(message: str = "no", **fields: Any) -> bytes:
    return orjson.dumps({"error": {"message": message, **fields}})


@pytest.mark.parametrize(
    ("status", "body", "reason", "retryable"),
    [
        (400, error(), "PROVIDER_REJECTED", False),
        (404, error(code="model_not_found"), "MODEL_NOT_FOUND", False),
        (404, error("The model `x` does not exist.", type="NotFoundError", code=404), "MODEL_NOT_FOUND", False),
        (404, error("models/x is not found for API version v1beta", status="NOT_FOUND"), "MODEL_NOT_FOUND", False),
        (404, error("model: x", type="not_found_error"), "MODEL_NOT_FOUND", False),
        (404, error("No such file: file-1"), "PROVIDER_REJECTED", False),
        (404, b"<html>404</html>", "PROVIDER_FAILED", False),
        (404, orjson.dumps({"detail": "Not Found"}), "PROVIDER_FAILED", False),
        (405, b"", "PROVIDER_FAILED", False),
        (400, error("This model takes no images."), "PROVIDER_REJECTED", False),
        (413, b"<html>too large</html>", "PROVIDER_REJECTED", False),
        (422, orjson.dumps({"detail": [{"loc": ["body"], "msg": "wrong"}]}), "PROVIDER_REJECTED", False),
        (400, error(code="context_length_exceeded"), "CONTEXT_LENGTH_EXCEEDED", False),
        (400, error("This model's maximum context length is 4096 tokens."), "CONTEXT_LENGTH_EXCEEDED", False),
        (400, error(type="exceed_context_size_error"), "CONTEXT_LENGTH_EXCEEDED", False),
        (400, error(code="content_filter"), "CONTENT_FILTERED", False),
        (400, error(innererror={"code": "ResponsibleAIPolicyViolation"}), "CONTENT_FILTERED", False),
        (401, error("Incorrect API key provided: sk-abcdef123456"), "PROVIDER_AUTH", False),
        (403, b"", "PROVIDER_AUTH", False),
        (403, error("flagged", metadata={"reasons": ["x"], "flagged_input": "y"}), "CONTENT_FILTERED", False),
        (402, error(), "PROVIDER_RATE_LIMITED", False),
        (400, error(message="Your credit balance is too low to access it."), "PROVIDER_RATE_LIMITED", False),
        (400, error(message="No model 'Your credit balance is too low'."), "PROVIDER_REJECTED", False),
        (500, error(message="Your credit balance is too low to access it."), "PROVIDER_FAILED", True),
        (429, error(), "PROVIDER_RATE_LIMITED", True),
        (429, error(code="insufficient_quota"), "PROVIDER_RATE_LIMITED", False),
        (408, b"", "PROVIDER_TIMEOUT", True),
        (504, b"", "PROVIDER_TIMEOUT", True),
        (500, error(), "PROVIDER_FAILED", True),
        (503, b"down", "PROVIDER_FAILED", True),
        (302, b"", "PROVIDER_FAILED", False),
        (204, b"", "PROVIDER_FAILED", False),
        (400, orjson.dumps([{"error": {"message": "no", "code": 400}}]), "PROVIDER_REJECTED", False),
        (400, orjson.dumps({"object": "error", "message": "no"}), "PROVIDER_REJECTED", False),
        (400, orjson.dumps({"error": "no"}), "PROVIDER_REJECTED", False),
        (400, orjson.dumps([]), "PROVIDER_REJECTED", False),
        (400, b"3", "PROVIDER_REJECTED", False),
    ],
)
def test_statuses(status: int, body: bytes, reason: str, retryable: bool) -> None:
    failure = failure_of_status(status, {}, body)
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert failure.message
    assert failure.metadata["status"] == str(status)
    assert "sk-" not in failure.message


def test_the_words_of_the_provider_are_kept() -> None:
    failure = failure_of_status(400, {}, error("temperature is wrong", param="temperature", code="bad_value", type="t"))
    assert failure.message == "temperature is wrong"
    assert failure.metadata == {"status": "400", "param": "temperature", "code": "bad_value", "type": "t"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"0.5"}, 0.5),
        ({b"retry-after": b"7", b"retry-after-ms": b"250"}, 0.25),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"\xff"}, None),
        ({b"retry-after": b"-3"}, None),
        ({b"retry-after-ms": b"nan"}, None),
        ({b"retry-after": b"99999999999"}, None),
        ({b"retry-after": b"Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_how_long_to_wait(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_a_date_to_wait_for() -> None:
    seconds = retry_after_seconds({b"retry-after": formatdate(time.time() + 100, usegmt=True).encode()})
    assert seconds is not None
    assert 0 < seconds <= 100


def test_rate_limits_carry_the_wait() -> None:
    failure = failure_of_status(429, {b"retry-after": b"3"}, error()).to_failure()
    assert failure.retry_after.seconds == 3


@pytest.mark.parametrize(
    "text",
    [
        "see https://platform.example.org/account/api-keys?x=1.",
        "Incorrect key sk-proj-abc_DEF-123456",
        "Authorization: Bearer abc.def.ghi",
        "wss://example.org:8080/x",
    ],
)
def test_addresses_and_credentials_are_taken_out(text: str) -> None:
    clean = sanitized(text)
    assert not any(word in clean for word in ("example.org", "abc", "8080"))
    assert sanitized("x" * 9999).startswith("x" * 1000)
    assert len(sanitized("x" * 9999)) < 3000
