"""What the log says of requests, and what it never says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.runs.fold import Fold
from dragoman_server.settings import LogSettings, ProxySettings
from dragoman_server.telemetry.logs import configure
from tests.support.core import KEY, METADATA
from tests.support.runs import chat_spec
from tests.support.stand import Stand, stand
from tests.support.upstream_server import chat, raw, script, whole
from tests.support.waiting import until

JSON = {"Content-Type": "application/json"}


class Log(io.StringIO):
    """The log, as it would be written to standard error."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == "request"]


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Configures the log as the server does, at the level that the test names (`info` if none)."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    ours = [logging.getLogger(name) for name in ("dragoman_server", "dragoman_edge", "dragoman_cli")]
    levels = [one.level for one in ours]
    written = Log()
    configure(LogSettings(level=getattr(request, "param", "info"), format="json"), written)
    try:
        yield written
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for one, old in zip(ours, levels, strict=True):
            one.setLevel(old)
        logging.captureWarnings(False)


@asynccontextmanager
async def logging_stand(*answers: Any, **options: Any) -> AsyncIterator[Stand]:
    async with stand(*answers, log_requests=True, **options) as site:
        yield site


@pytest.mark.parametrize("via", ["inprocess", "tunnel"])
@pytest.mark.parametrize("streams", [False, True])
async def test_a_request_is_one_line(log: Log, via: str, streams: bool) -> None:
    async with logging_stand(via=via) as site:
        await site.ask(script(text=["a", "b"]), headers={"x-request-id": "req-7"}, stream=streams)
    (line,) = log.requests
    assert line.pop("seconds") > 0
    assert line.pop("time")
    assert line.pop("run_id").startswith("run_")
    assert line.pop("input_tokens") > 0
    assert line == {
        "level": "info",
        "logger": "dragoman_edge.request_log",
        "message": "request",
        "request_id": "req-7",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "model": "m",
        "provider": "u0",
        "attempts": 1,
        "output_tokens": 2,
    }


async def test_by_default_there_are_no_lines(log: Log) -> None:
    async with stand() as site:
        await site.ask("hello")
    assert log.requests == []


async def test_failures_say_why(log: Log) -> None:
    broken = raw(whole(500, b'{"error": {"message": "down"}}'))
    async with logging_stand(broken) as site:
        status, _ = await site.ask("hello")
        await site.ask("hello", stream=True)
        await site.ask("hello", model="unknown")
    first, second, third = log.requests
    assert (first["status"], first["reason"]) == (second["status"], second["reason"]) == (status, "PROVIDER_FAILED")
    assert (third["status"], third["reason"]) == (404, "MODEL_NOT_FOUND")
    assert first["run_id"] != second["run_id"]


async def test_a_client_that_leaves_is_a_line_too(log: Log) -> None:
    async with logging_stand() as site:
        messages = [{"role": "user", "content": script(text=["a"] * 1000, delay=0.05)}]
        body = {"model": "m", "messages": messages, "stream": True}
        async with site.client.post("/v1/chat/completions", json=body) as response:
            await response.content.readany()
            response.close()
        await until(lambda: log.requests)
    (line,) = log.requests
    assert (line["status"], line["reason"], line["provider"]) == (499, "CANCELLED", "u0")


async def test_vectors_are_a_line(log: Log) -> None:
    async with logging_stand() as site:
        response = await site.client.post("/v1/embeddings", json={"model": "demo/embed", "input": "a b"})
        assert response.status == 200
    (line,) = log.requests
    assert (line["route"], line["provider"], line["input_tokens"]) == ("/v1/embeddings", "demo", 2)


async def test_a_run_over_grpc_is_a_line_of_the_core(log: Log) -> None:
    async with logging_stand() as site:
        assert site.core.grpc_address is not None
        async with grpc.aio.insecure_channel(site.core.grpc_address) as channel:
            request = ExecuteRunRequest(spec=chat_spec("hello", model="m"))
            metadata = (*METADATA, ("x-request-id", "call-9"))
            answer = await RunServiceStub(channel).ExecuteRun(request, metadata=metadata, timeout=20)
    (line,) = log.requests
    assert line["logger"] == "dragoman_server.api.request_log"
    assert (line["request_id"], line["run_id"]) == ("call-9", answer.run.id)
    assert (line["route"], line["status"], line["model"], line["provider"]) == ("ExecuteRun", "completed", "m", "u0")
    assert line["output_tokens"] == answer.run.usage.output_tokens


@pytest.mark.parametrize("choices", [1, 2])  # one choice is recorded at once, several by their events
async def test_a_fault_of_ours_is_logged_with_its_ids(log: Log, monkeypatch: pytest.MonkeyPatch, choices: int) -> None:
    async with stand() as site:
        monkeypatch.setattr("dragoman_server.runs.fold.Fold.apply", _fail_at_content(Fold.apply))
        monkeypatch.setattr("dragoman_server.runs.run.encode_record", _fail)
        status, _ = await site.ask("hello", headers={"x-request-id": "req-7"}, n=choices)
        assert status == 500
    (line,) = [line for line in log.lines if line["message"] == "run crashed"]
    assert line["request_id"] == "req-7"
    assert line["run_id"].startswith("run_")
    assert "a fault" in line["exception"]


def _fail(*_: object) -> Any:
    raise RuntimeError("a fault")


def _fail_at_content(apply: Any) -> Any:
    def apply_or_fail(fold: Fold, events: Any) -> None:
        if any(event.HasField("text_delta") for event in events):
            raise RuntimeError("a fault")
        apply(fold, events)

    return apply_or_fail


@pytest.mark.parametrize("log", ["debug"], indirect=True)
async def test_the_log_never_holds_what_was_said_or_any_key(log: Log) -> None:
    proxy = ProxySettings(allow=("http://127.0.0.1:9/v1",))
    leaking = raw(whole(500, b'{"error": {"message": "MARKER-upstream sk-upstream-key-0123456789"}}'))
    for answer in (chat(), leaking):
        async with logging_stand(answer, sections={"proxy": proxy}) as site:
            for streams in (False, True):
                await site.ask("MARKER-prompt", stream=streams, user="MARKER-user")
                await site.ask(script(text=["MARKER-", "answer"]), stream=streams)
                key = {"Authorization": "Bearer MARKER-bad-key", "x-request-id": "req-1"}
                await site.ask("MARKER-prompt", headers=key, stream=streams)
            for path in (
                "/api/v1/proxy/http://127.0.0.1:9/v1/MARKER-path-key/chat/completions",
                "/api/v1/proxy/https://api.example.com/v1/MARKER-path-key/chat/completions",
                "/api/v1/proxy/MARKER-path-key",
                "/v1beta/models/m:generateContent?key=MARKER-query-key",
                "/v1/chat/completions?key=MARKER-query-key",
            ):
                body = {"model": "m", "messages": [{"role": "user", "content": "MARKER-prompt"}]}
                async with site.client.post(path, json=body) as response:
                    await response.read()
            async with site.client.post("/v1/embeddings", json={"model": "demo/embed", "input": "MARKER-input"}) as one:
                assert one.status == 200
            async with site.client.post("/v1/chat/completions", data=b'{"model": "MARKER-broken', headers=JSON) as bad:
                assert bad.status == 400
    assert len(log.requests) > 10
    for secret in ("MARKER", KEY, "sk-upstream-key", "127.0.0.1:9"):
        assert secret not in log.getvalue(), [line for line in log.getvalue().splitlines() if secret in line]
