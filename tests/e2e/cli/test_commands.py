"""The commands that do their work and end."""

from __future__ import annotations

import http.client
import re
import socket
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.support.command import dragoman
from tests.support.server import running_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Server

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
    for command in ("up", "core", "edge", "keys", "models", "chat", "doctor", "version"):
        assert re.search(rf"\b{command}\b", shown)
    assert dragoman("nonsense").returncode == 2


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
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    result = dragoman("chat", "--url", f"http://127.0.0.1:{port}", "hello")
    assert result.returncode == 1
    assert "refused" in result.stderr


def test_models_here_and_elsewhere(tmp_path: Path) -> None:
    data = {"DRAGOMAN_DATA_DIR": str(tmp_path)}
    assert "not fetched: dragoman models pull smollm2" in dragoman("models", "list", **data).stdout
    model = tmp_path / "models" / "mine.gguf"
    model.parent.mkdir()
    model.write_bytes(b"GGUF" + bytes(60))
    assert f"mine  0 MB  {model}" in dragoman("models", "list", **data).stdout
    assert dragoman("models", "pull", str(model), **data).stdout == f"{model}\n"
    for name, problem in ((str(tmp_path / "none.gguf"), "no model"), ("hf:nonsense", "hf:owner/repo/file.gguf")):
        result = dragoman("models", "pull", name, **data)
        assert result.returncode == 1
        assert problem in result.stderr


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


def test_doctor_tells_every_problem_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text("[server]\nprot = 1\nport = -1\n")
    result = dragoman("doctor", "--config", str(file))
    assert result.returncode == 1
    assert "did you mean server.port?" in result.stdout
    assert "server.port: must be greater than or equal to 0, but is -1" in result.stdout
