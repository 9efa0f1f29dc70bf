"""OpenAI's SDK against Soke's API, as its documentation tells: one process, and core and edge apart."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.support.server import CONFIG, KEY, running_server
from tests.support.toolchains import missing, node_version, npm_package, run, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
PASSWORD = "correct horse battery"
TIMEOUT = 30
NODE_SDKS = {22: "7.57.0", 20: "6.49.0"}
"""The oldest Node.js of each version of the SDK; the newest that runs on the machine is taken."""


@pytest.fixture(scope="module", params=["up", "split"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("soke")
    if request.param == "up":
        with running_server(folder) as server:
            yield server.url
        return
    config = f'{CONFIG}\n[soke]\nmodel = "demo"\n'
    with (
        running_server(folder / "core", config=CONFIG, arguments=("core",)) as core,
        running_server(folder / "edge", config=config, arguments=("edge", "--core", core.target)) as edge,
    ):
        yield edge.url


def client_of(url: str, *, api_key: str = "not a key", **headers: str) -> openai.OpenAI:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return openai.OpenAI(
        base_url=f"{url}/api/v1", api_key=api_key, default_headers=named, max_retries=0, timeout=TIMEOUT
    )


def post(url: str, path: str, body: Any, **headers: str) -> Any:
    request = urllib.request.Request(
        f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return json.load(response)


def test_with_a_key(url: str) -> None:
    for client in (client_of(url, X_Soke_Key=KEY), client_of(url, api_key=KEY)):
        with client:
            answer = client.chat.completions.create(
                model="soke-v1", messages=MESSAGES, extra_body={"platform": "youtube"}, temperature=0.5
            )
            message: Any = answer.choices[0].message
            assert message.content == "You said: hi"
            assert message.data == {"services_used": [], "results": {}}
            assert answer.usage is not None
            assert answer.usage.total_tokens == 4
            assert answer.conversation_id is None  # type: ignore[attr-defined]  # an extra member
            again = [*MESSAGES, message.model_dump(), *MESSAGES]  # an answer can be sent back as it is
            assert client.chat.completions.create(model="soke-v1", messages=again).choices


def test_without_the_authorization_that_it_always_sends(url: str) -> None:
    with client_of(url) as client:
        headers: Any = {"X-Soke-Key": KEY, "Authorization": openai.omit}
        answer = client.chat.completions.create(model="soke-v1", messages=MESSAGES, extra_headers=headers)
        assert answer.choices[0].message.content == "You said: hi"


def test_streams(url: str) -> None:
    with client_of(url, X_Soke_Key=KEY) as client:
        create: Any = client.chat.completions.create
        options = {"stream_options": {"format": "openai"}}
        chunks = list(create(model="soke-v1", messages=MESSAGES, stream=True, extra_body=options))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: hi"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert chunks[-1].data == {"services_used": [], "results": {}}
        frames = list(create(model="soke-v1", messages=MESSAGES, stream=True))
        assert [frame.type for frame in frames] == ["content", "content", "content", "done"]
        assert "".join(frame.content for frame in frames[:-1]) == "You said: hi"


def test_with_a_login(url: str) -> None:
    email = "ada@example.com"
    post(url, "/v1/users", {"email": email, "password": PASSWORD}, Authorization=f"Bearer {KEY}")
    tokens = post(url, "/api/v1/auth/login", {"email": email, "password": PASSWORD})["data"]
    with client_of(url, api_key=tokens["accessToken"]) as client:
        create: Any = client.chat.completions.create
        first = create(model="soke-v1", messages=MESSAGES)
        goes_on = {"conversationId": first.conversation_id}
        second = create(model="soke-v1", messages=MESSAGES, extra_body=goes_on)
        assert first.conversation_id == second.conversation_id
        stored: Any = client.get(f"/conversations/{first.conversation_id}", cast_to=object)
        assert [message["role"] for message in stored["data"]["messages"]] == ["user", "assistant"] * 2
        listed: Any = client.get("/conversations", cast_to=object)
        assert listed["data"]["total"] == 1


@pytest.mark.timeout(600)  # it fetches the SDK first
def test_the_sdk_for_javascript(url: str) -> None:
    versions = {oldest: version for oldest, version in NODE_SDKS.items() if node_version() >= (oldest,)}
    if not versions:
        missing(f"Node.js {min(NODE_SDKS)} is required, {node_version()} is installed")
    package = npm_package("openai", versions[max(versions)])
    program: list[str | Path] = [tool("node"), Path(__file__).parent / "sdk_node.mjs", package]
    found = json.loads(run([*program, f"{url}/api/v1", KEY], timeout=180))
    nothing: dict[str, Any] = {"services_used": [], "results": {}}
    assert found == {
        "said": ["You said: hi"] * 3,
        "data": [nothing] * 3,
        "chunks": "You said: hi",
        "last": ["stop", nothing, None],
        "frames": ["content", "content", "content", "done"],
        "failure": [501, "PLATFORM_NOT_IMPLEMENTED"],
    }


def test_errors_are_those_that_it_knows(url: str) -> None:
    for key, fields, kind, code in (
        ("wrong", {}, openai.AuthenticationError, "UNAUTHORIZED"),
        (KEY, {"model": "nope"}, openai.BadRequestError, "BAD_REQUEST"),
        (KEY, {"extra_body": {"connectionId": "c"}}, openai.NotFoundError, "NOT_FOUND"),
        (KEY, {"extra_body": {"platform": "x"}}, openai.InternalServerError, "PLATFORM_NOT_IMPLEMENTED"),
    ):
        asked: Any = {"model": "soke-v1", "messages": MESSAGES, **fields}
        with client_of(url, X_Soke_Key=key) as client, pytest.raises(kind) as error:
            client.chat.completions.create(**asked)
        assert error.value.code == code
        assert error.value.request_id == error.value.response.json()["meta"]["request_id"]
    with client_of(url, X_Soke_Key=KEY) as client, pytest.raises(openai.PermissionDeniedError):
        client.get("/conversations", cast_to=object)
