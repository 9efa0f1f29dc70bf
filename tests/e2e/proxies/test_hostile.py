"""What must never leave: a request to a server that is not allowed, and the caller's key."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support.core import KEY
from tests.support.proxy_site import BOUND, UPSTREAM_KEY, Answer, Site, completion
from tests.support.server import CONFIG, running_server
from tests.support.server import KEY as SERVER_KEY
from tests.support.upstream_server import UpstreamServer, chat, raw, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOSTILE = [
    "http://127.0.0.1:{port}/v2",
    "http://127.0.0.1:{port}",
    "http://127.0.0.1:{port}/V1",
    "http://127.0.0.1:{port}/v1x",
    "https://127.0.0.1:{port}/v1",
    "127.0.0.1:{port}/v1",
    "http://127.0.0.1:{other}/v1",
    "http://127.0.0.1/v1",
    "http://127.1:{port}/v1",
    "http://2130706433:{port}/v1",
    "http://0x7f000001:{port}/v1",
    "http://0177.0.0.1:{port}/v1",
    "http://127.0.0.1.:{port}/v1",
    "http://localhost:{port}/v1",
    "http://0.0.0.0:{port}/v1",
    "http://[::1]:{port}/v1",
    "http://[::ffff:127.0.0.1]:{port}/v1",
    "http://[::ffff:7f00:1]:{port}/v1",
    "http://169.254.169.254/latest/meta-data",
    "http://[fd00:ec2::254]/latest",
    "http://metadata.google.internal/computeMetadata/v1",
    "http://127.0.0.1:{port}@127.0.0.1:{other}/v1",
    "http://user:pass@127.0.0.1:{port}/v1",
    "http://127.0.0.1:{other}#@127.0.0.1:{port}/v1",
    "http://127.0.0.1:{other}%23@127.0.0.1:{port}/v1",
    "http://127.0.0.1:{other}\\@127.0.0.1:{port}/v1",
    "http://127.0.0.1:{other}%5C@127.0.0.1:{port}/v1",
    "http:\\\\127.0.0.1:{port}\\v1",
    "http:%5C%5C127.0.0.1:{port}%5Cv1",
    "http://127.0.0.1:{port}/v1/..",
    "http://127.0.0.1:{port}/v1/../admin",
    "http://127.0.0.1:{port}/v1/%2e%2e/admin",
    "http://127.0.0.1:{port}/v1/.%2e/admin",
    "http://127.0.0.1:{port}/v1/%252e%252e/admin",
    "http://127.0.0.1:{port}/v1%2f..%2fadmin",
    "http://127.0.0.1:{port}/v1/./x",
    "http://127.0.0.1:{port}/v1//x",
    "http://127.0.0.1:{port}/v1%0d%0aHost:%20evil",
    "http://127.0.0.1:{port}/v1%0aHost:%20evil",
    "http://127.0.0.1:{port}%0d%0a/v1",
    "http://127.0.0.1:{port}/v1%00",
    "http://127.0.0.1%00:{port}/v1",
    "http://127.0.0.1:{port}/v1%20",
    "http://127.0.0.1:{port}/v1%09",
    "http://127.0.0.1:{port}/v1%3Fx=1",
    "http://127.0.0.1:{port}/v1%23",
    "http%253A%252F%252F127.0.0.1%253A{port}%252Fv1",
    "http:///127.0.0.1:{port}/v1",
    "http:////127.0.0.1:{port}/v1",
    "//127.0.0.1:{port}/v1",
    "http://127.0.0.1:{port}:{other}/v1",
    "http://127.0.0.1:99999/v1",
    "http://127.0.0.1:{port}/v1/%C3%A9",
    "http://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1:{port}/v1",
    "http://127%E3%80%820.0.1:{port}/v1",
    "http://127.0.0.1%E2%84%80:{port}/v1",
    "http://%ff:{port}/v1",
    "http://[127.0.0.1]:{port}/v1",
    "http://[::1/v1",
    "http://:{port}/v1",
    "ftp://127.0.0.1:{port}/v1",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_x",
    "unix:/var/run/docker.sock",
    "javascript:alert(1)",
    "default",
    "https://api.openai.com/v1",
]


@pytest.fixture
async def other() -> AsyncIterator[UpstreamServer]:
    """A server that nobody allowed."""
    async with UpstreamServer(chat()) as server:
        yield server


@pytest.mark.parametrize("form", HOSTILE)
async def test_a_refusal_makes_no_connection(
    site: Site,
    other: UpstreamServer,
    form: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[object] = []

    def look_up(*args: object, **_: object) -> list[object]:
        looked_up.append(args)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    caplog.set_level(logging.DEBUG)
    place = form.format(port=site.upstream.port, other=other.port)
    for body in (completion(), completion(stream=True)):
        answer = await site.post(f"/api/v1/proxy/{place}/{UPSTREAM_KEY}/chat/completions", body)
        assert 400 <= answer.status < 500, answer
        assert answer.error["type"] == "invalid_request_error"
        assert keeps_quiet(answer, place), answer
    headers = {"Authorization": f"Bearer {KEY}", "x-goog-api-key": UPSTREAM_KEY}
    target = f"/api/v1/proxy/{place.removesuffix('/v1')}/v1/models/m:generateContent"
    if place != f"http://127.0.0.1:{site.upstream.port}":
        answer = await site.post(target, {"contents": [{"parts": [{"text": "x"}]}]}, headers)
        assert 400 <= answer.status < 500, answer
        assert keeps_quiet(answer, place), answer
    assert (site.upstream.connection_count, other.connection_count) == (0, 0)
    assert looked_up == []
    assert UPSTREAM_KEY not in caplog.text


def keeps_quiet(answer: Answer, place: str) -> bool:
    text = answer.body.decode() + str(answer.headers)
    return UPSTREAM_KEY not in text and (place == "default" or place not in text)


HOSTILE_KEYS = ["%0d%0aX-Evil:%201", "sk%00", "sk%20key", "sk%C3%A9", "sk%ff", "%0A", "k" * 5000]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_no_key_reaches_into_the_head(site: Site, key: str) -> None:
    answer = await site.post(f"/api/v1/proxy/{site.upstream.url}/{key}/chat/completions", completion())
    assert (answer.status, answer.error["code"]) in ((400, "invalid_request"), (400, "upstream_not_allowed"))
    assert site.upstream.connection_count == 0


async def test_a_key_of_strange_but_good_characters_arrives_as_it_is(site: Site) -> None:
    key = "a/b?c#d%25e&f=g+h@i:j\\k\"l'm<n>"
    answer = await site.post(f"/api/v1/proxy/{site.upstream.url}/{quote(key, safe='')}/chat/completions", completion())
    assert answer.status == 200
    assert site.upstream.requests[0].headers["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/proxy/" + "x" * 100_000 + "/k/chat/completions",
        "/api/v1/proxy/" + "a/" * 16_000 + "k/chat/completions",
        "/api/v1/proxy/" + "%61" * 10_000 + "/k/chat/completions",
        "/api/v1/proxy/http://127.0.0.1:1/v1/\x00k/chat/completions",
        "/api/v1/proxy/http://127.0.0.1:1/v1/k k/chat/completions",
        "/api/v1/proxy/http://127.0.0.1:1/v1/\rk/chat/completions",
        "/api/v1/proxy/http://\xff.test/v1/k/chat/completions",
        "http://127.0.0.1:1/api/v1/proxy/http://127.0.0.1:1/v1/k/chat/completions",
        "/api/v1/proxy//chat/completions",
        "/api/v1/proxy/chat/completions",
        "/api/v1/proxy///chat/completions",
        "/api/v1/proxy/..//chat/completions",
        "/api/v1/proxy/%/chat/completions",
        "/api/v1/proxy/%zz/%/chat/completions",
    ],
)
async def test_broken_targets_are_answered(site: Site, target: str) -> None:
    answer = await site.post(target, completion())
    assert 400 <= answer.status < 500
    assert site.upstream.connection_count == 0


async def test_an_empty_list_allows_nothing(tmp_path: Path) -> None:
    async with UpstreamServer(chat()) as upstream:
        with running_server(tmp_path) as server:
            port = int(server.url.rpartition(":")[2])
            site = Site(None, upstream, port)  # type: ignore[arg-type]  # the core is in another process
            fields = {"Authorization": f"Bearer {SERVER_KEY}"}
            target = f"/api/v1/proxy/{upstream.url}/{UPSTREAM_KEY}/chat/completions"
            answer = await site.post(target, completion(), fields)
    assert (answer.status, answer.error["code"]) == (400, "upstream_not_allowed")
    assert upstream.connection_count == 0


async def test_the_key_is_in_no_log_metric_or_answer_of_a_real_server(tmp_path: Path) -> None:
    """Everything that can go wrong does; the server writes all that it has to say."""
    secret = "opaque-upstream-credential"  # in no form that the log blacks out by itself
    echo = json.dumps({"error": {"message": f"the key {secret} is wrong"}}).encode()
    async with UpstreamServer(chat()) as upstream:
        config = f'{CONFIG}\n[proxy]\nallow = ["{upstream.url}"]\n'
        environ = {"DRAGOMAN_LOG__LEVEL": "debug", "PYTHONASYNCIODEBUG": "1"}
        with running_server(tmp_path, config=config, environ=environ) as server:
            site = Site(None, upstream, int(server.url.rpartition(":")[2]))  # type: ignore[arg-type]
            fields = {"Authorization": f"Bearer {SERVER_KEY}"}
            base = f"/api/v1/proxy/{upstream.url}/{secret}"
            answers = [
                await site.post(f"{base}/chat/completions", completion(), fields),
                await site.post(f"{base}/chat/completions", completion(stream=True), fields),
                await site.post(f"{base}/chat/completions", completion(temperature=9), fields),
                await site.post(f"{base}/chat/completions", completion(), {}),
                await site.post(f"{base}/v1/messages", completion(), fields),
                await site.post(f"/api/v1/proxy/http://evil.test/{secret}/chat/completions", completion(), fields),
                await site.post(f"{base}%00/chat/completions", completion(), fields),
                await site.send("GET", f"{base}/chat/completions", b"", fields),
                await site.send("DELETE", f"{base}/models", b"", fields),
            ]
            for status in (401, 400, 429, 500, 302):
                upstream.answer = raw(whole(status, echo, Location=f"http://evil.test/{secret}"))
                answers.append(await site.post(f"{base}/chat/completions", completion(), fields))
            upstream.answer = raw(b"garbage")
            answers.append(await site.post(f"{base}/chat/completions", completion(), fields))
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(f"POST {base}/chat/completions HTTP/9.9\r\n\r\n".encode())
            async with asyncio.timeout(BOUND):
                broken = await reader.read()
            writer.close()
            runs = await site.send("GET", "/v1/runs?limit=100", b"", fields)
            metrics = await site.send("GET", "/metrics", b"", fields)
        log = server.log.read_text()
    assert answers[0].status == 200
    assert all(answer.status >= 400 for answer in answers[2:])
    assert runs.status == metrics.status == 200
    assert b"proxyUrl" in metrics.body
    for text in (log, metrics.body.decode(), runs.body.decode(), broken.decode(), *map(str, answers)):
        assert secret not in text
        assert f":{upstream.port}" not in text
    assert log
