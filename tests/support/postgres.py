"""A throw-away PostgreSQL for tests: its own data folder, a Unix socket, no port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0


def find_binaries() -> Path | None:
    """Returns the folder of `initdb` and `postgres`: the one on PATH, or the newest that Debian installs."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    folders += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in folders if (path / "initdb").exists() and (path / "postgres").exists()), None)


def _account() -> str | None:
    """Returns the unprivileged user to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@contextlib.contextmanager
def throwaway_postgres(binaries: Path) -> Iterator[str]:
    """Runs a server and gives the URL of an empty database in it."""
    account = _account()
    as_account = _as_account(account) if account else []
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # a socket's path has room for 107 bytes
        folder = Path(name)
        if account:
            shutil.chown(folder, account)
        data = folder / "data"
        log = folder / "log"
        initialise: list[str | Path] = [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "dragoman",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        with log.open("wb") as output:
            run: dict[str, Any] = {
                "cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output,
            }  # fmt: skip
            if subprocess.run([*as_account, *initialise], timeout=START_TIMEOUT, **run).returncode:
                raise RuntimeError(f"initdb failed:\n{log.read_text()}")
            options = {
                "listen_addresses": "", "unix_socket_directories": folder, "max_connections": 60,
                "fsync": "off", "shared_buffers": "16MB",
            }  # fmt: skip
            settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
            server = subprocess.Popen([*as_account, binaries / "postgres", "-D", data, *settings], **run)
        try:
            url = f"postgresql://dragoman@/postgres?host={folder}"
            _await_start(server, url, log)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # ends the sessions, then itself
            try:
                server.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(STOP_TIMEOUT)


def _as_account(account: str) -> list[str]:
    """Returns the beginning of a command that runs the rest of it as another user.

    `subprocess` could do that itself, but would fork for it, where it does not else; and gRPC, whose threads a fork
    starts again in the child, may end the child before it has become the command.
    """
    import pwd

    entry = pwd.getpwnam(account)
    become = f"os.setgroups([]); os.setgid({entry.pw_gid}); os.setuid({entry.pw_uid})"
    return [sys.executable, "-I", "-S", "-c", f"import os, sys; {become}; os.execv(sys.argv[1], sys.argv[1:])"]


def _await_start(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {error}\n{log.read_text()}") from error
        time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server that lives as long as the test session."""
    binaries = find_binaries()
    if binaries is None:
        message = "no PostgreSQL binaries on PATH or in /usr/lib/postgresql/*/bin"
        if os.environ.get("DRAGOMAN_REQUIRE_POSTGRES") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with throwaway_postgres(binaries) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database, dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres_server.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
