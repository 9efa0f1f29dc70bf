"""A model backend in Go is a provider like any other: asked over REST and gRPC, cancelled, and lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import InternalServerError, OpenAI

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import ModelTarget
from dragoman_client import Dragoman, RunFailed, RunStream
from tests.support.server import Server, running_server

pytestmark = pytest.mark.timeout(900)  # the first test fetches and builds

CONFIG = """
[[providers]]
name = "go"
dialect = "plugin"
base_url = "{address}"
[[models]]
id = "loud"
provider = "go"
upstream_model = "shout"
max_attempts = 1
[routing.breaker]
failures = 2
cooldown = 120
"""
BOUND = 30.0


@dataclass
class Backend:
    """A running backend: where it listens, its process, and what it says."""

    address: str
    process: subprocess.Popen[str]
    log: Path

    def says(self, text: str) -> bool:
        """Waits until it has said something; returns whether it did in time."""
        deadline = time.monotonic() + BOUND
        while text not in self.log.read_text():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(BOUND)


@contextmanager
def running_backend(programs: Path, folder: Path, delay: str) -> Iterator[Backend]:
    log = folder / "backend.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [programs / "backend-go", "-listen", "127.0.0.1:0", "-delay", delay],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout as said:
        try:
            announced, _, address = said.readline().strip().rpartition(" ")
            assert announced == "listening on", log.read_text()
            yield Backend(address, process, log)
        finally:
            process.terminate()
            process.wait(BOUND)


@pytest.fixture
def backend(go_programs: Path, tmp_path: Path) -> Iterator[Backend]:
    with running_backend(go_programs, tmp_path, "20ms") as running:
        yield running


@pytest.fixture
def served(backend: Backend, tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "server", config=CONFIG.format(address=backend.address)) as running:
        yield running


def openai(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=BOUND)


async def read(stream: RunStream, at_first_text: Callable[[], None]) -> None:
    """Reads a stream to its end."""
    pieces = stream.text()
    await anext(pieces)
    at_first_text()
    async for _ in pieces:
        pass


async def test_answers_over_rest_and_grpc_and_hears_of_cancellation(served: Server, backend: Backend) -> None:
    with openai(served) as client:
        assert "go/shout" in [model.id for model in client.models.list()]
        chunks = list(
            client.chat.completions.create(
                model="loud",
                messages=[{"role": "user", "content": "hello from the other side"}],
                max_tokens=3,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        with client.chat.completions.create(
            model="loud", messages=[{"role": "user", "content": "on " * 10_000}], stream=True
        ) as stream:
            next(iter(stream))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "HELLO FROM THE "
    assert [reason for chunk in chunks for choice in chunk.choices if (reason := choice.finish_reason)] == ["length"]
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (5, 3)
    assert backend.says(": cancelled")

    async with Dragoman(served.target, served.key) as client:
        answer = await client.chat("hello", model="go/shout")
        assert (answer.text, answer.run.provider) == ("HELLO", "go")
        with pytest.raises(RunFailed) as caught:
            await client.chat("", model="loud")
        assert "no text of a user to shout" in caught.value.message


async def test_is_left_alone_once_it_is_lost(served: Server, backend: Backend) -> None:
    async with Dragoman(served.target, served.key) as client:
        with pytest.raises(RunFailed) as caught:
            await read(client.stream("on " * 10_000, model="loud"), backend.kill)
        assert caught.value.reason == Reason.PROVIDER_UNREACHABLE

        with openai(served) as rest, pytest.raises(InternalServerError) as refused:
            rest.chat.completions.create(model="loud", messages=[{"role": "user", "content": "anyone there?"}])
        assert refused.value.status_code in (502, 503)

        (target,) = (await client.model("loud")).targets
        assert target.health == ModelTarget.HEALTH_DOWN
        with openai(served) as rest, pytest.raises(InternalServerError) as spared:
            rest.chat.completions.create(model="loud", messages=[{"role": "user", "content": "anyone there?"}])
        assert spared.value.status_code == 503
        assert int(spared.value.response.headers["retry-after"]) > 60
