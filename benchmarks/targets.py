"""What is measured: the mock upstream itself, the bare relay, and the server in one process and in two."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load import Endpoint
from benchmarks.processes import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

_KEY = "dgm_benchmark_key_of_no_value"
_MODEL = "mock-model"
_READY_TIMEOUT = 30.0
_DRAGOMAN = str(Path(sys.executable).with_name("dragoman"))
_CONFIG = """\
[[providers]]
name = "mock"
dialect = "openai_chat"
base_url = "http://127.0.0.1:{upstream_port}/v1"
max_connections = 4096

[[models]]
id = "{model}"
provider = "mock"
upstream_model = "{model}"
"""
_CREDITS = """
[credits]
enabled = true

[[credits.prices]]
request_micros = 1000
input_micros_per_million = 1_000_000
output_micros_per_million = 2_000_000
"""
_BALANCE = "1000000"


class TargetFailedError(Exception):
    """A target did not become ready; the message says what it printed last."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a target is set up.

    Attributes:
        folder: Its folder, empty at first.
        upstream_port: Where the mock upstream listens.
        port: Where the target has to listen for requests.
        grpc_port: Where it may serve gRPC.
    """

    folder: Path
    upstream_port: int
    port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start; without an environment of its own it gets ours."""

    argv: Sequence[str]
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers chat requests.

    Attributes:
        name: How it is called on the command line and in the report.
        title: What it is.
        commands: Tells the processes to start for a site; None means that the mock upstream is asked directly.
        api_key: What requests must carry.
        prepare: What a site needs before the processes are started, if anything.
    """

    name: str
    title: str
    commands: Callable[[Site], Sequence[Command]] | None
    api_key: str = ""
    prepare: Callable[[Site], None] | None = None


def _relay(site: Site) -> list[Command]:
    upstream = f"http://127.0.0.1:{site.upstream_port}"
    return [Command([sys.executable, "-m", "benchmarks.relay", "--port", str(site.port), "--upstream", upstream])]


def _environment(site: Site, more: str = "") -> dict[str, str]:
    """Writes the server's configuration; returns our environment with that, and only that, in it."""
    config = site.folder / "dragoman.toml"
    config.write_text(_CONFIG.format(upstream_port=site.upstream_port, model=_MODEL) + more)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DRAGOMAN_")}
    return ours | {
        "DRAGOMAN_CONFIG": str(config),
        "DRAGOMAN_DATA_DIR": str(site.folder / "data"),
        "DRAGOMAN_HOST": "127.0.0.1",
        "DRAGOMAN_PORT": str(site.port),
        "DRAGOMAN_GRPC_PORT": str(site.grpc_port),
        "DRAGOMAN_BOOTSTRAP_KEY": _KEY,
        "DRAGOMAN_LOCAL__ENABLED": "false",
    }


def _one(site: Site) -> list[Command]:
    return [Command([_DRAGOMAN, "up"], _environment(site))]


def _paid(site: Site) -> list[Command]:
    return [Command([_DRAGOMAN, "up"], _environment(site, _CREDITS))]


def _grant(site: Site) -> None:
    """Gives the account something to spend."""
    command = [_DRAGOMAN, "credits", "grant", _BALANCE]
    subprocess.run(command, env=_environment(site, _CREDITS), check=True, capture_output=True, timeout=_READY_TIMEOUT)


def _split(site: Site) -> list[Command]:
    environment = _environment(site)
    edge = [_DRAGOMAN, "edge", "--core", f"127.0.0.1:{site.grpc_port}"]
    return [Command([_DRAGOMAN, "core"], environment), Command(edge, environment)]


TARGETS = {
    target.name: target
    for target in (
        Target("direct", "the mock upstream itself", None),
        Target("relay", "a bare aiohttp relay", _relay),
        Target("one", "dragoman up", _one, _KEY),
        Target("credits", "dragoman up, with credits", _paid, _KEY, _grant),
        Target("split", "dragoman core + dragoman edge", _split, _KEY),
    )
}


class Server:
    """A running target.

    Attributes:
        target: What it is.
        endpoint: Where it answers.
        start_up: Seconds from the start of its first process to its first answer.
    """

    def __init__(self, target: Target, folder: Path, upstream_port: int, *, cores: Collection[int]) -> None:
        """Starts the target and waits until it answers.

        Raises:
            TargetFailedError: If it does not.
        """
        self.target = target
        folder.mkdir(parents=True)
        site = Site(folder, upstream_port)
        port = upstream_port if target.commands is None else site.port
        self.endpoint = Endpoint(port, _MODEL, target.api_key)
        self._processes: list[Process] = []
        try:
            if target.prepare is not None:
                target.prepare(site)
            start = time.perf_counter()
            for index, command in enumerate(target.commands(site) if target.commands else ()):
                log = folder / f"{index}.log"
                self._processes.append(Process(command.argv, log, cores=cores, environment=command.environment))
            self._await_answer(start + _READY_TIMEOUT)
            self.start_up = time.perf_counter() - start
        except BaseException:
            self.end()
            raise

    def cpu_seconds(self) -> float:
        """Returns the CPU time of all its processes; 0 for the mock upstream, which belongs to the tool."""
        return sum(process.cpu_seconds() for process in self._processes)

    def resident_mib(self) -> float:
        """Returns the resident memory of all its processes."""
        return sum(process.resident_mib() for process in self._processes)

    def end(self) -> None:
        """Ends its processes, the last started first. May be called again."""
        for process in reversed(self._processes):
            process.end()

    def _await_answer(self, deadline: float) -> None:
        answer = ""
        while time.perf_counter() < deadline:
            if not all(process.running for process in self._processes):
                answer = "it has ended"
                break
            answer = _ask(self.endpoint)
            if not answer:
                return
            time.sleep(0.01)
        logs = "\n".join(process.log.read_text(errors="replace")[-2000:] for process in self._processes)
        raise TargetFailedError(f"{self.target.name} ({self.target.title}) is not ready: {answer}\n{logs}".rstrip())


def _ask(endpoint: Endpoint) -> str:
    """Sends one chat request; returns what is wrong with the answer, or nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)
    body = json.dumps({"model": endpoint.model, "messages": [{"role": "user", "content": "MOCK chunks=1"}]})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status} {text[:500]!r}"
