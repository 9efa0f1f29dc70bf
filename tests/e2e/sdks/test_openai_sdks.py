"""The official OpenAI SDKs against a real server: every scenario, with every major that people use.

Each SDK plays all scenarios in one process of its own (`openai_python.py`, `openai_node.mjs`); each test looks at one
outcome.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.server import Server, running_server
from tests.support.toolchains import missing, node_version, npm_package, python_with, run, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(600)  # the first test of an SDK fetches it and plays all scenarios

HERE = Path(__file__).parent
PYTHON_SDKS = ("1.109.1", "2.54.0", "3.54.0")
NODE_SDKS = {22: "7.57.0", 20: "6.49.0"}
"""The oldest Node.js of each version of the SDK; the newest that runs on the machine is taken."""

EAGER = {"DRAGOMAN_SSE__HOLD_HEADERS": "0.3", "DRAGOMAN_SSE__KEEP_ALIVE": "0.2"}
"""Headers and keep-alives come soon, so that they come at all in the slow scenarios."""


@pytest.fixture(scope="module")
def sdk_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("sdks"), environ=EAGER) as running:
        yield running


def node_sdk() -> str:
    for oldest, version in NODE_SDKS.items():
        if node_version() >= (oldest,):
            return version
    missing(f"Node.js {min(NODE_SDKS)} is required, {node_version()} is installed")


@pytest.fixture(scope="module", params=[*(f"python-{version}" for version in PYTHON_SDKS), "node"])
def outcomes(request: pytest.FixtureRequest, sdk_server: Server) -> dict[str, Any]:
    """What came of each scenario with one SDK."""
    program: list[str | Path]
    if request.param == "node":
        version = node_sdk()
        program = [tool("node"), HERE / "openai_node.mjs", npm_package("openai", version)]
    else:
        version = request.param.removeprefix("python-")
        program = [python_with(f"openai=={version}"), HERE / "openai_python.py"]
    found: dict[str, Any] = json.loads(run([*program, f"{sdk_server.url}/v1", sdk_server.key], timeout=180))
    assert found["version"] == version
    return found


ECHO = "You said: hello there"
STREAM = {
    "text": {"0": ECHO},
    "roles": {"0": ["assistant"]},
    "finish": {"0": ["stop"]},
    "usage": None,
    "ids": 1,
    "models": ["demo"],
}


def test_plain(outcomes: dict[str, Any]) -> None:
    assert outcomes["plain"] == {
        "text": ECHO,
        "role": "assistant",
        "finish": "stop",
        "object": "chat.completion",
        "model": "demo",
        "id": "chatcmpl-",
        "usage_adds_up": True,
    }


def test_stream(outcomes: dict[str, Any]) -> None:
    assert outcomes["stream"] == STREAM


def test_usage_comes_when_asked_for(outcomes: dict[str, Any]) -> None:
    assert outcomes["stream_usage"] == STREAM | {"usage": 0}  # total = prompt + completion, in a chunk of its own


def test_several_choices(outcomes: dict[str, Any]) -> None:
    found = outcomes["choices"]
    assert found["plain"] == {"0": "You said: hi", "1": "You said: hi"}
    assert found["stream"] == STREAM | {
        "text": found["plain"],
        "roles": {"0": ["assistant"], "1": ["assistant"]},
        "finish": {"0": ["stop"], "1": ["stop"]},
    }


def test_stop(outcomes: dict[str, Any]) -> None:
    assert outcomes["stop"] == {"plain": ["one ", "stop"], "stream": {"0": "one "}}


def test_length(outcomes: dict[str, Any]) -> None:
    assert outcomes["length"] == ["ab", "length"]


def test_json_schema(outcomes: dict[str, Any]) -> None:
    assert outcomes["json_schema"] == {"city": "str", "count": "int"}


def test_tool_calls(outcomes: dict[str, Any]) -> None:
    assert outcomes["tools"] == {
        "plain": ["function", "weather", {"city": "Rome"}, "tool_calls"],
        "stream": [["weather"], {"city": "Rome"}, "tool_calls"],
    }


def test_unknown_model(outcomes: dict[str, Any]) -> None:
    assert outcomes["unknown_model"] == {
        "class": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }


def test_wrong_key(outcomes: dict[str, Any]) -> None:
    assert outcomes["wrong_key"] == {
        "class": "AuthenticationError",
        "status": 401,
        "code": "invalid_api_key",
        "param": None,
    }


def test_wrong_parameter(outcomes: dict[str, Any]) -> None:
    found = outcomes["wrong_parameter"]
    assert (found["class"], found["status"], found["param"]) == ("BadRequestError", 400, "temperature")


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_failure_before_the_first_event_has_its_own_status(outcomes: dict[str, Any], way: str) -> None:
    found = outcomes["rate_limited"][way]
    assert (found["class"], found["status"]) == ("RateLimitError", 429)


def test_failure_midway_is_raised_after_what_was_said(outcomes: dict[str, Any]) -> None:
    found = outcomes["fails_midway"]
    assert found["said"] == "ab"
    assert found["failure"]["class"] == "APIError"
    assert "it broke" in found["failure"]["message"]


def test_slow_answers_arrive_whole(outcomes: dict[str, Any]) -> None:
    assert outcomes["slow_start"] == {"0": "at last"}
    assert outcomes["silent_middle"] == {"0": "abc"}


def test_a_failure_after_the_headers_is_raised(outcomes: dict[str, Any]) -> None:
    assert outcomes["slow_failure"]["class"] == "APIError"
    assert "it broke" in outcomes["slow_failure"]["message"]


def test_many_events(outcomes: dict[str, Any]) -> None:
    assert outcomes["many_events"] == 50_000


def test_models(outcomes: dict[str, Any]) -> None:
    assert outcomes["models"] == {"listed": True, "one": "demo"}


def test_text_arrives_as_it_was_said(outcomes: dict[str, Any]) -> None:
    assert outcomes["unicode"] == {"plain": True, "stream": True}


def test_leaving_a_stream_cancels_the_run(outcomes: dict[str, Any], sdk_server: Server) -> None:
    run_id = outcomes["cancel"]["run"]
    deadline = time.monotonic() + 20
    while (run := get_run(sdk_server, run_id))["state"] == "STATE_RUNNING" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (run["state"], run["cancel_reason"]) == ("STATE_CANCELLED", "CANCEL_REASON_DISCONNECTED")


def request(server: Server, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()


def get_run(server: Server, run_id: str) -> dict[str, Any]:
    status, answer = request(server, "GET", f"/v1/runs/{run_id}")
    assert status == 200, answer
    run: dict[str, Any] = json.loads(answer)["run"]
    return run


def test_keep_alives_are_really_sent_in_the_slow_scenarios(sdk_server: Server) -> None:
    prompt = 'SCRIPT {"first_delay": 1.5, "text": ["at ", "last"]}'
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    status, answer = request(sdk_server, "POST", "/v1/chat/completions", body)
    assert status == 200
    lines = answer.decode().split("\n")
    first_data = next(number for number, line in enumerate(lines) if line.startswith("data:"))
    assert ": ping" in lines[:first_data]
    assert lines[-3:] == ["data: [DONE]", "", ""]
