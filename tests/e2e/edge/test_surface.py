"""Everything but chat: models, runs, health, metrics, documentation, CORS, and what is not there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import jsonschema
import pytest
from grpc_health.v1 import health_pb2
from jsonschema.validators import Draft202012Validator

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model, ModelTarget
from dragoman_edge.app import build_routes
from dragoman_edge.calls import Core
from dragoman_edge.edge import Edge
from dragoman_edge.metrics import EdgeMetrics
from tests.e2e.edge.conftest import SETTINGS
from tests.support.fake_core import RUN_ID, CallFailed, completed, finished_run, started, text

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

ORIGIN = "https://app.example"


def add_models(site: Site) -> None:
    for name in ("local/small", "ref/org/big", "fast", "ä b"):
        model = Model(id=name, owner="acme")
        model.create_time.seconds = 1_700_000_000
        site.core.models.append(model)


async def test_models_of_all_pages(site: Site) -> None:
    add_models(site)
    async with site.client.get("/v1/models") as answer:
        body = await answer.json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["local/small", "ref/org/big", "fast", "ä b"]
    assert body["data"][0] == {"id": "local/small", "object": "model", "created": 1_700_000_000, "owned_by": "acme"}


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("fast", "fast"),
        ("local/small", "local/small"),
        ("local%2Fsmall", "local/small"),
        ("ref/org%2fbig", "ref/org/big"),
        ("ref/org/big?x=1", "ref/org/big"),
        ("%C3%A4%20b", "ä b"),
    ],
)
async def test_a_model(site: Site, path: str, model: str) -> None:
    add_models(site)
    answer = await site.send(
        f"GET /v1/models/{path} HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer sk-test\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 OK" in head
    assert json.loads(body)["id"] == model


async def test_an_unknown_model(site: Site) -> None:
    async with site.client.get("/v1/models/nope") as answer:
        assert answer.status == 404
        error = (await answer.json())["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


async def test_runs(site: Site) -> None:
    site.core.answer = finished_run("Hello")
    async with site.client.get(f"/v1/runs/{RUN_ID}") as answer:
        body = await answer.json()
        assert answer.headers["x-dragoman-run-id"] == RUN_ID
    assert body["run"]["state"] == "STATE_COMPLETED"
    assert body["run"]["choices"][0]["message"]["parts"] == [{"text": {"text": "Hello"}}]
    assert site.core.requests[-1].run_id == RUN_ID
    async with site.client.get("/v1/runs?page_size=5&page_token=abc") as answer:
        body = await answer.json()
    assert (len(body["runs"]), body["next_page_token"]) == (1, "more")
    assert (site.core.requests[-1].page_size, site.core.requests[-1].page_token) == (5, "abc")
    async with site.client.post(f"/v1/runs/{RUN_ID}/cancel") as answer:
        assert (await answer.json())["run"]["id"] == RUN_ID
    async with site.client.post(f"/v1/runs/{RUN_ID}/cancel", json={}) as answer:
        assert answer.status == 200
    async with site.client.post(f"/v1/runs/{RUN_ID}/cancel", json={"a": 1}) as answer:
        assert answer.status == 400


async def test_an_unknown_run(site: Site) -> None:
    site.core.answer = CallFailed(grpc.StatusCode.NOT_FOUND, Reason.RUN_NOT_FOUND, "No such run.")
    async with site.client.get("/v1/runs/run_x") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "run_not_found"


@pytest.mark.parametrize(
    ("query", "header", "after"), [("", None, 0), ("", "7", 7), ("?after=3", "7", 3), ("?after=0", "7", 0)]
)
async def test_events_after(site: Site, query: str, header: str | None, after: int) -> None:
    script = site.core.script()
    script.push(started(), text("a"), completed())
    script.end()
    headers = {"Last-Event-ID": header} if header else {}
    async with site.client.get(f"/v1/runs/{RUN_ID}/events{query}", headers=headers) as answer:
        assert answer.content_type == "text/event-stream"
        frames = (await answer.text()).split("\n\n")
    assert script.request.after_sequence == after
    assert script.request.run_id == RUN_ID
    assert frames[1].startswith("id: 2\nevent: text_delta\ndata: {")
    data = json.loads(frames[1].partition("data: ")[2])
    assert data["text_delta"] == {"text": "a"}
    assert data["sequence"] == "2"
    assert len(frames) == 4


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?after=" + "9" * 30])
async def test_bad_sequences(site: Site, query: str) -> None:
    async with site.client.get(f"/v1/runs/{RUN_ID}/events{query}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "after"


async def test_evicted_events(site: Site) -> None:
    metadata = {"first_available_sequence": "41"}
    site.core.script().end(CallFailed(grpc.StatusCode.OUT_OF_RANGE, Reason.EVENTS_EVICTED, "Gone.", metadata=metadata))
    async with site.client.get(f"/v1/runs/{RUN_ID}/events") as answer:
        assert answer.status == 410
        assert answer.headers["x-dragoman-first-available-sequence"] == "41"


async def test_a_watch_that_breaks_off(site: Site) -> None:
    script = site.core.script()
    script.push(started())
    script.end(CallFailed(grpc.StatusCode.ABORTED, Reason.WATCHER_TOO_SLOW, "Too slow."))
    async with site.client.get(f"/v1/runs/{RUN_ID}/events") as answer:
        assert (await answer.text()).split("\n\n")[1].startswith("event: error\ndata: {")


async def test_health(site: Site) -> None:
    async with site.client.get("/healthz") as answer:
        assert answer.status == 200
    async with site.client.get("/readyz") as answer:
        assert answer.status == 200
    await site.core.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    async with site.client.get("/readyz") as answer:
        assert answer.status == 503
        assert "Retry-After" in answer.headers
    await site.stop_core()
    async with site.client.get("/readyz") as answer:
        assert answer.status == 503
    async with site.client.get("/healthz") as answer:
        assert answer.status == 200


async def test_health_of_the_targets(site: Site) -> None:
    shared = ModelTarget(
        provider="p", upstream_model="u", health=ModelTarget.HEALTH_DOWN, in_flight=1, queued=2, latency_ms=3,
        fault="PROVIDER_AUTH",
    )  # fmt: skip
    other = ModelTarget(provider="q", upstream_model="u", health=ModelTarget.HEALTH_UP)
    site.core.models += [Model(id="a", targets=[shared, other]), Model(id="b"), Model(id="c", targets=[shared])]
    expected = {
        "provider": "p", "upstream_model": "u", "health": "down", "in_flight": 1, "queued": 2, "latency_ms": 3,
        "fault": "PROVIDER_AUTH",
    }  # fmt: skip
    async with site.client.get("/readyz?verbose") as answer:
        told = await answer.json()
    assert told["status"] == "ready"
    assert told["targets"][0] == {**expected, "models": ["a", "c"]}
    assert [(target["provider"], target["health"]) for target in told["targets"]] == [("p", "down"), ("q", "up")]
    assert "fault" not in told["targets"][1]
    await site.core.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    async with site.client.get("/readyz?verbose") as answer:
        assert answer.status == 503
        assert (await answer.json())["targets"] == told["targets"]


async def test_health_of_the_targets_is_not_for_everybody(site: Site) -> None:
    site.core.models += [Model(id="a", targets=[ModelTarget(provider="p", upstream_model="u")])]
    answer = await site.send(b"GET /readyz?verbose HTTP/1.0\r\nHost: x\r\n\r\n")
    assert answer.endswith(b'\r\n\r\n{"status":"ready"}')


async def test_metrics(site: Site) -> None:
    async with site.client.get("/healthz"), site.client.get("/nowhere"):
        pass
    async with site.client.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        page = await answer.text()
    assert 'dragoman_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in page
    assert 'dragoman_http_requests_total{method="GET",route="unknown",status="404"} 1.0' in page
    assert "dragoman_http_open_connections" in page
    assert "nowhere" not in page


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/runs/a/b", "/v1/chat/completions/", "/%00", "//"])
async def test_unknown_urls(site: Site, path: str) -> None:
    answer = await site.send(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 404 " in head
    assert json.loads(body)["error"]["code"] == "unknown_url"
    assert b"x-request-id" in head


async def test_methods(site: Site) -> None:
    async with site.client.get("/v1/chat/completions") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "OPTIONS, POST"
        assert (await answer.json())["error"]["code"] == "method_not_allowed"
    async with site.client.head("/v1/models") as answer:
        assert answer.status == 200
    async with site.client.head(f"/v1/runs/{RUN_ID}/events") as answer:
        assert answer.status == 405
    async with site.client.options("/v1/models") as answer:
        assert answer.status == 204
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_an_absolute_request_target(site: Site) -> None:
    answer = await site.send(b"GET http://x/healthz?a=b HTTP/1.0\r\nHost: x\r\n\r\n")
    assert b" 200 OK" in answer


async def preflight(site: Site, origin: str) -> dict[str, str]:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
    }
    async with site.client.options("/v1/chat/completions", headers=headers) as answer:
        assert answer.status == 204
        return dict(answer.headers)


class TestCors:
    @pytest.mark.parametrize("settings", [replace(SETTINGS, cors_origins=(ORIGIN,))])
    async def test_one_origin(self, site: Site) -> None:
        headers = await preflight(site, ORIGIN)
        assert headers["Access-Control-Allow-Origin"] == ORIGIN
        assert headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
        assert "POST" in headers["Access-Control-Allow-Methods"]
        async with site.client.get("/nowhere", headers={"Origin": ORIGIN}) as answer:  # errors are to be read, too
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "x-dragoman-run-id" in answer.headers["Access-Control-Expose-Headers"]
            assert answer.headers["Vary"] == "Origin"

    @pytest.mark.parametrize("settings", [replace(SETTINGS, cors_origins=(ORIGIN,))])
    async def test_another_origin(self, site: Site) -> None:
        assert "Access-Control-Allow-Origin" not in await preflight(site, "https://evil.example")

    @pytest.mark.parametrize("settings", [replace(SETTINGS, cors_origins=("*",))])
    async def test_any_origin(self, site: Site) -> None:
        script = site.core.script()
        script.push(started(), text("a"), completed())
        assert (await preflight(site, ORIGIN))["Access-Control-Allow-Origin"] == "*"
        body = {"stream": True, "messages": [{"role": "user", "content": "x"}]}
        async with site.client.post("/v1/chat/completions", json=body) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            await answer.read()


CONTENT = {"parts": [{"text": "x"}]}
SAID = [{"role": "user", "content": "x"}]
CHAT_ID = "64a7f92e9b4f20c5d7f1aabc"
BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/completions": {"model": "alchemyst-ai/alchemyst-c1", "messages": [{"role": "user", "content": "x"}]},
    "/embeddings": {"input": "x"},
    ":generateContent": {"contents": [CONTENT]},
    ":streamGenerateContent": {"contents": [CONTENT]},
    ":embedContent": {"content": CONTENT},
    "/personas/maya": {},
    "/auth/login": {"email": "a@b", "password": "x"},
    "/auth/refresh": {"refreshToken": "x"},
    "/auth/logout": {"refreshToken": "x"},
    ":batchEmbedContents": {"requests": [{"content": CONTENT}]},
    "/api/v1/chat": {"chat_history": SAID},
    "/chat/generate": {"chat_history": SAID},
    "/chat/generate/stream": {"chat_history": SAID},
    "/chat/new": {"title": "x", "messages": SAID},
    "/chat/fork": {"chatId": CHAT_ID, "messageId": "x"},
    "/pin": {"pinned": True},
    CHAT_ID: {"title": "x"},
}
"""Bodies of requests, by how their paths end."""
PLACES = {
    "run_id": RUN_ID,
    "chatId": CHAT_ID,
    "conversationId": "0192f0c1-aaaa-7bbb-8ccc-ddddeeee0001",
    "model_id": "local/small",
    "conversation_id": "conv_0192f0c1aaaa7bbb8cccddddeeee0001",
    "name": "maya",
    "key_id": "key_0192f0c1aaaa7bbb8cccddddeeee0001",
    "user_id": "user_0192f0c1aaaa7bbb8cccddddeeee0001",
    "account_id": "default",
    "proxyUrl": "https://api.example.org/v1",
    "OpenAIAPIKey": "sk-theirs",
    "geminiUrl": "generativelanguage.googleapis.com",
    "modelNameAndTask": "m:generateContent",
}
"""What stands for the variable parts of paths."""


class TestDocumentation:
    async def test_it_describes_the_routes_and_nothing_else(self, site: Site) -> None:
        channel = grpc.aio.insecure_channel("unix:/nowhere")
        edge = Edge(Core(channel), SETTINGS, EdgeMetrics(type(site.registry)()), site.registry)
        documented = [route for route in build_routes(edge) if route.documented]
        routes = {(route.method, re.sub(r"\.\.\.", "", route.path)) for route in documented}
        await channel.close()
        document = await self.document(site)
        described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert described == routes

    async def test_each_described_route_answers(self, site: Site) -> None:
        add_models(site)
        for path, methods in (await self.document(site))["paths"].items():
            for method in methods:
                url = re.sub(r"\{(\w+)\}", lambda match: PLACES[match[1]], path)
                script = site.core.script()
                script.push(started(), completed())
                body = next((body for end, body in BODIES.items() if url.endswith(end)), None)
                async with site.client.request(method, url, json=body) as answer:
                    responses = methods[method]["responses"]
                    assert str(answer.status) in responses, (method, path)
                    assert answer.content_type in responses[str(answer.status)]["content"]
                    await answer.read()

    async def test_it_is_valid_and_its_references_lead_somewhere(self, site: Site) -> None:
        document = await self.document(site)
        assert document["openapi"] == "3.1.0"
        schemas = document["components"]["schemas"]
        for schema in schemas.values():
            Draft202012Validator.check_schema(schema)
        for reference in re.findall(r'"\$ref": ?"([^"]+)"', json.dumps(document)):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
        operations = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
        assert len(operations) == len(set(operations))

    async def test_real_answers_follow_it(self, site: Site) -> None:
        document = await self.document(site)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
        self.check(document, "ChatCompletionRequest", body)
        async with site.client.post("/v1/chat/completions", json=body) as answer:
            self.check(document, "ChatCompletion", await answer.json())
        async with site.client.post("/v1/chat/completions", json={}) as answer:
            self.check(document, "Error", await answer.json())
        async with site.client.get(f"/v1/runs/{RUN_ID}") as answer:
            self.check(document, "RunAnswer", await answer.json())
        body = BODIES[":generateContent"]
        self.check(document, "gemini.GenerateContentRequest", body)
        async with site.client.post("/v1beta/models/m:generateContent", json=body) as answer:
            self.check(document, "gemini.GenerateContentResponse", await answer.json())
        async with site.client.post("/v1beta/models/m:generateContent", json={}) as answer:
            self.check(document, "gemini.ErrorResponse", await answer.json())

    async def test_the_page(self, site: Site) -> None:
        async with site.client.get("/docs") as answer:
            assert answer.content_type == "text/html"
            page = await answer.text()
        assert "POST /v1/chat/completions" in page
        assert "reasoning_effort" in page
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
        assert "<script" not in page

    @staticmethod
    async def document(site: Site) -> dict[str, Any]:
        async with site.client.get("/openapi.json") as answer:
            document: dict[str, Any] = await answer.json()
        return document

    @staticmethod
    def check(document: dict[str, Any], name: str, value: Any) -> None:
        jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", "components": document["components"]})
