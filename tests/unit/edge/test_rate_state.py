from __future__ import annotations

import time

import orjson
import pytest

from dragoman.reasons import Reason
from dragoman.v1.embedding_service_pb2 import EmbedResponse
from dragoman.v1.run_pb2 import Run
from dragoman.v1.run_service_pb2 import StreamRunResponse
from dragoman.v1.usage_pb2 import RateState
from dragoman_edge.cors import EXPOSED
from dragoman_edge.dialects.gemini.errors import render_error as gemini_error
from dragoman_edge.dialects.openai.errors import param_of_field
from dragoman_edge.dialects.openai.errors import render_error as openai_error
from dragoman_edge.errors import EdgeError
from dragoman_edge.rate_state import HEADERS, duration, rate_state_of
from dragoman_edge.served import tell_run, tell_start, tell_vectors

METADATA = {
    "scope": "key",
    "limit_name": "requests_per_minute",
    "limit": "10",
    "remaining": "0",
    "reset_seconds": "44.500",
    "request_limit": "10",
    "requests_remaining": "0",
    "requests_reset_seconds": "44.500",
    "token_limit": "5000",
    "tokens_remaining": "120",
    "tokens_reset_seconds": "44.500",
}


def state(**values: int) -> RateState:
    made = RateState(**values)  # type: ignore[arg-type]
    in_a_moment = int(time.time() * 1000) + 30_000
    made.requests_reset_time.FromMilliseconds(in_a_moment)
    made.tokens_reset_time.FromMilliseconds(in_a_moment + 60_000)
    return made


def the_refusal(metadata: dict[str, str] = METADATA) -> EdgeError:
    return EdgeError("the key has used up …", reason=Reason.RATE_LIMITED, metadata=metadata, retry_after=44.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0ms"),
        (0, "0ms"),
        (0.0191, "20ms"),
        (0.9999, "1000ms"),
        (1, "1s"),
        (6.2, "7s"),
        (60, "1m0s"),
        (359.1, "6m0s"),
    ],
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_tells_what_is_left() -> None:
    headers: dict[str, str] = {}
    run = Run(rate_state=state(request_limit=10, requests_remaining=7, token_limit=5000, tokens_remaining=4000))
    tell_run(headers, run, param_of_field)
    assert headers.pop("x-ratelimit-reset-requests") in ("29s", "30s")
    assert headers.pop("x-ratelimit-reset-tokens") in ("1m29s", "1m30s")
    assert headers == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "4000",
    }


def test_a_stream_tells_it_when_the_run_starts() -> None:
    headers: dict[str, str] = {}
    batch = StreamRunResponse()
    batch.events.add().run_started.rate_state.CopyFrom(state(request_limit=10, requests_remaining=7))
    tell_start(headers, batch, param_of_field)
    assert headers["x-ratelimit-remaining-requests"] == "7"
    assert not any("tokens" in name for name in headers)


def test_vectors_tell_it() -> None:
    headers: dict[str, str] = {}
    tell_vectors(headers, EmbedResponse(rate_state=state(token_limit=9, tokens_remaining=0)))
    assert headers["x-ratelimit-remaining-tokens"] == "0"


def test_without_limits_nothing_is_told() -> None:
    headers: dict[str, str] = {}
    tell_run(headers, Run(), param_of_field)
    tell_start(headers, StreamRunResponse(), param_of_field)
    assert headers == {}


def test_openai_hears_of_a_refusal_in_body_and_headers() -> None:
    answer = openai_error(the_refusal())
    assert answer.status == 429
    assert orjson.loads(answer.body)["error"] == {
        "message": "the key has used up …",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert answer.headers["Retry-After"] == "45"
    assert answer.headers["x-ratelimit-limit-requests"] == "10"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-reset-requests"] == "45s"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "120"
    assert "x-should-retry" not in answer.headers


def test_google_hears_of_it_with_retry_info() -> None:
    answer = gemini_error(the_refusal())
    error = orjson.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["status"]) == (429, 429, "RESOURCE_EXHAUSTED")
    info, retry = error["details"]
    assert (info["reason"], info["metadata"]["limit_name"]) == ("RATE_LIMITED", "requests_per_minute")
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "44.5s"}
    assert answer.headers["Retry-After"] == "45"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_other_metadata_tells_nothing() -> None:
    for metadata in ({}, {"run_id": "run_1"}, {"request_limit": "10"}, METADATA | {"token_limit": "many"}):
        assert rate_state_of(metadata) is None
    runs_only = {"scope": "key", "limit_name": "concurrent_runs", "limit": "1", "remaining": "0", "reset_seconds": "1"}
    answer = openai_error(the_refusal(runs_only))
    assert not any(name in answer.headers for name in HEADERS)
    assert "Retry-After" in answer.headers


def test_web_pages_may_read_the_headers() -> None:
    assert set(HEADERS) <= set(EXPOSED.split(", "))
