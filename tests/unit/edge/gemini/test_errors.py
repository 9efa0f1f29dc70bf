from __future__ import annotations

import json
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman_edge.dialects.gemini.errors import TABLE, error_body, field_of, render_error
from dragoman_edge.dialects.gemini.request import check_message
from dragoman_edge.errors import EdgeError


def body_of(error: EdgeError) -> Any:
    body = json.loads(error_body(error))
    check_message(body, "ErrorResponse")
    return body["error"]


def detail(error: EdgeError, kind: str) -> Any:
    found = [one for one in body_of(error)["details"] if one["@type"] == f"type.googleapis.com/google.rpc.{kind}"]
    return found[0] if found else None


def test_every_reason_has_a_row() -> None:
    assert set(TABLE) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_the_code_is_the_status(reason: Reason) -> None:
    error = EdgeError("No.", reason=reason)
    answer = render_error(error)
    assert body_of(error)["code"] == answer.status
    assert 400 <= answer.status < 600
    assert detail(error, "ErrorInfo")["reason"] == reason


@pytest.mark.parametrize(
    ("reason", "code", "status"),
    [
        (Reason.API_KEY_INVALID, 401, "UNAUTHENTICATED"),
        (Reason.FORBIDDEN, 403, "PERMISSION_DENIED"),
        (Reason.MODEL_NOT_FOUND, 404, "NOT_FOUND"),
        (Reason.PROVIDER_RATE_LIMITED, 429, "RESOURCE_EXHAUSTED"),
        (Reason.OVERLOADED, 503, "UNAVAILABLE"),
        (Reason.PROVIDER_TIMEOUT, 504, "DEADLINE_EXCEEDED"),
        (Reason.UNSUPPORTED_FEATURE, 400, "INVALID_ARGUMENT"),
    ],
)
def test_statuses(reason: Reason, code: int, status: str) -> None:
    body = body_of(EdgeError("No.", reason=reason))
    assert (body["code"], body["status"]) == (code, status)


def test_when_to_try_again() -> None:
    error = EdgeError("Slow down.", reason=Reason.PROVIDER_RATE_LIMITED, retry_after=2.5)
    assert render_error(error).headers["Retry-After"] == "3"
    assert detail(error, "RetryInfo")["retryDelay"] == "2.5s"
    final = EdgeError("Slow down.", reason=Reason.PROVIDER_RATE_LIMITED, retryable=False, retry_after=2)
    assert "Retry-After" not in render_error(final).headers
    assert detail(final, "RetryInfo") is None


def test_a_field_that_a_provider_names_is_named_in_the_words_of_the_dialect() -> None:
    error = EdgeError("reasoning_budget_tokens is not for it", field="spec.chat.reasoning_budget_tokens")
    assert body_of(error)["message"] == "generation_config.thinking_config.thinking_budget is not for it"


def test_the_field_is_named_in_the_words_of_the_dialect() -> None:
    error = EdgeError("`spec.chat.sampling.stop` is too long", field="spec.chat.sampling.stop")
    assert body_of(error)["message"] == "`generation_config.stop_sequences` is too long"
    [violation] = detail(error, "BadRequest")["fieldViolations"]
    assert violation == {
        "field": "generation_config.stop_sequences",
        "description": "`generation_config.stop_sequences` is too long",
    }


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("", ""),
        ("sampling.top_k", "generation_config.top_k"),
        ("spec.chat.sampling.choice_count", "generation_config.candidate_count"),
        ("spec.chat.sampling.top_logprobs", "generation_config.logprobs"),
        ("sampling.logprobs", "generation_config.response_logprobs"),
        ("response_format.json_schema.schema_json", "generation_config.response_schema"),
        ("response_format.grammar", "generation_config.response_mime_type"),
        ("reasoning_budget_tokens", "generation_config.thinking_config.thinking_budget"),
        ("spec.chat.messages[3].parts[1].image", "contents"),
        ("tools[2].function.parameters_json", "tools.function_declarations.parameters"),
        ("tool_choice.tool.name", "tool_config.function_calling_config"),
        ("safety_settings", "safety_settings"),
        ("spec.labels", "labels"),
        ("request_id", "Idempotency-Key"),
    ],
)
def test_fields(field: str, shown: str) -> None:
    assert field_of(field) == shown
