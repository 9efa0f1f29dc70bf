"""What people build on top of OpenAI's dialect, against a real server: LangChain, LiteLLM as a client, Vercel's AI SDK.

Each plays all scenarios in one process of its own, with a model whose id is a slug with a slash.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import CONFIG, Server, running_server
from tests.support.toolchains import missing, node_version, npm_install, python_with, run, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(900)  # the first test of a framework fetches it and plays all scenarios

HERE = Path(__file__).parent
MODEL = "acme/demo"
SLUG = f"""
[[models]]
id = "{MODEL}"
provider = "scripted"
upstream_model = "echo"
"""
PYTHON = {
    "langchain-openai": ("1.7.3", (), "langchain_python.py"),
    "litellm": ("1.106.2", ("mcp",), "litellm_python.py"),  # it wants mcp for tools, and does not say so
}
"""Version, what else it needs, and the program."""
VERCEL = {
    22: {"ai": "7.0.173", "@ai-sdk/openai-compatible": "3.0.92", "zod": "4.6.7"},
    18: {"ai": "6.0.322", "@ai-sdk/openai-compatible": "2.0.87", "zod": "4.6.7"},
}
"""The oldest Node.js of each version; the newest that runs on the machine is taken."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = CONFIG.replace("[routing]", f"{SLUG}[routing]")
    with running_server(tmp_path_factory.mktemp("frameworks"), config=config) as running:
        yield running


def program_of(framework: str) -> tuple[list[str], str]:
    """Returns the program that plays the scenarios, and the version that it must have."""
    if framework in PYTHON:
        version, more, program = PYTHON[framework]
        return [str(python_with(f"{framework}=={version}", *more)), str(HERE / program)], version
    packages = next((packages for oldest, packages in VERCEL.items() if node_version() >= (oldest,)), None)
    if packages is None:
        missing(f"Node.js {min(VERCEL)} is required, {node_version()} is installed")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "package.json").write_text(json.dumps({"private": True, "dependencies": packages}))
        modules = npm_install(Path(folder))
    return [tool("node"), str(HERE / "vercel_node.mjs"), str(modules)], packages["ai"]


@pytest.fixture(scope="module", params=[*PYTHON, "vercel"])
def outcomes(request: pytest.FixtureRequest, house: Server) -> dict[str, Any]:
    """What came of each scenario with one framework."""
    program, version = program_of(request.param)
    printed = run([*program, f"{house.url}/v1", house.key, MODEL], timeout=180)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    assert found.pop("version") == version
    return found


CALL = ["weather", {"city": "Rome"}, "call_1"]
EXPECTED: dict[str, Any] = {
    "plain": ["You said: hello there", "stop", True],
    "stream": ["abc", 3, 3],
    "tools": [CALL, CALL],
    "tool_result": "The tools said: sunny",
    "structured": {"city": "str", "count": "int"},
    "unknown_model": [404, ""],
    "rate_limited": [429, ""],
    "rate_limited_stream": [429, ""],
    "fails_midway": [None, "ab"],
}


@pytest.mark.parametrize("scenario", EXPECTED)
def test_scenario(outcomes: dict[str, Any], scenario: str) -> None:
    found = outcomes[scenario]
    if scenario == "structured":
        found = {name: type(value).__name__ for name, value in found.items()}
    assert found == EXPECTED[scenario]


def test_every_scenario_is_looked_at(outcomes: dict[str, Any]) -> None:
    assert set(outcomes) == set(EXPECTED)
