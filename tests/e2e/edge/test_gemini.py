"""The dialect of Gemini over a real edge: paths, credentials, statuses, forms of streams."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from yarl import URL

from dragoman.reasons import Reason
from dragoman.v1.catalog_service_pb2 import Model
from dragoman.v1.run_pb2 import DisconnectPolicy, Run
from tests.e2e.edge.conftest import holds_briefly
from tests.support.fake_core import (
    RUN_ID,
    CallFailed,
    StreamScript,
    completed,
    failed,
    finished,
    finished_run,
    started,
    text,
    usage,
)

if TYPE_CHECKING:
    from tests.e2e.edge.conftest import Site

MODELS = "/v1beta/models"
WHOLE = f"{MODELS}/alias:generateContent"
STREAM = f"{MODELS}/alias:streamGenerateContent"
SSE = {"alt": "sse"}
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


async def error_of(answer: Any) -> dict[str, Any]:
    assert answer.content_type == "application/json"
    error: dict[str, Any] = (await answer.json())["error"]
    assert error["code"] == answer.status
    return error


async def test_whole(site: Site) -> None:
    async with site.client.post(WHOLE, json=HELLO, headers={"X-Request-Id": "mine-1"}) as answer:
        assert answer.status == 200
        body = await answer.json()
    assert body["candidates"][0]["content"] == {"role": "model", "parts": [{"text": "Hello"}]}
    assert body["usageMetadata"]["totalTokenCount"] == 8
    assert (body["modelVersion"], body["responseId"]) == ("fast", RUN_ID)
    assert answer.headers["x-dragoman-run-id"] == RUN_ID
    assert answer.headers["x-request-id"] == "mine-1"
    assert site.core.requests[0].spec.chat.model == "alias"


@pytest.mark.parametrize("version", ["v1beta", "v1"])
@pytest.mark.parametrize(
    ("path", "model"),
    [("m", "m"), ("local/small", "local/small"), ("local%2Fsmall", "local/small"), ("a:b", "a:b"), ("w%C3%B6", "wö")],
)
async def test_models_in_the_path(site: Site, version: str, path: str, model: str) -> None:
    url = URL(f"{site.url}/{version}/models/{path}:generateContent", encoded=True)
    async with site.client.post(url, json=HELLO) as answer:
        assert answer.status == 200
    assert site.core.requests[0].spec.chat.model == model


@pytest.mark.parametrize("version", ["v1beta", "v1"])
@pytest.mark.parametrize("method", ["countTokens", "explode", "generatecontent"])
async def test_other_methods(site: Site, version: str, method: str) -> None:
    async with site.client.post(f"/{version}/models/m:{method}", json=HELLO) as answer:
        assert answer.status == 404
        error = await error_of(answer)
    assert error["status"] == "NOT_FOUND"
    assert f"'{method}'" in error["message"]


async def test_errors_without_a_route_have_the_shape_of_their_neighbours(site: Site) -> None:
    async with site.client.get("/v1beta/cachedContents") as answer:
        assert answer.status == 404
        assert (await error_of(answer))["status"] == "NOT_FOUND"
    async with site.client.put(WHOLE) as answer:
        assert answer.status == 405
        assert (await error_of(answer))["status"] == "INVALID_ARGUMENT"
    async with site.client.get("/v2/models") as answer:
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-goog-api-key": "sk-test"}, {}),
        ({"Authorization": "Bearer sk-test"}, {}),
        ({}, {"key": "sk-test"}),
        ({"x-goog-api-key": "sk-test"}, {"key": "sk-test"}),
    ],
)
async def test_credentials(bare: Site, headers: dict[str, str], query: dict[str, str]) -> None:
    async with bare.client.post(WHOLE, json=HELLO, headers=headers, params=query) as answer:
        assert answer.status == 200
    async with bare.client.get(MODELS, headers=headers, params=query) as answer:
        assert answer.status == 200
    assert [one["authorization"] for one in bare.core.metadata] == ["Bearer sk-test"] * 2


async def test_contradicting_credentials(bare: Site) -> None:
    async with bare.client.post(WHOLE, json=HELLO, headers={"x-goog-api-key": "a"}, params={"key": "b"}) as answer:
        assert answer.status == 401
        assert (await error_of(answer))["status"] == "UNAUTHENTICATED"
    assert not bare.core.metadata


async def test_the_key_in_the_query_stays_secret(bare: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = ""
    for path in (WHOLE, STREAM, f"{MODELS}/m:explode", "/v1beta/nowhere", f"{MODELS}/m"):
        async with bare.client.post(path, data="{", params={"key": "sk-secret"}) as answer:
            seen += await answer.text() + str(answer.headers)
    async with bare.client.get("/metrics") as answer:
        seen += await answer.text()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("dragoman")]
    assert "sk-secret" not in seen + "".join(ours)


@pytest.fixture
def bare(site: Site) -> Site:
    """The site, with a client that sends no credential by itself."""
    site.client.headers.popall("Authorization")
    return site


async def test_run_headers(site: Site) -> None:
    headers = {"Idempotency-Key": "key-1", "X-Dragoman-Disconnect": "detach-for=90"}
    async with site.client.post(WHOLE, json=HELLO | {"labels": {"team": "a"}}, headers=headers) as answer:
        assert answer.status == 200
    request = site.core.requests[0]
    assert request.request_id == "key-1"
    assert request.spec.disconnect_policy == DisconnectPolicy.DISCONNECT_POLICY_DETACH_FOR
    assert dict(request.spec.labels) == {"team": "a"}


@pytest.mark.parametrize(
    ("code", "reason", "status", "name"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST, 400, "INVALID_ARGUMENT"),
        (grpc.StatusCode.UNAUTHENTICATED, Reason.API_KEY_EXPIRED, 401, "UNAUTHENTICATED"),
        (grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND, 404, "NOT_FOUND"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.PROVIDER_RATE_LIMITED, 429, "RESOURCE_EXHAUSTED"),
        (grpc.StatusCode.UNAVAILABLE, Reason.MODEL_NOT_READY, 503, "UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED"),
    ],
)
@pytest.mark.parametrize("url", [WHOLE, STREAM, STREAM + "?alt=sse"])
async def test_refused_calls(
    site: Site, code: grpc.StatusCode, reason: Reason, status: int, name: str, url: str
) -> None:
    refusal = CallFailed(code, reason, "No.", field="spec.chat.sampling.stop", retry_after=2)
    site.core.answer = refusal
    site.core.script().end(refusal)
    async with site.client.post(url, json=HELLO) as answer:
        assert answer.status == status
        assert answer.headers["Retry-After"] == "2"
        error = await error_of(answer)
    assert error["status"] == name
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
    assert kinds["ErrorInfo"]["reason"] == reason
    assert kinds["RetryInfo"]["retryDelay"] == "2s"
    assert kinds["BadRequest"]["fieldViolations"][0]["field"] == "generation_config.stop_sequences"


async def test_bad_requests(site: Site) -> None:
    for body, url in (
        ("{", WHOLE),
        ("[]", WHOLE),
        ('{"contents": []}', WHOLE),
        (json.dumps(HELLO), WHOLE + "?alt=proto"),
    ):
        async with site.client.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 400
            assert (await error_of(answer))["status"] == "INVALID_ARGUMENT"
    assert not site.core.requests


async def test_a_request_that_a_filter_refused(site: Site) -> None:
    site.core.answer = finished_run("", state=Run.STATE_FAILED, failure={"reason": Reason.CONTENT_FILTERED})
    async with site.client.post(WHOLE, json=HELLO) as answer:
        assert answer.status == 200
        assert (await answer.json())["promptFeedback"] == {"blockReason": "SAFETY"}


class TestStreams:
    async def test_events(self, site: Site) -> None:
        play(site)
        async with site.client.post(STREAM, json=HELLO, params=SSE) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["x-dragoman-run-id"] == RUN_ID
            frames = events_of(await answer.text())
        check(frames)

    async def test_array(self, site: Site) -> None:
        play(site)
        async with site.client.post(STREAM, json=HELLO) as answer:
            assert answer.content_type == "application/json"
            check(json.loads(await answer.text()))

    async def test_a_late_failure_in_events(self, site: Site) -> None:
        site.core.script().push(started(), text("par"), failed(Reason.PROVIDER_FAILED, "It broke."))
        async with site.client.post(STREAM, json=HELLO, params=SSE) as answer:
            assert answer.status == 200
            first, last = events_of(await answer.text())
        assert first["candidates"][0]["content"]["parts"] == [{"text": "par"}]
        assert (last["error"]["code"], last["error"]["message"]) == (503, "It broke.")

    async def test_a_late_failure_in_an_array(self, site: Site) -> None:
        site.core.script().push(started(), text("par"), failed(Reason.PROVIDER_FAILED, "It broke."))
        async with site.client.post(STREAM, json=HELLO) as answer:
            assert answer.status == 200
            *_, last = json.loads(await answer.text())
        assert last["error"]["status"] == "UNAVAILABLE"

    @pytest.mark.parametrize("query", [SSE, {}])
    async def test_a_failure_before_the_first_frame(self, site: Site, query: dict[str, str]) -> None:
        site.core.script().push(started(), failed(Reason.PROVIDER_RATE_LIMITED, "Slow down."))
        async with site.client.post(STREAM, json=HELLO, params=query) as answer:
            assert answer.status == 429
            assert (await error_of(answer))["message"] == "Slow down."

    async def test_a_stream_that_breaks_off(self, site: Site) -> None:
        script = site.core.script()
        script.push(started(), text("par"))
        script.end(CallFailed(grpc.StatusCode.UNAVAILABLE, Reason.SHUTTING_DOWN, "Bye."))
        async with site.client.post(STREAM, json=HELLO) as answer:
            *_, last = json.loads(await answer.text())
        assert last["error"]["message"] == "Bye."

    @holds_briefly
    async def test_keep_alives_hold_nothing_that_sdks_choke_on(self, site: Site) -> None:
        wire = await slowly(site, SSE, b"\n\n\n\n")
        assert wire.startswith("\n\n")  # committed before there was anything to say
        assert {line for line in wire.split("\n") if not line.startswith("data: ")} == {""}
        check(events_of(wire))

    @holds_briefly
    async def test_keep_alives_in_an_array(self, site: Site) -> None:
        wire = await slowly(site, {}, b"}\n")
        assert wire.startswith("\n")
        check(json.loads(wire))

    @pytest.mark.parametrize("query", [SSE, {}])
    @holds_briefly
    async def test_a_failure_after_nothing_but_keep_alives(self, site: Site, query: dict[str, str]) -> None:
        script = site.core.script()
        async with site.client.post(STREAM, json=HELLO, params=query) as answer:
            assert answer.status == 200
            script.push(started(), failed(Reason.PROVIDER_FAILED, "It broke."))
            wire = await answer.text()
        [last] = events_of(wire) if query else json.loads(wire)
        assert last["error"]["code"] == 503

    async def test_leaving_cancels(self, site: Site) -> None:
        script = site.core.script()
        script.push(started(), text("a"))
        answer = await site.client.post(STREAM, json=HELLO)
        answer.close()
        async with asyncio.timeout(10):
            await script.gone.wait()
        assert script.cancelled


def play(site: Site) -> StreamScript:
    script = site.core.script()
    script.push(started(), text("Hel"))
    script.push(text("lo"), finished(), usage(), completed())
    script.end()
    return script


async def slowly(site: Site, query: dict[str, str], kept_alive: bytes) -> str:
    """Returns the wire of a stream that is silent until its client was kept alive after the first frame."""
    script = site.core.script()
    async with site.client.post(STREAM, json=HELLO, params=query) as answer:  # held, then committed
        script.push(started(), text("Hel"))
        wire = b""
        while not (b"Hel" in wire and wire.endswith(kept_alive)):
            piece = await answer.content.readany()
            assert piece, wire
            wire += piece
        script.push(text("lo"), finished(), usage(), completed())
        script.end()
        return (wire + await answer.read()).decode()


def events_of(wire: str) -> list[Any]:
    return [json.loads(event.removeprefix("data: ")) for event in wire.split("\n\n") if event]


def check(frames: list[Any]) -> None:
    said = "".join(frame["candidates"][0]["content"]["parts"][0]["text"] for frame in frames)
    assert said == "Hello"
    assert [frame["candidates"][0].get("finishReason") for frame in frames] == [None, None, "STOP"]
    assert ["usageMetadata" in frame for frame in frames] == [False, False, True]
    assert {(frame["responseId"], frame["modelVersion"]) for frame in frames} == {(RUN_ID, "fast")}


class TestCatalogue:
    @pytest.fixture(autouse=True)
    def models(self, site: Site) -> None:
        one = Model(id="local/small", upstream_model="small-1", context_length=2048, max_output_tokens=512)
        one.capabilities.reasoning = True
        one.defaults["temperature"] = 0.5
        one.defaults["top_k"] = 40
        one.limits["temperature"].max = 1.5
        two = Model(id="vectors")
        two.capabilities.embeddings = True
        site.core.models += [one, two, Model(id="z")]

    async def test_one(self, site: Site) -> None:
        for path in (f"{MODELS}/local/small", f"{MODELS}/local%2Fsmall"):
            async with site.client.get(path) as answer:
                assert await answer.json() == {
                    "name": "models/local/small",
                    "version": "small-1",
                    "displayName": "local/small",
                    "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
                    "inputTokenLimit": 2048,
                    "outputTokenLimit": 512,
                    "thinking": True,
                    "temperature": 0.5,
                    "maxTemperature": 1.5,
                    "topK": 40,
                }

    async def test_an_unknown_one(self, site: Site) -> None:
        async with site.client.get(f"{MODELS}/none:8b") as answer:
            assert answer.status == 404
            assert (await error_of(answer))["status"] == "NOT_FOUND"

    async def test_pages(self, site: Site) -> None:
        async with site.client.get(MODELS) as answer:
            first = await answer.json()
        assert [model["name"] for model in first["models"]] == ["models/local/small", "models/vectors"]
        assert first["models"][1]["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]
        async with site.client.get(MODELS, params={"pageToken": first["nextPageToken"], "pageSize": "5"}) as answer:
            assert await answer.json() == {"models": [await self.last(site)]}

    async def last(self, site: Site) -> Any:
        async with site.client.get(f"{MODELS}/z") as answer:
            return await answer.json()

    @pytest.mark.parametrize("size", ["-1", "x", "1.5", "9" * 12])
    async def test_bad_pages(self, site: Site, size: str) -> None:
        async with site.client.get(MODELS, params={"pageSize": size}) as answer:
            assert answer.status == 400
            await error_of(answer)

    async def test_the_path_that_two_dialects_share(self, site: Site) -> None:
        google = {"x-goog-api-key": "sk-test"}
        async with site.client.get("/v1/models", headers=google) as answer:
            assert "models" in await answer.json()
        async with site.client.get("/v1/models") as answer:
            assert (await answer.json())["object"] == "list"
        async with site.client.get("/v1/models/z", headers=google) as answer:
            assert (await answer.json())["name"] == "models/z"
        async with site.client.get("/v1/models/z") as answer:
            assert (await answer.json())["id"] == "z"
        async with site.client.get("/v1/models/none", headers=google) as answer:
            assert (await error_of(answer))["status"] == "NOT_FOUND"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PART_NAMES = ("text", "inlineData", "fileData", "functionCall", "functionResponse", "thought", "thoughtSignature")
PARTS = st.fixed_dictionaries({}, optional={name: st.text(max_size=4) | JSON for name in PART_NAMES})
CONTENTS = st.fixed_dictionaries(
    {"parts": st.lists(PARTS, max_size=3) | JSON}, optional={"role": st.sampled_from(["user", "model"]) | JSON}
)
NAMES = ("generationConfig", "tools", "toolConfig", "safetySettings", "systemInstruction", "labels", "model", "store")
REQUESTS = st.fixed_dictionaries(
    {"contents": st.lists(CONTENTS, max_size=3) | st.just(HELLO["contents"])}, optional={name: JSON for name in NAMES}
)


async def test_a_flood_of_bodies(site: Site) -> None:
    loop = asyncio.get_running_loop()

    async def post(body: bytes) -> None:
        async with site.client.post(WHOLE, data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status in (200, 400), (answer.status, body)
            got = await answer.json()
            assert answer.status == 200 or got["error"]["status"] == "INVALID_ARGUMENT"

    # Hypothesis runs in a thread of its own and hands each request to the loop.
    @hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
    def flood(body: bytes) -> None:
        asyncio.run_coroutine_threadsafe(post(body), loop).result(20)

    await asyncio.to_thread(flood)
