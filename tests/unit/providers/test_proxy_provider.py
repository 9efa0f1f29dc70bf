from __future__ import annotations

import orjson
import pytest

from dragoman.v1.run_pb2 import ChatSpec, Upstream
from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.dialects import WIRE_DIALECTS
from dragoman_server.providers.proxy.provider import ProxyProvider
from dragoman_server.settings import ProxySettings
from tests.support import upstream_gemini
from tests.support.generation import Recording, chat, start
from tests.support.upstream_server import DONE, UpstreamServer, chunk, raw, stream, whole

KEY = "upstream-key-0123456789"
HELLO = stream(chunk({"content": "Hello"}), chunk(finish="stop"), DONE)


class Resolver:
    """Finds what a test says, in turn; the last answer again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def asked(url: str, *, key: str = KEY, dialect: str = "openai_chat", model: str = "m") -> GenerationRequest:
    spec: ChatSpec = chat("Hi")
    spec.upstream.CopyFrom(Upstream(base_url=url, api_key=key, dialect=dialect))
    return GenerationRequest(spec, model)


async def outcome(provider: ProxyProvider, request: GenerationRequest) -> Recording:
    _, recording = start(provider, request)
    await recording.end()
    return recording


def proxy(*allow: str, resolver: Resolver | None = None) -> ProxyProvider:
    settings = ProxySettings(allow=allow)
    if resolver is None:
        return ProxyProvider(settings, WIRE_DIALECTS)
    return ProxyProvider(settings, WIRE_DIALECTS, resolver=resolver)


async def test_each_request_carries_its_own_key() -> None:
    async with UpstreamServer(raw(HELLO)) as server:
        provider = proxy(server.url)
        for key in ("key-of-alice", "key-of-bob", ""):
            recording = await outcome(provider, asked(server.url, key=key))
            assert (recording.text, recording.ends) == ("Hello", [None])
        await provider.close()
    assert [request.headers.get("authorization") for request in server.requests] == [
        "Bearer key-of-alice",
        "Bearer key-of-bob",
        None,
    ]
    assert server.connection_count == 1
    assert {request.head for request in server.requests} == {"POST /v1/chat/completions HTTP/1.1"}


async def test_the_path_may_lie_below_the_allowed_one() -> None:
    async with UpstreamServer(raw(HELLO)) as server:
        provider = proxy(f"http://127.0.0.1:{server.port}")
        await outcome(provider, asked(f"http://127.0.0.1:{server.port}/deployments/x/"))
        await provider.close()
    assert [request.head for request in server.requests] == ["POST /deployments/x/chat/completions HTTP/1.1"]


async def test_gemini_has_its_own_header() -> None:
    answer = stream(upstream_gemini.text("Hello"), upstream_gemini.chunk(finish="STOP"))
    async with UpstreamServer(raw(answer)) as server:
        provider = proxy(server.url)
        recording = await outcome(provider, asked(server.url, dialect="gemini"))
        await provider.close()
    assert recording.text == "Hello"
    assert server.requests[0].headers["x-goog-api-key"] == KEY
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_the_callers(status: int) -> None:
    body = orjson.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "type": "invalid_request_error"}})
    async with UpstreamServer(raw(whole(status, body))) as server:
        provider = proxy(server.url)
        recording = await outcome(provider, asked(server.url))
        await provider.close()
    [failure] = recording.ends
    assert failure is not None
    assert (failure.reason, failure.retryable) == ("UPSTREAM_AUTH", False)
    assert KEY not in str(failure)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_no_failure_tells_the_key_or_the_address(status: int) -> None:
    async with UpstreamServer(raw()) as server:
        text = f"{KEY} is wrong at {server.url}"
        server.answer = raw(whole(status, orjson.dumps({"error": {"message": text, "code": KEY, "param": KEY}})))
        provider = proxy(server.url)
        recording = await outcome(provider, asked(server.url))
        await provider.close()
    [failure] = recording.ends
    assert failure is not None
    assert KEY not in str(failure)
    assert str(server.port) not in str(failure)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    async with UpstreamServer(raw(HELLO)) as elsewhere:
        moved = raw(whole(status, b"", Location=f"{elsewhere.url}/chat/completions"))
        async with UpstreamServer(moved) as server:
            provider = proxy(server.url, elsewhere.url)
            recording = await outcome(provider, asked(server.url))
            await provider.close()
    [failure] = recording.ends
    assert failure is not None
    assert failure.reason == "PROVIDER_FAILED"
    assert elsewhere.connection_count == 0


PRIVATE = ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00::7", "::ffff:127.0.0.1", "100.64.3.2", "0.0.0.0"]


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("public", [[], ["8.8.8.8"]])
async def test_a_name_that_leads_to_a_private_address_is_not_called(address: str, public: list[str]) -> None:
    resolver = Resolver([*public, address])
    provider = proxy("http://models.test/v1", resolver=resolver)
    recording = await outcome(provider, asked("http://models.test/v1"))
    await provider.close()
    [failure] = recording.ends
    assert failure is not None
    assert (failure.reason, failure.retryable) == ("UPSTREAM_NOT_ALLOWED", False)
    assert address not in failure.message
    assert resolver.asked == [("models.test", 80)]


async def test_an_entry_that_names_host_and_port_may_be_private_and_the_address_is_looked_up_once() -> None:
    async with UpstreamServer(raw(HELLO)) as server:
        url = f"http://models.test:{server.port}/v1"  # no other resolver knows this name
        resolver = Resolver(["127.0.0.1"], ["192.0.2.1"])
        provider = proxy(url, resolver=resolver)
        for _ in range(2):
            assert (await outcome(provider, asked(url))).text == "Hello"
        await provider.close()
    assert resolver.asked == [("models.test", server.port)]
    assert server.requests[0].headers["host"] == f"models.test:{server.port}"


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (asked("http://127.0.0.1:1/v2"), "UPSTREAM_NOT_ALLOWED", "spec.chat.upstream.base_url"),
        (asked("http://127.0.0.1:1/v1", dialect="scripted"), "INVALID_REQUEST", "spec.chat.upstream.dialect"),
        (asked("http://127.0.0.1:1/v1", key="a\r\nx: y"), "INVALID_REQUEST", "spec.chat.upstream.api_key"),
        (asked("http://127.0.0.1:1/v1", key="schlüssel"), "INVALID_REQUEST", "spec.chat.upstream.api_key"),
        (asked("http://127.0.0.1:1/v1", key="k" * 5000), "INVALID_REQUEST", "spec.chat.upstream.api_key"),
    ],
)
async def test_refusals_come_at_once(request_: GenerationRequest, reason: str, field: str) -> None:
    provider = proxy("http://127.0.0.1:1/v1")
    for refused in (lambda: provider.check(request_.spec.upstream), lambda: start(provider, request_)):
        with pytest.raises(InvalidRequest) as caught:
            refused()
        assert (caught.value.reason, caught.value.field) == (reason, field)
        assert request_.spec.upstream.api_key not in caught.value.message
    await provider.close()


def test_a_wrong_entry_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"entry 2 of .*allow is wrong"):
        proxy("https://api.openai.com/v1", "api.openai.com/v1")
