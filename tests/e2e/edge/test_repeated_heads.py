"""Requests on one connection that say the same of themselves, but for one thing: that one must count each time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import orjson
import pytest

from dragoman.reasons import Reason
from tests.e2e.edge.conftest import SETTINGS
from tests.support.fake_core import CallFailed, finished_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.edge.conftest import Site

HELLO = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}
TOO_WIDE = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}], "temperature": 9}


class Line:
    """A connection on which requests are sent one after the other."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site = site
        self._reader = reader
        self.writer = writer

    async def ask(self, body: Any = HELLO, **headers: str) -> tuple[str, Mapping[str, str], bytes]:
        """Returns status, headers in lower case, and body of the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.writer.write(self._site.raw_request(body, headers=named))
        return await self.answer()

    async def answer(self) -> tuple[str, Mapping[str, str], bytes]:
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in rest)}
            assert len(headers) == len(rest)
            return line.split(" ")[1], headers, await self._reader.readexactly(int(headers["content-length"]))


async def line_to(site: Site) -> Line:
    return Line(site, *await site.connect())


async def test_the_credential_of_each_request_is_told_to_the_core(site: Site) -> None:
    line = await line_to(site)
    keys = ["Bearer sk-1", "Bearer sk-1", "Bearer sk-2", "Bearer sk-1", "", "Bearer sk-2"]
    statuses = [
        (await line.ask(Authorization=key) if key else await line.ask(Authorization="Basic x"))[0] for key in keys
    ]
    assert statuses == ["200", "200", "200", "200", "401", "200"]
    assert [one["authorization"] for one in site.core.metadata] == [key for key in keys if key]
    line.writer.close()


async def test_every_request_has_a_name_of_its_own_unless_the_client_names_it(site: Site) -> None:
    line = await line_to(site)
    names = [(await line.ask())[1]["x-request-id"] for _ in range(3)]
    names += [(await line.ask(X_Request_Id="mine"))[1]["x-request-id"] for _ in range(2)]
    names += [(await line.ask(X_Request_Id="not so sane!"))[1]["x-request-id"] for _ in range(2)]
    assert [one["x-request-id"] for one in site.core.metadata] == names
    assert names[3:5] == ["mine", "mine"]
    assert len(set(names)) == 6
    line.writer.close()


async def test_headers_that_shape_a_run_shape_those_that_carry_them(site: Site) -> None:
    line = await line_to(site)
    keys = ["", "a", "a", "", "b"]
    for key in keys:
        assert (await line.ask(**({"Idempotency_Key": key} if key else {})))[0] == "200"
    assert [request.request_id for request in site.core.requests] == keys
    line.writer.close()


@pytest.mark.parametrize("settings", [replace(SETTINGS, cors_origins=("https://a.example",))])
async def test_pages_are_allowed_one_by_one(site: Site) -> None:
    line = await line_to(site)
    origins = ("https://a.example", "https://a.example", "https://b.example", "https://a.example")
    allowed = [(await line.ask(Origin=origin))[1].get("access-control-allow-origin") for origin in origins]
    assert allowed == ["https://a.example", "https://a.example", None, "https://a.example"]
    line.writer.close()


async def test_bodies_differ_under_the_same_head(site: Site) -> None:
    line = await line_to(site)
    good, bad = orjson.dumps(HELLO), orjson.dumps(TOO_WIDE)
    bodies = [good, bad.ljust(len(good)), b"{" * len(good), b" " * len(good), good.ljust(999), bad.ljust(999), good]
    answers = [await line.ask(body) for body in bodies]
    assert [status for status, _, _ in answers] == ["200", "400", "400", "400", "200", "400", "200"]
    assert len(site.core.requests) == 3
    assert answers[0][2] == answers[4][2] == answers[6][2]
    line.writer.close()


async def test_a_failed_call_is_told_each_time_and_the_connection_goes_on(site: Site) -> None:
    line = await line_to(site)
    assert (await line.ask())[0] == "200"
    site.core.answer = CallFailed(
        grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND, "No such model.", field="chat.model"
    )
    for _ in range(3):
        status, _, body = await line.ask()
        assert status == "404"
        assert orjson.loads(body)["error"]["param"] == "model"
    site.core.answer = finished_run("Again")
    assert (await line.ask())[0] == "200"
    line.writer.close()


async def test_a_stream_and_a_plain_answer_may_have_the_same_head(site: Site) -> None:
    line = await line_to(site)
    plain = orjson.dumps(HELLO)
    streamed = orjson.dumps(HELLO | {"stream": True})
    assert (await line.ask(plain.ljust(len(streamed))))[0] == "200"
    script = site.core.script()
    script.end(CallFailed(grpc.StatusCode.UNAVAILABLE, Reason.OVERLOADED, "Too much."))
    assert (await line.ask(streamed))[0] == "503"
    assert (await line.ask(plain.ljust(len(streamed))))[0] == "200"
    line.writer.close()


@pytest.mark.parametrize("first", [False, True])
async def test_a_client_that_leaves_cancels_its_call(site: Site, first: bool) -> None:
    line = await line_to(site)
    if not first:
        assert (await line.ask())[0] == "200"
    site.core.hold = asyncio.Event()
    line.writer.write(site.raw_request(HELLO))
    await until(lambda: len(site.core.requests) == (1 if first else 2))
    line.writer.close()
    await asyncio.wait_for(site.core.abandoned.wait(), 10)
    left = {"route": "/v1/chat/completions", "method": "POST", "status": "499"}
    await until(lambda: site.registry.get_sample_value("dragoman_http_requests_total", left) == 1)
    await until(lambda: site.registry.get_sample_value("dragoman_http_open_connections") == 0)


@pytest.mark.parametrize(
    "settings", [replace(SETTINGS, log_requests=on) for on in (False, True)], ids=["bare", "logged"]
)
@pytest.mark.parametrize("split", [False, True])
async def test_the_answer_is_the_same_with_and_without_a_task(site: Site, split: bool) -> None:
    """Requests that are logged, and those whose body comes late, are awaited in a task; all others are not."""
    site.core.answer = finished_run("Hello", upstream_model="m é", attempts=2, dropped_params=["sampling.top_k"])
    line = await line_to(site)
    for _ in range(2):
        if split:
            wire = site.raw_request(HELLO)
            line.writer.write(wire[:-5])
            await asyncio.sleep(0.02)
            line.writer.write(wire[-5:])
            status, headers, body = await line.answer()
        else:
            status, headers, body = await line.ask()
        assert status == "200"
        told = {
            name: value for name, value in headers.items() if name not in ("date", "x-request-id", "content-length")
        }
        assert told == {
            "content-type": "application/json",
            "server": "dragoman",
            "x-dragoman-run-id": site.core.answer.id,
            "x-dragoman-model": "m%20%C3%A9",
            "x-dragoman-provider": "fake",
            "x-dragoman-attempts": "2",
            "x-dragoman-dropped-params": "top_k",
        }
        assert orjson.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert [request.spec.chat.sampling.temperature for request in site.core.requests] == [0.5, 0.5]
    line.writer.close()
