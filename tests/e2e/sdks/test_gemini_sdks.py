"""The official Google Gen AI SDKs against a real server; each plays all scenarios in one process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import Server, running_server
from tests.support.toolchains import missing, node_version, npm_package, python_with, run, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(600)  # the first test of an SDK fetches it and plays all scenarios

HERE = Path(__file__).parent
PYTHON_SDKS = ("1.75.0", "3.4.0")
"""The oldest major that people still use asks under /v1beta, the newest one under /v1."""
NODE_SDK = "2.32.0"
OLDEST_NODE = 20

EAGER = {"DRAGOMAN_SSE__HOLD_HEADERS": "0.3", "DRAGOMAN_SSE__KEEP_ALIVE": "0.2"}
"""Headers and keep-alives come soon, so that they come at all in the slow scenarios."""


@pytest.fixture(scope="module")
def sdk_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("gemini_sdks"), environ=EAGER) as running:
        yield running


def program_of(sdk: str) -> tuple[list[str], str]:
    """Returns the program that plays the scenarios, and the version of the SDK that it must have."""
    if sdk == "node":
        if node_version() < (OLDEST_NODE,):
            missing(f"Node.js {OLDEST_NODE} is required, {node_version()} is installed")
        return [tool("node"), str(HERE / "gemini_node.mjs"), str(npm_package("@google/genai", NODE_SDK))], NODE_SDK
    version = sdk.removeprefix("python-")
    return [str(python_with(f"google-genai=={version}")), str(HERE / "gemini_python.py")], version


@pytest.fixture(scope="module", params=[*(f"python-{version}" for version in PYTHON_SDKS), "node"])
def outcomes(request: pytest.FixtureRequest, sdk_server: Server) -> dict[str, Any]:
    """What came of each scenario with one SDK."""
    program, version = program_of(request.param)
    found: dict[str, Any] = json.loads(run([*program, sdk_server.url, sdk_server.key], timeout=180))
    assert found["version"] == version
    return found


ECHO = "You said: hello there"
EXPECTED: dict[str, Any] = {
    "plain": {
        "text": ECHO,
        "finish": "STOP",
        "role": "model",
        "model": "demo",
        "id": "run_",
        "usage_adds_up": True,
    },
    "stream": {"text": ECHO, "finish": ["STOP"], "usages": 1},
    "slow_stream": "abc",  # keep-alives between the frames
    "slow_start": "late",  # keep-alives before the first
    "thoughts": {"shown": [["hm", True], ["yes", False]], "text": "yes", "hidden": ["yes"], "thoughts": 1},
    "tools": {
        "plain": ["weather", {"city": "Rome"}, "STOP"],
        "answer": 'The tools said: {"sky":"blue"}',
        "without_id": 'The tools said: {"sky":"grey"}',
        "stream": [["weather", {"city": "Rome"}]],
        "forced": ["weather"],
    },
    "chat": ["You said: one", "You said: two", 2],  # both turns stay in the history: all frames were valid
    "json_schema": [{"city": "str", "count": "int"}, {"city": "str"}],
    "vision": "You said: what is this? [image: 69 bytes] [image: https://example.org/a.png]",
    "logprobs": [["You", " said:", " hi"], -0.25, 2],
    "candidates": ["You said: hi", "You said: hi"],
    "length": ["ab", "MAX_TOKENS"],
    "stop": "one ",
    "safety": ["SAFETY", "SAFETY", ["SAFETY"]],
    "models": [True, "models/demo"],
    "failures": {
        "unknown_model": {"code": 404},
        "wrong_key": {"code": 401},
        "wrong_value": {"code": 400},
        "search": {"code": 400},
        "cache": {"code": 400},
        "limited": {"code": 429},
        "limited_stream": {"code": 429},
        "count": {"code": 404},
    },
    "fails_midway": {"error": {"code": 503}, "said": ["a", "b"]},
}


@pytest.mark.parametrize("scenario", EXPECTED)
def test_scenario(outcomes: dict[str, Any], scenario: str) -> None:
    assert outcomes[scenario] == EXPECTED[scenario]


def test_every_scenario_is_looked_at(outcomes: dict[str, Any]) -> None:
    assert set(outcomes) == {*EXPECTED, "version"}
