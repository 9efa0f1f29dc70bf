"""The official Alchemyst SDKs against a real server, by their general methods: they have none for chats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.server import running_server
from tests.support.toolchains import npm_package, python_with, run, tool

pytestmark = pytest.mark.timeout(600)  # each test fetches its SDK first

HERE = Path(__file__).parent
PYTHON_SDK, NODE_SDK = "0.10.1", "0.8.1"
EXPECTED = {
    "direct": {"message": "You said: hello there", "persona": "maya"},
    "generated": ["You said: hello there", "From the query"],
    "stream": ["[DONE]", "You said: more", True],
    "chat": [["hello there", "You said: hello there", "more", "You said: more"], "joe"],
    "fork": ["hello there"],
    "changed": [True, "Renamed"],
    "deleted": True,
    "history": 2,
    "key": ["organization", "user"],
    "failures": [
        [400, ["message"]],
        [401, ["message"]],
        [404, ["error", "message"]],
        [400, ["error"]],
    ],
}


@pytest.mark.parametrize("sdk", ["python", "node"])
def test_the_sdk_chats(sdk: str, tmp_path: Path) -> None:
    program: list[str | Path]
    if sdk == "python":
        version = PYTHON_SDK
        program = [python_with(f"alchemystai=={version}"), HERE / "sdk_python.py"]
    else:
        version = NODE_SDK
        program = [tool("node"), HERE / "sdk_node.mjs", npm_package("@alchemystai/sdk", version)]
    with running_server(tmp_path) as server:
        found = json.loads(run([*program, server.url, server.key], timeout=180))
    assert found == EXPECTED | {"version": version}
