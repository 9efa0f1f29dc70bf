"""Spans, from a client's traceparent to an upstream server, as a real collector gets them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.trace import TracerProvider

from dragoman.v1.run_service_pb2 import ExecuteRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.settings import ModelSettings, ProviderSettings, TracingSettings
from dragoman_server.telemetry.export import Exporting
from tests.support.core import METADATA
from tests.support.otlp import Collector, collecting
from tests.support.plugin_backend import Backend, serving
from tests.support.runs import chat_spec
from tests.support.stand import stand
from tests.support.upstream_server import chat, event, raw, script, stream, whole

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
HEADERS = {"traceparent": TRACEPARENT, "tracestate": "vendor=opaque"}


class Traced:
    """Exports to a collector; `spans` ends the export and returns what came."""

    def __init__(self, collector: Collector, **settings: Any) -> None:
        self.collector = collector
        self._exporting = Exporting(TracingSettings(enabled=True, endpoint=collector.url, **settings))

    @property
    def provider(self) -> TracerProvider:
        return self._exporting.provider

    async def close(self) -> Collector:
        await asyncio.to_thread(self._exporting.close)
        return self.collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.mark.parametrize("via", ["inprocess", "tcp", "tunnel"])
@pytest.mark.parametrize("streams", [False, True])
async def test_spans_reach_from_the_client_to_the_upstream(collector: Collector, via: str, streams: bool) -> None:
    traced = Traced(collector)
    async with stand(via=via, spans=traced.provider) as site:
        status, _ = await site.ask(
            script(text=["a ", "b"]), headers=HEADERS, stream=streams, temperature=0.5, max_tokens=50
        )
        assert status == 200
        (asked,) = site.upstreams[0].requests
    spans = await traced.close()
    server, run, attempt = spans.only("SERVER"), spans.only("INTERNAL"), spans.only("CLIENT")
    assert {span.trace for span in spans.spans} == {TRACE}
    assert [server.parent, run.parent, attempt.parent] == [CALLER, server.id, run.id]
    assert asked.headers["traceparent"] == f"00-{TRACE}-{attempt.id}-01"
    assert asked.headers["tracestate"] == "vendor=opaque"
    assert [server.name, run.name, attempt.name] == ["POST /v1/chat/completions", "chat m", "chat echo"]
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["http.route"] == "/v1/chat/completions"
    facts = run.attributes
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.provider.name"] == "u0"
    assert (facts["gen_ai.request.model"], facts["gen_ai.response.model"]) == ("m", "echo")
    assert (facts["gen_ai.request.temperature"], facts["gen_ai.request.max_tokens"]) == (0.5, 50)
    assert facts["gen_ai.request.stream"] is streams
    assert facts["gen_ai.response.finish_reasons"] == ["stop"]
    assert facts["gen_ai.usage.output_tokens"] == 2
    assert facts["gen_ai.usage.input_tokens"] > 0
    assert facts["gen_ai.response.id"].startswith("run_")
    assert 0 <= facts["gen_ai.response.time_to_first_chunk"] < 60
    assert facts["dragoman.state"] == "completed"
    assert attempt.attributes["dragoman.attempt"] == 1
    assert "gen_ai.usage.input_tokens" not in attempt.attributes  # counted once
    assert not any(span.failed for span in spans.spans)
    assert server.proto.end_time_unix_nano >= run.proto.end_time_unix_nano
    assert spans.services == {"dragoman"}


async def test_a_fallback_is_two_attempts_of_one_run(collector: Collector) -> None:
    traced = Traced(collector)
    broken = raw(whole(500, b'{"error": {"message": "down"}}'))
    async with stand(broken, chat(), spans=traced.provider) as site:
        status, _ = await site.ask("hello", stream=True)
        assert status == 200
        parents = [one.requests[0].headers["traceparent"] for one in site.upstreams]
    spans = await traced.close()
    run = spans.only("INTERNAL")
    first, second = [span for span in spans.spans if span.kind == "CLIENT"]
    assert {first.parent, second.parent} == {run.id}
    assert [parent.split("-")[2] for parent in parents] == [first.id, second.id]
    assert first.failed
    assert first.attributes["error.type"] == "PROVIDER_FAILED"
    assert first.attributes["http.response.status_code"] == 500
    assert not second.failed
    assert second.attributes["dragoman.attempt"] == 2
    assert run.events == [("dragoman.retry", {"dragoman.attempt": 2, "error.type": "PROVIDER_FAILED"})]
    assert run.attributes["dragoman.attempts"] == 2
    assert not run.failed


async def test_a_failure_marks_all_spans_and_quotes_nothing(collector: Collector) -> None:
    traced = Traced(collector)
    async with stand(raw(whole(500, b'{"error": {"message": "MARKER-answer"}}')), spans=traced.provider) as site:
        status, _ = await site.ask("MARKER-prompt")
        assert status >= 500
    spans = await traced.close()
    server, run = spans.only("SERVER"), spans.only("INTERNAL")
    assert server.failed
    assert server.attributes["http.response.status_code"] == status
    assert run.failed
    assert run.attributes["error.type"] == server.attributes["error.type"] == "PROVIDER_FAILED"
    assert run.attributes["dragoman.state"] == "failed"
    assert all(span.failed for span in spans.spans)
    assert b"MARKER" not in b"".join(spans.bodies)


async def test_a_failure_within_a_stream_is_the_runs(collector: Collector) -> None:
    traced = Traced(collector)
    begun = stream({"choices": [{"index": 0, "delta": {"content": "a"}}]}, event({"error": {"message": "down"}}))
    async with stand(raw(begun), spans=traced.provider) as site:
        status, body = await site.ask("hello", stream=True)
        assert (status, '"error"' in body) == (200, True)
    spans = await traced.close()
    assert spans.only("INTERNAL").failed
    assert spans.only("CLIENT").failed
    assert spans.only("SERVER").attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("via", ["inprocess", "tunnel"])
async def test_spans_end_when_the_client_leaves(collector: Collector, via: str) -> None:
    traced = Traced(collector)
    async with stand(via=via, spans=traced.provider) as site:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": script(text=["a"] * 1000, delay=0.05)}],
            "stream": True,
        }
        async with site.client.post("/v1/chat/completions", json=body) as response:
            await response.content.readany()
            response.close()
        await asyncio.wait_for(site.upstreams[0].aborted.wait(), 20)
        for _ in range(200):
            if site.core.runs.active == 0:
                break
            await asyncio.sleep(0.05)
    spans = await traced.close()
    server, run, attempt = spans.only("SERVER"), spans.only("INTERNAL"), spans.only("CLIENT")
    assert server.attributes["error.type"] == attempt.attributes["error.type"] == "CANCELLED"
    assert run.attributes["dragoman.state"] == "cancelled"
    assert run.attributes["dragoman.cancel_reason"] == "disconnected"
    assert not any(span.failed for span in spans.spans)


async def test_a_trace_that_is_not_sampled_stays_so(collector: Collector) -> None:
    traced = Traced(collector)
    async with stand(spans=traced.provider) as site:
        await site.ask("hello", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
        passed = site.upstreams[0].requests[0].headers["traceparent"]
    assert (await traced.close()).spans == []
    assert passed.startswith(f"00-{TRACE}-")
    assert passed.endswith("-00")


async def test_of_new_traces_a_share_is_kept(collector: Collector) -> None:
    traced = Traced(collector, sample_ratio=0)
    async with stand(spans=traced.provider) as site:
        await site.ask("hello")
        await site.ask("hello", headers=HEADERS)  # begun elsewhere
    assert {span.trace for span in (await traced.close()).spans} == {TRACE}


async def test_a_bad_traceparent_begins_a_new_trace(collector: Collector) -> None:
    traced = Traced(collector)
    async with stand(spans=traced.provider) as site:
        assert (await site.ask("hello", headers={"traceparent": "nonsense"}))[0] == 200
    assert (await traced.close()).only("SERVER").parent == ""


@pytest.mark.parametrize("content", [False, True])
async def test_content_is_there_only_when_wanted(collector: Collector, content: bool) -> None:
    traced = Traced(collector)
    tracing = TracingSettings(enabled=True, content=content)
    async with stand(spans=traced.provider, sections={"tracing": tracing}) as site:
        await site.ask("MARKER-prompt", stream=True)
    spans = await traced.close()
    facts = spans.only("INTERNAL").attributes
    assert ("gen_ai.input.messages" in facts, "gen_ai.output.messages" in facts) == (content, content)
    assert (b"MARKER" in b"".join(spans.bodies)) is content
    if content:
        said = {"role": "user", "parts": [{"type": "text", "content": "MARKER-prompt"}]}
        assert json.loads(facts["gen_ai.input.messages"]) == [said]
        (answer,) = json.loads(facts["gen_ai.output.messages"])
        assert answer["finish_reason"] == "stop"
        assert "MARKER-prompt" in answer["parts"][0]["content"]


async def test_a_call_over_grpc_goes_on_with_its_trace(collector: Collector) -> None:
    traced = Traced(collector)
    async with stand(spans=traced.provider) as site:
        assert site.core.grpc_address is not None
        async with grpc.aio.insecure_channel(site.core.grpc_address) as channel:
            request = ExecuteRunRequest(spec=chat_spec("hello", model="m"))
            metadata = (*METADATA, ("traceparent", TRACEPARENT))
            await RunServiceStub(channel).ExecuteRun(request, metadata=metadata, timeout=20)
    spans = await traced.close()
    assert spans.only("INTERNAL").parent == CALLER


async def test_vectors_are_traced(collector: Collector) -> None:
    traced = Traced(collector)
    answer = b'{"data": [{"index": 0, "embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}'
    async with stand(raw(whole(200, answer)), spans=traced.provider) as site:
        async with site.client.post("/v1/embeddings", json={"model": "m", "input": "MARKER"}) as response:
            assert response.status == 200, await response.text()
        passed = site.upstreams[0].requests[0].headers["traceparent"]
    spans = await traced.close()
    server, run, attempt = spans.only("SERVER"), spans.only("INTERNAL"), spans.only("CLIENT")
    assert [run.parent, attempt.parent, passed.split("-")[2]] == [server.id, run.id, attempt.id]
    assert run.name == "embeddings m"
    assert run.attributes["gen_ai.usage.input_tokens"] == 3
    assert run.attributes["gen_ai.embeddings.dimension.count"] == 2
    assert b"MARKER" not in b"".join(spans.bodies)


async def test_a_plugin_is_told_of_the_trace(collector: Collector) -> None:
    traced, backend = Traced(collector), Backend()
    async with serving(backend) as address:
        sections = {
            "providers": (ProviderSettings(name="plug", dialect="plugin", base_url=address),),
            "models": (ModelSettings(id="m", provider="plug", upstream_model="m"),),
        }
        async with stand(spans=traced.provider, sections=sections) as site:
            assert (await site.ask("hello", headers=HEADERS))[0] == 200
    attempt = (await traced.close()).only("CLIENT")
    assert backend.metadata[-1]["traceparent"] == f"00-{TRACE}-{attempt.id}-01"
    assert backend.metadata[-1]["tracestate"] == "vendor=opaque"


async def test_what_carries_no_content_makes_no_spans(collector: Collector) -> None:
    traced = Traced(collector)
    async with stand(spans=traced.provider) as site:
        for path in ("/healthz", "/metrics", "/nowhere/sk-in-the-path"):
            async with site.client.get(path) as response:
                await response.read()
    assert (await traced.close()).spans == []


async def test_paths_with_keys_stay_out(collector: Collector) -> None:
    traced = Traced(collector)
    async with stand(spans=traced.provider) as site:
        path = "/api/v1/proxy/https://api.example.com/v1/sk-MARKER/chat/completions"
        body = {"model": "x", "messages": [{"role": "user", "content": "hello"}]}
        async with site.client.post(path, json=body) as response:
            assert response.status == 400
    spans = await traced.close()
    assert spans.only("SERVER").attributes["http.route"].startswith("/api/v1/proxy/{")
    assert b"MARKER" not in b"".join(spans.bodies)


async def test_a_dead_collector_is_told_once_and_costs_no_answers(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    collector.status = 400
    traced = Traced(collector)

    async def logged(text: str) -> int:
        for _ in range(200):
            if count := sum(text in record.message for record in caplog.records):
                return count
            await asyncio.sleep(0.05)
        return 0

    with caplog.at_level("INFO"):
        async with stand(spans=traced.provider) as site:
            for _ in range(3):
                assert (await site.ask("hello"))[0] == 200
                await asyncio.sleep(0.2)
            assert await logged("traces cannot be delivered") == 1
            collector.status = 200
            assert (await site.ask("hello"))[0] == 200
            assert await logged("traces are delivered again") == 1
    assert (await traced.close()).only("INTERNAL")
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_an_unreachable_collector_does_not_hold_up_the_end() -> None:
    with collecting() as collector:
        pass  # nobody listens there any more
    traced = Traced(collector)
    async with stand(spans=traced.provider) as site:
        assert (await site.ask("hello"))[0] == 200
    async with asyncio.timeout(25):
        await traced.close()


UNTRACED = """
import asyncio, sys
sys.path.insert(0, ".")
from tests.support.stand import stand

async def main():
    async with stand() as site:
        for streams in (False, True):
            status, _ = await site.ask("hello", stream=streams)
            assert status == 200
        assert "traceparent" not in site.upstreams[0].requests[0].headers

asyncio.run(main())
loaded = [name for name in sys.modules if name.startswith("opentelemetry")]
assert not loaded, loaded
"""


def test_nothing_is_loaded_when_nobody_traces() -> None:
    done = subprocess.run([sys.executable, "-c", UNTRACED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
