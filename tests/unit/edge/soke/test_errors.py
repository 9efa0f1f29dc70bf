"""Errors and headers, in the words of the dialect."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.run_pb2 import Run
from dragoman.v1.run_service_pb2 import StreamRunResponse
from dragoman.v1.usage_pb2 import RateState
from dragoman_edge.cors import EXPOSED
from dragoman_edge.dialects.registry import SOKE, dialect_of
from dragoman_edge.dialects.soke.errors import CODES, field_of, platform_not_implemented, render_error
from dragoman_edge.dialects.soke.headers import HEADERS, credits_text, tell_run
from dragoman_edge.errors import EdgeError


def body_of(error: EdgeError) -> Any:
    return json.loads(render_error(error).body)["error"]


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_envelope(reason: Reason) -> None:
    error = EdgeError("No.", reason=reason)
    error.request_id = "the request"
    answer = render_error(error)
    body = json.loads(answer.body)
    assert (body["success"], body["meta"]) == (False, {"request_id": "the request"})
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["code"] in CODES
    assert 400 <= answer.status < 600


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        (Reason.INVALID_REQUEST, 400, "BAD_REQUEST"),
        (Reason.UNSUPPORTED_FEATURE, 400, "BAD_REQUEST"),
        (Reason.MODEL_NOT_FOUND, 400, "BAD_REQUEST"),
        (Reason.API_KEY_MISSING, 401, "UNAUTHORIZED"),
        (Reason.TOKEN_EXPIRED, 401, "UNAUTHORIZED"),
        (Reason.INSUFFICIENT_CREDITS, 402, "INSUFFICIENT_CREDITS"),
        (Reason.FORBIDDEN, 403, "FORBIDDEN"),
        (Reason.SUBSCRIPTION_REQUIRED, 403, "SUBSCRIPTION_REQUIRED"),
        (Reason.NOT_FOUND, 404, "NOT_FOUND"),
        (Reason.RATE_LIMITED, 429, "RATE_LIMIT_EXCEEDED"),
        (Reason.INTERNAL, 500, "INTERNAL_ERROR"),
        (Reason.UNIMPLEMENTED, 501, "NOT_IMPLEMENTED"),
        (Reason.PROVIDER_FAILED, 502, "SERVICE_UNAVAILABLE"),
    ],
)
def test_statuses_and_codes(reason: Reason, status: int, code: str) -> None:
    error = EdgeError("No.", reason=reason)
    assert (render_error(error).status, body_of(error)["code"]) == (status, code)


def test_a_platform() -> None:
    error = platform_not_implemented("TikTok")
    assert render_error(error).status == 501
    told = body_of(error)
    assert told["code"] == "PLATFORM_NOT_IMPLEMENTED"
    assert told["details"] == {"platform": "TikTok", "supported": ["youtube"]}


def test_the_field_at_fault_is_named_as_the_client_knows_it() -> None:
    error = EdgeError(
        "`spec.chat.conversation_id` is wrong", reason=Reason.NOT_FOUND, field="spec.chat.conversation_id"
    )
    told = body_of(error)
    assert (told["details"], told["message"]) == ({"field": "conversationId"}, "`conversationId` is wrong")
    assert [field_of(name) for name in ("conversation_id", "spec.chat.messages[0].parts", "")] == [
        "conversationId",
        "messages[0].content",
        "",
    ]


def test_a_refusal_for_the_rate_tells_when_to_come_back() -> None:
    metadata = {"request_limit": "10", "requests_remaining": "0", "requests_reset_seconds": "44.5"}
    error = EdgeError("No.", reason=Reason.RATE_LIMITED, retry_after=44.5, metadata=metadata)
    answer = render_error(error)
    assert body_of(error)["details"] == {"retryAfter": 45}
    assert answer.headers["Retry-After"] == "45"
    assert (answer.headers["X-Soke-Limit"], answer.headers["X-Soke-Remaining"]) == ("10", "0")
    assert answer.headers["X-Soke-Reset"].isdigit()


def test_a_refusal_for_want_of_credits_tells_how_many_there_are() -> None:
    error = EdgeError("No.", reason=Reason.INSUFFICIENT_CREDITS, metadata={"available_micros": "1500000"})
    assert render_error(error).headers["X-Soke-Credits-Remaining"] == "1.5"


def test_a_run_tells_what_is_left() -> None:
    run = Run()
    headers: dict[str, str] = {}
    run.rate_state.request_limit, run.rate_state.requests_remaining = 10, 7
    run.rate_state.requests_reset_time.FromMilliseconds(1_700_000_000_001)
    run.charge.amount_micros, run.charge.available_micros = 5_000_000, 495_000_000
    tell_run(headers, run)
    assert headers == {
        "X-Soke-Limit": "10",
        "X-Soke-Remaining": "7",
        "X-Soke-Reset": "1700000001",
        "X-Soke-Credits-Used": "5",
        "X-Soke-Credits-Remaining": "495",
    }


def test_a_stream_tells_it_when_the_run_starts() -> None:
    batch = StreamRunResponse()
    headers: dict[str, str] = {}
    batch.events.add().run_started.rate_state.CopyFrom(RateState(request_limit=10, requests_remaining=9))
    batch.events.add().text_delta.text = "x"
    tell_run(headers, batch)
    assert headers["X-Soke-Remaining"] == "9"
    headers.clear()
    tell_run(headers, StreamRunResponse())
    tell_run(headers, Run())
    assert headers == {}


def test_limits_of_tokens_alone_are_not_told() -> None:
    headers: dict[str, str] = {}
    tell_run(headers, Run(rate_state=RateState(token_limit=5)))
    assert headers == {}


@pytest.mark.parametrize(
    ("micros", "text"), [(0, "0"), (1, "0.000001"), (500_000, "0.5"), (5_000_000, "5"), (12_340_000, "12.34")]
)
def test_credits_are_written_as_people_write_them(micros: int, text: str) -> None:
    assert credits_text(micros) == text


def test_web_pages_may_read_the_headers() -> None:
    assert set(HEADERS) <= set(EXPOSED.split(", "))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/v1/chat/completions/x", "soke"),
        ("/api/v1/conversations/x/y", "soke"),
        ("/api/v1/research/keywords", "soke"),
        ("/api/v1/jobs/x", "soke"),
        ("/api/v1/auth/nope", "soke"),
        ("/api/v1/chat/nope", "alchemyst"),
        ("/api/v1/proxy/nope", "openai_proxy"),
        ("/api/v1/nope", "openai"),
        ("/v1/chat/completions/x", "openai"),
    ],
)
def test_whose_words_unknown_paths_are_answered_in(path: str, name: str) -> None:
    assert dialect_of(path).name == name


def test_all_headers_are_of_the_dialect() -> None:
    assert all(re.fullmatch(r"X-Soke-[A-Z][A-Za-z-]+", name) for name in SOKE.headers)
