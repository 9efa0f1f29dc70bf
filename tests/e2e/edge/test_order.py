"""What is wrong with a request is told in order: its credential, then its path and its query, then its body."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import pytest
from prometheus_client import CollectorRegistry

from dragoman_edge.app import build_routes
from dragoman_edge.calls import Core
from dragoman_edge.edge import Edge
from dragoman_edge.metrics import EdgeMetrics
from tests.e2e.edge.conftest import SETTINGS

if TYPE_CHECKING:
    from dragoman_edge.routing import Route
    from tests.e2e.edge.conftest import Site

GOOGLE = "/v1beta/models/m"
PROXY = "/api/v1/proxy"


async def every_route() -> list[Route]:
    registry = CollectorRegistry()
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:  # only asked for its stubs
        return build_routes(Edge(Core(channel), SETTINGS, EdgeMetrics(registry), registry))


async def send(site: Site, method: str, target: str, *lines: str, body: bytes = b"{") -> tuple[int, str]:
    """Sends a head and a body, or a piece of it; returns the status and the text of the answer."""
    length = () if any("Length" in line for line in lines) else (f"Content-Length: {len(body)}",)
    head = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *length, *lines, "", ""))
    answer = await site.send(head.encode() + body)
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize(
    "line", ["X-Nothing: none", "Authorization: Basic eDp5", "x-api-key: a b", "X-Goog-Api-Key: a b"]
)
async def test_the_credential_comes_before_all_else(site: Site, line: str) -> None:
    routes = [route for route in await every_route() if not route.public]
    routes += [route.instead[1] for route in routes if route.instead is not None]
    assert len(routes) > 50
    for route in routes:
        google = ("X-Goog-Api-Key: a b",) if route.path.startswith("/v1/models") and route.tag == "Gemini" else ()
        target = re.sub(r"\{\w+(\.\.\.)?\}", "x", route.path) + "?page_size=bad&pageSize=bad&alt=bad&after=bad"
        # The body is not even waited for.
        status, text = await send(site, route.method, target, line, *google, "Content-Length: 1000")
        assert status == 401, (route.method, target, text)
        assert "needed" in text or "malformed" in text or "must be" in text or route.method == "HEAD", text
    assert not site.core.metadata


@pytest.mark.parametrize(
    ("target", "status", "named"),
    [
        (f"{GOOGLE}:streamGenerateContent?alt=xml", 400, "'alt'"),
        (f"{GOOGLE}:generateContent?$alt=proto", 400, "'alt'"),
        (f"{GOOGLE}:generateContent?alt=%FF", 400, "query"),
        (f"{GOOGLE}:embedContent?x=%FF", 400, "query"),
        (f"{GOOGLE}:explode", 404, "explode"),
        (f"{PROXY}/https://a.example/v1beta/models/m:streamGenerateContent?alt=xml", 400, "'alt'"),
        (f"{PROXY}/https://a.example/v1beta/models/m:explode", 404, "explode"),
        (f"{PROXY}/a%2525.example/v1beta/models/m:generateContent", 400, "more than once"),
        (f"{PROXY}/https://a.example/{quote('k y')}/chat/completions", 400, "key"),
        ("/api/v1/chat/generate/stream?deltas=perhaps", 400, "'deltas'"),
        ("/api/v1/chat/generate?deltas=perhaps", 400, "'deltas'"),
    ],
)
async def test_path_and_query_come_before_the_body(site: Site, target: str, status: int, named: str) -> None:
    line = "Authorization: Bearer sk-test"
    found, text = await send(site, "POST", target, line, "Content-Length: 1000")
    assert (found, named in text) == (status, True), text


@pytest.mark.parametrize(
    "target",
    [
        f"{GOOGLE}:generateContent",
        f"{GOOGLE}:streamGenerateContent?alt=sse",
        f"{GOOGLE}:embedContent",
        f"{PROXY}/https://a.example/v1beta/models/m:generateContent",
        f"{PROXY}/https://a.example/sk-theirs/chat/completions",
        f"{PROXY}/default",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/api/v1/chat/generate",
    ],
)
async def test_then_comes_the_body(site: Site, target: str) -> None:
    status, text = await send(site, "POST", target, "Authorization: Bearer sk-test", body=b"{")
    error: Any = json.loads(text)
    assert status == 400
    assert "not valid JSON" in json.dumps(error)
    assert not site.core.metadata
