from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.core import KEY
from tests.support.proxy_site import UPSTREAM_KEY, Site
from tests.support.upstream_server import raw, script, whole

HELLO = script(text=["Hel", "lo"])
GOOGLE = "x-goog-api-key"
OURS = {"Authorization": f"Bearer {KEY}"}
BOTH = {**OURS, GOOGLE: UPSTREAM_KEY}


def contents(said: str = HELLO, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": said}]}], **more}


def proxied(site: Site, method: str = "generateContent", version: str = "v1", place: str = "") -> str:
    place = place or f"http://127.0.0.1:{site.upstream.port}"
    return f"/api/v1/proxy/{place}/{version}/models/gemini-x:{method}"


async def test_a_whole_answer(site: Site) -> None:
    config = {"temperature": 1.5, "topK": 3, "topP": 0.5, "maxOutputTokens": 100}
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_HIGH_AND_ABOVE"}]
    answer = await site.post(proxied(site), contents(generationConfig=config, safetySettings=safety), BOTH)
    assert answer.status == 200
    [candidate] = answer.json["candidates"]
    assert candidate["content"] == {"parts": [{"text": "Hello"}], "role": "model"}
    assert candidate["finishReason"] == "STOP"
    assert answer.json["usageMetadata"]["totalTokenCount"] > 0
    assert answer.json["modelVersion"]
    [request] = site.upstream.requests
    assert request.head == "POST /v1/models/gemini-x:generateContent HTTP/1.1"
    assert request.headers[GOOGLE] == UPSTREAM_KEY
    assert KEY not in str(request.headers)
    assert request.json["generationConfig"] == config
    assert request.json["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}]


async def test_a_stream_of_events(site: Site) -> None:
    answer = await site.post(proxied(site, "streamGenerateContent") + "?alt=sse", contents(), BOTH)
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [json.loads(frame.removeprefix("data: ")) for frame in answer.body.decode().strip().split("\n\n")]
    assert said(frames) == "Hello"
    assert b"[DONE]" not in answer.body


async def test_a_stream_as_an_array(site: Site) -> None:
    answer = await site.post(proxied(site, "streamGenerateContent"), contents(), BOTH)
    assert answer.headers["content-type"] == "application/json"
    assert said(answer.json) == "Hello"


def said(frames: list[dict[str, Any]]) -> str:
    parts = [part for frame in frames for one in frame.get("candidates", ()) for part in one["content"]["parts"]]
    return "".join(part["text"] for part in parts)


async def test_addresses_are_taken_in_every_form(site: Site) -> None:
    address = f"http://127.0.0.1:{site.upstream.port}"
    for place in (address, address.replace("//", "/"), quote(address, safe="")):
        assert (await site.post(proxied(site, place=place), contents(), BOTH)).status == 200, place
    assert {request.head for request in site.upstream.requests} == {"POST /v1/models/gemini-x:generateContent HTTP/1.1"}
    refused = await site.post(proxied(site, version="v1beta"), contents(), BOTH)  # the list has `/v1` only
    assert (refused.status, refused.error["details"][0]["reason"]) == (400, "UPSTREAM_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("headers", "query", "status", "theirs"),
    [
        (BOTH, "", 200, UPSTREAM_KEY),
        (OURS, f"?key={UPSTREAM_KEY}", 200, UPSTREAM_KEY),
        ({GOOGLE: KEY}, "", 200, None),
        ({}, f"?key={KEY}", 200, None),
        ({GOOGLE: KEY}, f"?key={UPSTREAM_KEY}", 200, UPSTREAM_KEY),
        ({**OURS, GOOGLE: KEY}, "", 200, None),
        ({**OURS, GOOGLE: KEY}, f"?key={UPSTREAM_KEY}", 200, UPSTREAM_KEY),
        ({"x-api-key": KEY, GOOGLE: UPSTREAM_KEY}, "", 200, UPSTREAM_KEY),
        (BOTH, "?key=another", 401, None),
        ({GOOGLE: UPSTREAM_KEY}, "", 401, None),
        ({}, "", 401, None),
    ],
)
async def test_which_key_is_whose(
    site: Site, headers: dict[str, str], query: str, status: int, theirs: str | None
) -> None:
    answer = await site.post(proxied(site) + query, contents(), headers)
    assert answer.status == status
    assert UPSTREAM_KEY not in answer.body.decode()
    assert [request.headers.get(GOOGLE) for request in site.upstream.requests] == ([theirs] if status == 200 else [])
    assert all(KEY not in str(request.headers) + request.head for request in site.upstream.requests)


async def test_errors_have_the_words_of_their_family(site: Site) -> None:
    bad = await site.post(proxied(site), {"contents": "x"}, BOTH)
    assert bad.status == 400
    assert {"message", "details"} <= set(bad.error)
    body = json.dumps({"error": {"code": 500, "message": f"{UPSTREAM_KEY} broke", "status": "INTERNAL"}}).encode()
    site.upstream.answer = raw(whole(500, body))
    failed = await site.post(proxied(site), contents(), BOTH)
    assert failed.status == 503
    assert failed.error == {"message": "[secret] broke", "type": "server_error", "code": "provider_failed"}
    site.upstream.answer = raw(whole(403, b""))
    refused = await site.post(proxied(site), contents(), BOTH)
    assert (refused.status, refused.error["status"]) == (401, "UNAUTHENTICATED")


async def test_unknown_methods_and_models(site: Site) -> None:
    for segment in ("gemini-x:countTokens", "gemini-x:nothing", "gemini-x", ":generateContent"):
        path = f"/api/v1/proxy/http://127.0.0.1:{site.upstream.port}/v1/models/{segment}"
        assert (await site.post(path, contents(), BOTH)).status == 404, segment
    assert site.upstream.connection_count == 0
