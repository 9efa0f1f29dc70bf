from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from dragoman.reasons import Reason
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.failure_pb2 import Failure
from dragoman_edge.auth import credential_of
from dragoman_edge.calls import error_of_cancellation, error_of_failure, error_of_status
from dragoman_edge.dialects.openai.errors import TABLE, param_of_field, param_of_function_field, render_error
from dragoman_edge.errors import EdgeError
from dragoman_edge.http.body import Body
from dragoman_edge.http.request import Head, Request
from tests.support.fake_core import CallFailed


def test_every_reason_has_a_row() -> None:
    assert set(TABLE) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_error_says_all_that_clients_need(reason: Reason) -> None:
    answer = render_error(EdgeError("No.", reason=reason))
    assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}
    assert 400 <= answer.status < 600
    advice = answer.headers.get("x-should-retry") == "false"
    assert advice is not TABLE[reason].retryable
    if answer.status == 503 and reason is not Reason.WATCHER_TOO_SLOW:
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("reason", list(Reason))
def test_the_type_says_what_kind_of_error_it_is(reason: Reason) -> None:
    answer = render_error(EdgeError("No.", reason=reason))
    types = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}
    usual = "server_error" if answer.status >= 499 else "invalid_request_error"
    assert json.loads(answer.body)["error"]["type"] == types.get(answer.status, usual)


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("", ""),
        ("spec.chat.sampling.temperature", "temperature"),
        ("sampling.max_output_tokens", "max_completion_tokens"),
        ("spec.chat.sampling.choice_count", "n"),
        ("spec.chat.messages[2].parts[0].image.url", "messages[2].content[0].image_url"),
        ("spec.chat.messages[1].parts[0].tool_result.call_id", "messages[1].tool_call_id"),
        ("spec.chat.response_format.json_schema.schema_json", "response_format.json_schema.schema"),
        ("spec.chat.tools[0].function.parameters_json", "tools[0].function.parameters"),
        ("spec.chat.web_search_options_json", "web_search_options"),
        ("request_id", "Idempotency-Key"),
        ("spec.detach_ttl", "X-Dragoman-Disconnect"),
    ],
)
def test_paths_of_the_contract_become_parameters(field: str, param: str) -> None:
    assert param_of_field(field) == param


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("spec.chat.tools", "functions"),
        ("tools[3].function.parameters_json", "functions[3].parameters"),
        ("tools[].function.strict", "functions[].strict"),  # as what was left out of all of them is named
        ("parallel_tool_calls", "functions"),
        ("tool_choice.tool.name", "function_call"),
        ("messages[1].parts[0].tool_call.arguments", "messages[1].function_call.arguments"),
        ("sampling.choice_count", "n"),
    ],
)
def test_paths_of_the_contract_become_parameters_of_deprecated_functions(field: str, param: str) -> None:
    assert param_of_function_field(field) == param


def test_a_key_that_is_limited_to_other_suppliers() -> None:
    limited = EdgeError("No.", reason=Reason.FORBIDDEN, metadata={"model": "a/b", "providers": "c d"})
    for error, code in ((limited, "supplier_not_allowed"), (EdgeError("No.", reason=Reason.FORBIDDEN), "forbidden")):
        answer = render_error(error)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, code)


def test_messages_speak_of_parameters() -> None:
    error = EdgeError("`spec.chat.sampling.choice_count` must be 1 to 128", field="spec.chat.sampling.choice_count")
    assert json.loads(render_error(error).body)["error"]["message"] == "`n` must be 1 to 128"
    told = EdgeError("moderation_json cannot be handed over", field="spec.chat.moderation_json")
    assert json.loads(render_error(told).body)["error"]["message"] == "moderation cannot be handed over"


class TestStatus:
    def test_with_details(self) -> None:
        failed = CallFailed(
            grpc.StatusCode.UNAVAILABLE,
            Reason.PROVIDER_FAILED,
            "No.",
            field="spec.chat.model",
            retry_after=1.5,
            metadata={"retryable": "false", "run_id": "run_1"},
        )
        error = error_of_status(failed.code, "x", (("grpc-status-details-bin", failed.status.SerializeToString()),))
        assert (error.reason, error.message, error.field) == (Reason.PROVIDER_FAILED, "No.", "spec.chat.model")
        assert (error.retryable, error.retry_after, error.run_id) == (False, 1.5, "run_1")

    @pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
    def test_without_details(self, code: grpc.StatusCode) -> None:
        error = error_of_status(code, "10.0.0.1: refused", ())
        assert error.message
        if error.reason is Reason.INTERNAL or code is grpc.StatusCode.UNAVAILABLE:
            assert "10.0.0.1" not in error.message

    def test_of_a_newer_core(self) -> None:
        assert error_of_failure(Failure(reason="FROM_THE_FUTURE", message="?"), "run_1").reason is Reason.INTERNAL


def test_failures_keep_their_advice() -> None:
    failure = Failure(reason="OVERLOADED", message="Full.", retryable=True, retry_after=Duration(seconds=4))
    answer = render_error(error_of_failure(failure, "run_1"))
    assert answer.headers == {"Retry-After": "4", "x-dragoman-run-id": "run_1"}


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (CancelReason.CANCEL_REASON_REQUESTED, 499),
        (CancelReason.CANCEL_REASON_DISCONNECTED, 499),
        (CancelReason.CANCEL_REASON_SHUTDOWN, 503),
    ],
)
def test_cancelled_runs(reason: CancelReason, status: int) -> None:
    assert render_error(error_of_cancellation(reason, "run_1")).status == status


def request_with(fields: list[tuple[str, str]]) -> Request:
    headers: dict[str, str] = {}
    for name, value in fields:
        headers.setdefault(name.lower(), value)
    lines = [f"{name}: {value}" for name, value in fields]
    return Request(Head("GET", "/", 1, headers, lines, keep_alive=True), Body(0))


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ([], None),
        ([("Authorization", "Bearer abc")], "abc"),
        ([("Authorization", "bearer  abc ")], "abc"),
        ([("X-Api-Key", "abc"), ("api-key", "abc"), ("Authorization", "Bearer abc")], "abc"),
    ],
)
def test_the_one_credential(headers: list[tuple[str, str]], credential: str | None) -> None:
    assert credential_of(request_with(headers)) == credential


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "abc")],
        [("Authorization", "Basic abc")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer a b")],
        [("Authorization", "Bearer ä")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
        [("Authorization", "Bearer a"), ("x-api-key", "b")],
        [("x-api-key", "")],
        [("x-api-key", "x" * 9000)],
    ],
)
def test_credentials_that_make_no_sense(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(EdgeError) as caught:
        credential_of(request_with(headers))
    assert caught.value.reason is Reason.API_KEY_INVALID
