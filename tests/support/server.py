"""A real server, started as a user starts it: `dragoman up` in a process of its own.

    from tests.support.server import running_server, server  # `server` is a fixture

Configuration comes as TOML text; by default the scripted provider is the only one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEY = "dgm_key-of-the-end-to-end-tests-0123456789"
MODEL = "demo"
CONFIG = f"""
default_model = "{MODEL}"
[[providers]]
name = "scripted"
dialect = "scripted"
[[models]]
id = "{MODEL}"
provider = "scripted"
upstream_model = "echo"
[routing]
max_attempts = 1
breaker.failures = 1_000_000
"""
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        url: Where the REST edge listens, without a path.
        target: Where gRPC listens, as a gRPC target.
        key: A key with the role ADMIN.
        process: The process.
        log: What it wrote.
    """

    url: str
    target: str
    key: str
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    """Returns a port of 127.0.0.1 that was free a moment ago and that only those get who ask for it."""
    while True:
        port = secrets.choice(range(10_000, 32_000))  # those that systems choose are above
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def running_server(
    folder: Path,
    *,
    config: str = CONFIG,
    environ: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = ("up",),
) -> Iterator[Server]:
    """Runs a server with its data in `folder` until the block ends; a second one in the same folder finds the data.

    `arguments` are those of the command: `up`, `core`, or `edge --core ADDR`.

    Raises:
        RuntimeError: If the server does not get ready; the message has its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config_file, log = folder / "dragoman.toml", folder / "server.log"
    config_file.write_text(config)
    port, grpc_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRAGOMAN_")} | {
        "DRAGOMAN_CONFIG": str(config_file),
        "DRAGOMAN_DATA_DIR": str(folder / "data"),
        "DRAGOMAN_PORT": str(port),
        "DRAGOMAN_GRPC_PORT": str(grpc_port),
        "DRAGOMAN_BOOTSTRAP_KEY": KEY,
        "DRAGOMAN_LOCAL__ENABLED": "false",
        **(environ or {}),
    }
    command = [str(Path(sys.executable).with_name("dragoman")), *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        ready = partial(_serves_grpc, grpc_port) if arguments[0] == "core" else partial(_serves_rest, port)
        _await(ready, process, log)
        yield Server(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", KEY, process, log)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends a server as an operator does: SIGTERM, and SIGKILL if that does not help. Returns its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(_STOP_SECONDS)


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}:\n{log.read_text()}")
        if ready():
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server was not ready after {_START_SECONDS} s:\n{log.read_text()}")


def _serves_grpc(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
        except grpc.RpcError:
            return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def _serves_rest(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of the session that change nothing in it but runs and keys of their own."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running
