"""`dragoman up`, `core` and `edge` in processes of their own: what they print, how they start and how they end."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.command import DRAGOMAN, dragoman, environment
from tests.support.server import CONFIG, KEY, running_server, stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Server

TIMEOUT = 30


@contextmanager
def asking(server: Server, prompt: str, *, stream: bool = False, key: str = KEY) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT)
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "stream": stream})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def status_of(server: Server, key: str = KEY) -> int:
    with asking(server, "hello", key=key) as response:
        return response.status


def script(**what: object) -> str:
    return "SCRIPT " + json.dumps(what)


def frames(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        if line.startswith(b"data: "):
            yield line[6:].decode().strip()


def await_text(log: Path, text: str) -> str:
    deadline = time.monotonic() + TIMEOUT
    while text not in (written := log.read_text()):
        assert time.monotonic() < deadline, f"{text!r} is not in:\n{written}"
        time.sleep(0.05)
    return written


def test_the_first_start_prints_a_key_and_a_request_that_works_as_pasted(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with running_server(tmp_path, environ={"DRAGOMAN_BOOTSTRAP_KEY": ""}) as server:
        written = await_text(server.log, "Ready.")
        assert server.url in written
        assert server.target in written
        request = written[written.index("curl ") :].split("\n\n")[0]
        result = subprocess.run(["bash", "-c", request], capture_output=True, text=True, timeout=TIMEOUT)
        assert json.loads(result.stdout)["choices"][0]["message"]["content"] == "You said: Say hello."
        (key,) = set(re.findall(r"dgm_[\w-]+", written))
    with running_server(tmp_path, environ={"DRAGOMAN_BOOTSTRAP_KEY": ""}) as server:
        again = await_text(server.log, "Ready.").removeprefix(written)
        assert "dgm_" not in again.split("Dragoman", 2)[-1]
        assert "Bearer $DRAGOMAN_API_KEY" in again
        assert status_of(server, key) == 200


def test_sigterm_lets_answers_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        with asking(server, script(text=["a "] * 20, delay=0.05), stream=True) as response:
            pieces = frames(response)
            next(pieces)
            server.process.send_signal(signal.SIGTERM)
            rest = list(pieces)
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["choices"][0]["finish_reason"] == "stop"
        assert server.process.wait(TIMEOUT) == 0
        with pytest.raises(OSError, match="refused"):
            status_of(server)
        assert "Traceback" not in server.log.read_text()


ENDLESS = script(text=["a "] * 1000, delay=0.05, repeat=100)


def test_what_does_not_end_in_time_is_cancelled(tmp_path: Path) -> None:
    with running_server(tmp_path, environ={"DRAGOMAN_SERVER__DRAIN_TIMEOUT": "0.5"}) as server:
        with asking(server, ENDLESS, stream=True) as response:
            pieces = frames(response)
            next(pieces)
            server.process.send_signal(signal.SIGINT)
            rest = list(pieces)
        assert rest[-1] == "[DONE]"
        assert "error" in json.loads(rest[-2])
        assert server.process.wait(TIMEOUT) == 0
        assert "Traceback" not in server.log.read_text()


def test_the_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, environ={"DRAGOMAN_SERVER__DRAIN_TIMEOUT": "600"}) as server,
        asking(server, ENDLESS, stream=True) as response,
    ):
        next(frames(response))
        server.process.send_signal(signal.SIGTERM)
        await_text(server.log, "stopping")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) == 128 + signal.SIGTERM


def test_core_and_edge_in_processes_of_their_own(tmp_path: Path) -> None:
    socket_path = tmp_path / "s"
    config = f'{CONFIG}\n[server]\ngrpc_socket = "{socket_path}"\n'
    with CoreProcess(tmp_path / "core", config) as core_target:
        for address in (core_target, f"unix:{socket_path}"):
            folder = tmp_path / f"edge-{address.startswith('unix')}"
            with running_server(folder, arguments=("edge", "--core", address)) as edge:
                assert status_of(edge) == 200
                assert status_of(edge, "wrong") == 401
                with asking(edge, "hello", stream=True) as response:
                    assert list(frames(response))[-1] == "[DONE]"


class CoreProcess:
    """A core alone; it has no REST edge that could be asked whether it is ready."""

    def __init__(self, folder: Path, config: str) -> None:
        folder.mkdir(parents=True)
        self.log = folder / "log"
        (folder / "dragoman.toml").write_text(config)
        self._environment = environment(
            DRAGOMAN_CONFIG=str(folder / "dragoman.toml"),
            DRAGOMAN_DATA_DIR=str(folder / "data"),
            DRAGOMAN_GRPC_PORT="0",
            DRAGOMAN_BOOTSTRAP_KEY=KEY,
        )

    def __enter__(self) -> str:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [DRAGOMAN, "core"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            address = re.search(r"gRPC +(\S+)", await_text(self.log, "Ready."))
        except BaseException:
            stop(self.process)
            raise
        assert address is not None
        return address[1]

    def __exit__(self, *exception: object) -> None:
        assert stop(self.process) == 0


@pytest.mark.parametrize(("option", "variable"), [("--port", "DRAGOMAN_GRPC_PORT"), ("--grpc-port", "DRAGOMAN_PORT")])
def test_a_port_in_use_is_one_clear_line(tmp_path: Path, option: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = dragoman("up", option, port, DRAGOMAN_DATA_DIR=str(tmp_path), **{variable: "0"})
    assert result.returncode == 1
    assert result.stderr == f"error: cannot listen on 127.0.0.1:{port}: it is in use; choose another with {option}\n"
    assert result.stdout == ""


def test_a_data_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "below"
    result = dragoman("up", DRAGOMAN_PORT="0", DRAGOMAN_GRPC_PORT="0", DRAGOMAN_DATA_DIR=str(folder))
    assert result.returncode == 1
    assert result.stderr == f"error: cannot make the data folder {folder}: Not a directory\n"


@pytest.mark.parametrize("url", ["sqlite://host/x", "nonsense"])
def test_a_database_that_cannot_be_used_is_one_clear_line(tmp_path: Path, url: str) -> None:
    result = dragoman(
        "up", DRAGOMAN_PORT="0", DRAGOMAN_GRPC_PORT="0", DRAGOMAN_DATA_DIR=str(tmp_path), DRAGOMAN_STORE__URL=url
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_wrong_configuration_is_told_and_nothing_starts(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text("[server]\nprot = 1\n")
    result = dragoman("up", "--config", str(file))
    assert result.returncode == 1
    assert "server.prot: unknown key; did you mean server.port?" in result.stderr
    assert result.stdout == ""


UPSTREAM = """
[[providers]]
name = "upstream"
dialect = "openai_chat"
base_url = "http://127.0.0.1:9/v1"
"""
OTHERS = {"aiosqlite", "annotated_doc", "annotated_types", "google", "greenlet", "grpc", "grpc_health"}
OTHERS |= {"grpc_reflection", "httptools", "orjson", "prometheus_client", "pydantic", "pydantic_core", "shellingham"}
OTHERS |= {"sqlalchemy", "typer", "typing_extensions", "typing_inspection", "uvloop"}
OTHERS |= {"click"}  # of the lower versions of typer
"""All packages of others that a server in front of an OpenAI-compatible upstream needs to start."""
OF_THE_INTERPRETER = {"cython_runtime", "distutils", "sitecustomize", "usercustomize"}
LATER = ["dragoman_client", "dragoman_edge.dialects.openai.documentation", "dragoman_edge.openapi"]
LATER += [f"dragoman_server.providers.{name}" for name in ("anthropic_messages", "gemini", "litellm_library")]
LATER += [f"dragoman_server.providers.{name}" for name in ("llamacpp", "plugin", "proxy", "scripted")]
LATER += ["dragoman_server.ratelimits.shared", "dragoman_server.store.backup", "dragoman_server.store.ledger.postgres"]
LATER += ["dragoman_server.telemetry.export", "dragoman_server.telemetry.tracing"]
"""Parts of our own that are loaded when they are first used."""


TELLING = """
import atexit, json, sys
from dragoman_cli.__main__ import main

atexit.register(lambda: print(json.dumps(list(sys.modules))))
main()
"""


def test_a_running_server_has_loaded_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """The second start of a server, for the first one migrates the database."""
    with running_server(tmp_path, config=UPSTREAM):
        pass
    variables = environment(
        DRAGOMAN_CONFIG=str(tmp_path / "dragoman.toml"),
        DRAGOMAN_DATA_DIR=str(tmp_path / "data"),
        DRAGOMAN_PORT="0",
        DRAGOMAN_GRPC_PORT="0",
    )
    output = tmp_path / "output"
    with output.open("wb") as out:
        command = [sys.executable, "-c", TELLING, "up"]
        process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=out)
    try:
        await_text(output, "Ready.")
    finally:
        assert stop(process) == 0
    loaded = json.loads(output.read_text().splitlines()[-1])
    packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - OF_THE_INTERPRETER
    others = {name for name in packages if not name.startswith(("dragoman", "_"))}
    assert {"grpc", "httptools", "sqlalchemy"} <= others <= OTHERS
    assert not [name for name in loaded if any(f"{name}.".startswith(f"{part}.") for part in LATER)]


def test_what_a_server_loads_later_exists() -> None:
    assert [name for name in LATER if importlib.util.find_spec(name) is None] == []
