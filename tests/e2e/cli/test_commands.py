"""The commands that do their work and end."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.command import dragoman, environment
from tests.support.plugin_backend import Backend, serving
from tests.support.server import free_port, running_server
from tests.support.upstream_server import UpstreamServer, raw, whole

if TYPE_CHECKING:
    from pathlib import Path

    from dragoman.plugin.v1.model_backend_pb2 import DescribeRequest, DescribeResponse
    from tests.support.server import Server
    from tests.support.upstream_server import Answer, Connection, Request

FREE = {"DRAGOMAN_PORT": "0", "DRAGOMAN_GRPC_PORT": "0"}
SCRIPTED = {"DRAGOMAN_PROVIDERS": '[{name = "s", dialect = "scripted"}]'}


def status_with(server: Server, key: str) -> int:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", "/v1/models", headers={"x-api-key": key})
        return connection.getresponse().status
    finally:
        connection.close()


def test_version_and_help() -> None:
    assert dragoman("version").stdout.strip() == version("dragoman")
    shown = dragoman("--help").stdout
    for command in (
        "up",
        "core",
        "edge",
        "keys",
        "models",
        "chat",
        "doctor",
        "migrate",
        "backup",
        "vendors",
        "version",
    ):
        assert re.search(rf"\b{command}\b", shown)
    assert dragoman("nonsense").returncode == 2


@pytest.mark.parametrize("module", ["typer", "sqlalchemy"])
def test_an_environment_without_the_extras_names_them(tmp_path: Path, module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from dragoman_cli.__main__ import main; main()"
    variables = environment(DRAGOMAN_DATA_DIR=str(tmp_path))
    command = [sys.executable, "-c", program, "keys", "list"]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: the module {module} is missing: pip install 'dragoman[server,edge]'")
    assert result.stderr.count("\n") == 1


def test_keys_are_made_used_listed_and_revoked(tmp_path: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path / "data")}
    with running_server(tmp_path) as server:
        made = dragoman("keys", "create", "--name", "laptop", "--expires", "30d", **data)
        secret = made.stdout.strip()
        assert re.fullmatch(r"dgm_[\w-]{43}", secret)
        assert secret not in made.stderr
        assert status_with(server, secret) == 200
        listed = dragoman("keys", "list", **data).stdout
        (row,) = [line for line in listed.splitlines() if line.endswith("laptop")]
        assert secret not in listed
        assert secret.startswith(row.split()[1])
        assert "member" in row
        assert "until" in row
        revoked = dragoman("keys", "revoke", row.split()[0], **data)
        assert (revoked.returncode, revoked.stdout) == (0, f"Revoked {row.split()[0]} (laptop).\n")
        deadline = time.monotonic() + 30  # another process did it: seen within seconds
        while status_with(server, secret) != 401:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert "revoked" in dragoman("keys", "list", **data).stdout


def test_keys_that_cannot_be_made_or_found(tmp_path: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    for arguments, problem in (
        (("revoke", "key_none"), "key_none"),
        (("create", "--name", ""), "1 to 128 characters"),
        (("create", "--name", "x", "--expires", "2001-01-01"), "must lie ahead"),
        (("create", "--name", "x", "--expires", "soon"), "write 12h, 30d or a date"),
    ):
        result = dragoman("keys", *arguments, **data)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert problem in result.stderr


def test_an_admin_key_may_manage_keys_and_a_member_key_may_not(tmp_path: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    dragoman("keys", "create", "--name", "a", "--admin", **data)
    dragoman("keys", "create", "--name", "m", **data)
    roles = {line.split()[-1]: line.split()[2] for line in dragoman("keys", "list", **data).stdout.splitlines()[1:]}
    assert roles == {"a": "admin", "m": "member"}


def test_chat_over_rest_and_grpc(server: Server) -> None:
    for door in (("--url", server.url), ("--url", f"{server.url}/v1/"), ("--grpc", server.target)):
        result = dragoman("chat", *door, "hello there", DRAGOMAN_API_KEY=server.key)
        assert (result.returncode, result.stdout) == (0, "You said: hello there\n"), result.stderr


def test_a_conversation_from_standard_input(server: Server) -> None:
    result = dragoman("chat", "--url", server.url, stdin="one\n\ntwo\n", DRAGOMAN_API_KEY=server.key)
    assert result.stdout == "You said: one\nYou said: two\n"


@pytest.mark.parametrize("door", ["--url", "--grpc"])
def test_chat_tells_refusals_and_broken_answers(server: Server, door: str) -> None:
    address = server.url if door == "--url" else server.target
    failing = 'SCRIPT {"text": ["a", "b"], "fail_after": 1}'
    for arguments, key, problem in (
        ((), "wrong-key-of-nobody", "key"),
        (("--model", "none"), server.key, "none"),
        ((failing,), server.key, ""),
    ):
        prompt = () if failing in arguments else ("hello",)
        result = dragoman("chat", door, address, *arguments, *prompt, DRAGOMAN_API_KEY=key)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert problem in result.stderr
        assert "Traceback" not in result.stderr


def test_chat_without_a_server() -> None:
    result = dragoman("chat", "--url", f"http://127.0.0.1:{free_port()}", "hello")
    assert result.returncode == 1
    assert "refused" in result.stderr


def test_models_here_and_elsewhere(tmp_path: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    assert "not fetched: dragoman models pull smollm2" in dragoman("models", "files", **data).stdout
    model = tmp_path / "models" / "mine.gguf"
    model.parent.mkdir()
    model.write_bytes(b"GGUF" + bytes(60))
    assert f"mine  0 MB  {model}" in dragoman("models", "files", **data).stdout
    assert dragoman("models", "pull", str(model), **data).stdout == f"{model}\n"
    for name, problem in ((str(tmp_path / "none.gguf"), "no model"), ("hf:nonsense", "hf:owner/repo/file.gguf")):
        result = dragoman("models", "pull", name, **data)
        assert result.returncode == 1
        assert problem in result.stderr


def test_the_catalogue_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text(
        '[[providers]]\nname = "oa"\nvendor = "openai"\n[[models]]\nid = "fast"\nprovider = "oa"\n'
        'upstream_model = "gpt-4.1-mini"\ncontext_length = 1000\ncapabilities = { vision = false }\n'
    )
    rows = [line.split() for line in dragoman("models", "list", "--config", str(file)).stdout.splitlines()]
    (fast,) = [row for row in rows if row[0] == "fast"]
    assert fast[1:4] == ["*", "1,000", "32,768"]
    assert fast[-2] == "USD"
    assert "vision" not in fast[-1]
    (known,) = [row for row in rows if row[0] == "oa/gpt-4.1-mini"]
    assert "vision" in known[-1].split(",")
    listed = json.loads(dragoman("models", "list", "--config", str(file), "--json").stdout)
    (entry,) = [model for model in listed if model["id"] == "fast"]
    assert entry["is_default"]
    assert entry["context_length"] == 1000
    assert entry["targets"][0]["upstream_model"] == "gpt-4.1-mini"


def test_the_catalogue_of_a_server(server: Server) -> None:
    shown = dragoman("models", "list", "--grpc", server.target, DRAGOMAN_API_KEY=server.key)
    (row,) = [line for line in shown.stdout.splitlines() if line.startswith("demo *")]
    assert row.endswith("scripted/echo up")
    refused = dragoman("models", "list", "--grpc", server.target, "--key", "nobodys-key")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")


def test_vendors_are_listed() -> None:
    rows = {line.split()[0]: line for line in dragoman("vendors").stdout.splitlines()}
    assert rows["anthropic"].split()[1:] == [
        "Anthropic", "anthropic_messages", "https://api.anthropic.com", "ANTHROPIC_API_KEY",
    ]  # fmt: skip


def answering(status: int, *, with_key: int = 0) -> Answer:
    """A server that answers so, and to requests with a key perhaps otherwise."""

    async def answer(request: Request, connection: Connection) -> None:
        keyed = "authorization" in request.headers or "x-api-key" in request.headers
        await connection.write(whole(with_key if keyed and with_key else status, b'{"error": {"message": "no"}}'))

    return answer


@pytest.mark.parametrize(
    ("answer", "key", "state", "text"),
    [
        (answering(401, with_key=200), "secret-0123456789", "ok", ", and takes the key"),
        (answering(200), "secret-0123456789", "ok", "whether it takes the key only a paid call would show"),
        (answering(404), "secret-0123456789", "ok", "whether it takes the key only a paid call would show"),
        (answering(200), "", "ok", ", without a key"),
        (answering(401), "secret-0123456789", "broken", "refuses the key"),
        (answering(401), "", "broken", "wants a key: set its api_key"),
        (answering(500), "secret-0123456789", "broken", "no"),
        (raw(60.0), "", "broken", "took longer than"),
        (raw(b"nonsense\r\n\r\n"), "", "broken", "not valid HTTP"),
    ],
)
async def test_doctor_asks_a_provider(tmp_path: Path, answer: Answer, key: str, state: str, text: str) -> None:
    async with UpstreamServer(answer) as upstream:
        result = await asyncio.to_thread(doctor_of, tmp_path, upstream.url, key)
        assert all(request.head.startswith("GET ") for request in upstream.requests)
    (line,) = [line for line in result.stdout.splitlines() if "provider up" in line]
    assert line.startswith(state)
    assert text in line
    assert result.returncode == (state == "broken")
    assert not key or key not in result.stdout + result.stderr


def doctor_of(folder: Path, url: str, key: str, *options: str) -> subprocess.CompletedProcess[str]:
    file = folder / "dragoman.toml"
    file.write_text(f'[[providers]]\nname = "up"\nvendor = "anthropic"\nbase_url = "{url}"\napi_key = "{key}"\n')
    if not key:
        file.write_text(f'[[providers]]\nname = "up"\ndialect = "openai_chat"\nbase_url = "{url}"\n')
    return dragoman("doctor", "--config", str(file), *options, DRAGOMAN_DATA_DIR=str(folder), **FREE)


async def test_doctor_leaves_the_network_alone_if_told_so(tmp_path: Path) -> None:
    async with UpstreamServer(answering(200)) as upstream:
        result = await asyncio.to_thread(doctor_of, tmp_path, upstream.url, "", "--no-network")
        assert not upstream.requests
    assert result.returncode == 0
    assert "provider up" not in result.stdout


async def test_doctor_finds_nobody(tmp_path: Path) -> None:
    result = await asyncio.to_thread(doctor_of, tmp_path, f"http://127.0.0.1:{free_port()}", "")
    assert result.returncode == 1
    assert "Connection refused" in result.stdout


class Guarded(Backend):
    async def Describe(self, request: DescribeRequest, context: Any) -> DescribeResponse:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.key}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"not {self.key}")
        return await super().Describe(request, context)


@pytest.mark.parametrize(("key", "state"), [("right-0123456789", "ok"), ("wrong-0123456789", "broken")])
async def test_doctor_asks_a_plugin(tmp_path: Path, key: str, state: str) -> None:
    file = tmp_path / "dragoman.toml"
    async with serving(Guarded(key="right-0123456789")) as address:
        file.write_text(f'[[providers]]\nname = "p"\ndialect = "plugin"\nbase_url = "{address}"\napi_key = "{key}"\n')
        result = await asyncio.to_thread(
            dragoman, "doctor", "--config", str(file), DRAGOMAN_DATA_DIR=str(tmp_path), **FREE
        )
    (line,) = [line for line in result.stdout.splitlines() if "provider p" in line]
    assert line.startswith(state)
    assert ("takes the key" in line) is (state == "ok")
    assert ("refuses the key" in line) is (state == "broken")


def test_doctor_finds_nothing_wrong(tmp_path: Path) -> None:
    result = dragoman("doctor", DRAGOMAN_DATA_DIR=str(tmp_path / "new"), DRAGOMAN_PROT="1", **FREE, **SCRIPTED)
    assert result.returncode == 0, result.stdout
    assert "broken" not in result.stdout
    assert "unknown variables, left alone: DRAGOMAN_PROT" in result.stdout
    assert not (tmp_path / "new").exists()


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = dragoman(
            "doctor",
            DRAGOMAN_DATA_DIR=str(tmp_path / "file" / "below"),
            DRAGOMAN_PORT=str(taken.getsockname()[1]),
            DRAGOMAN_GRPC_PORT="0",
            DRAGOMAN_LOCAL__ENABLED="true",
            DRAGOMAN_LOCAL__MODEL=str(tmp_path / "none.gguf"),
            DRAGOMAN_STORE__URL="postgresql://nobody@127.0.0.1:1/none",
        )
    assert result.returncode == 1
    broken = {line[8:].split("  ")[0].strip() for line in result.stdout.splitlines() if line.startswith("broken")}
    assert broken - {"extra local"} == {"data folder", "embedded model", "REST port", "database"}


def test_doctor_knows_a_running_server(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        taken = {"DRAGOMAN_PORT": server.url.rpartition(":")[2], "DRAGOMAN_GRPC_PORT": server.target.rpartition(":")[2]}
        result = dragoman("doctor", DRAGOMAN_DATA_DIR=str(tmp_path / "data"), **taken, **SCRIPTED)
    assert result.returncode == 0, result.stdout
    notes = [line for line in result.stdout.splitlines() if line.startswith("note") and "port " in line]
    assert [line.endswith("it is in use; a Dragoman is running") for line in notes] == [True, True]


def test_doctor_looks_for_the_model_of_vectors_too(tmp_path: Path) -> None:
    here = tmp_path / "here.gguf"
    here.write_bytes(b"GGUF")
    models = {"DRAGOMAN_LOCAL__MODEL": str(here), "DRAGOMAN_LOCAL__EMBEDDING_MODEL": str(tmp_path / "none.gguf")}
    for embeddings, states in (("first_use", {"ok", "broken"}), ("off", {"ok"})):
        told = dragoman(
            "doctor",
            DRAGOMAN_DATA_DIR=str(tmp_path),
            DRAGOMAN_LOCAL__ENABLED="true",
            DRAGOMAN_LOCAL__EMBEDDINGS=embeddings,
            **models,
            **FREE,
        )
        lines = [line for line in told.stdout.splitlines() if "embedded model" in line]
        assert {line.split()[0] for line in lines} == states


def test_doctor_tells_every_problem_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text("[server]\nprot = 1\nport = -1\n")
    result = dragoman("doctor", "--config", str(file))
    assert result.returncode == 1
    assert "did you mean server.port?" in result.stdout
    assert "server.port: must be greater than or equal to 0, but is -1" in result.stdout
