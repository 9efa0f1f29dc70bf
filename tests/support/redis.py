"""A throw-away Redis or Valkey for tests: on a port of its own, without a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


def find_binary() -> str | None:
    """Returns the server's program: that of Redis, or of Valkey."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """A server that can be stopped and started again, empty, on the same port."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        self._folder = tempfile.mkdtemp(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        options = {"port": self._port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._folder}
        command = [self._binary, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("redis did not start") from None
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def throwaway_redis(binary: str) -> Iterator[RedisServer]:
    """Runs a server."""
    server = RedisServer(binary)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """An empty server of the test's own."""
    binary = find_binary()
    if binary is None:
        message = "no redis-server or valkey-server on PATH"
        if os.environ.get("DRAGOMAN_REQUIRE_REDIS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with throwaway_redis(binary) as server:
        yield server
