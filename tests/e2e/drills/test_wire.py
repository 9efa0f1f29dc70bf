"""Upstream servers whose packets come as they should not: cut, huge, countless, late or never."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.e2e.drills.site import DIALECTS, FOREVER, SOON, STREAM_HEAD, deltas, error_of, events, plays, site_over
from tests.e2e.matrix.words import Call, Said, Tokens
from tests.support.upstream_server import RESET, chunked, cut, raw

pytestmark = pytest.mark.timeout(120)

dialects = pytest.mark.parametrize("dialect", DIALECTS)
SAID = Said(("Hel", "lo ", "wörld ", "\U0001f600", "."))


async def test_the_dialects_are_all_there() -> None:
    from dragoman_server.providers.dialects import WIRE_DIALECTS

    assert DIALECTS.keys() == WIRE_DIALECTS.keys()


@dialects
async def test_half_an_event_in_each_packet(dialect: str) -> None:
    words = DIALECTS[dialect]
    pieces = [STREAM_HEAD]
    for event in events(words, SAID):
        middle = len(event) // 2
        pieces += [chunked(event[:middle]), chunked(event[middle:])]
    async with site_over((dialect, raw(*pieces, b"0\r\n\r\n"))) as site, site.ask(stream=True) as answer:
        assert deltas(await answer.read()) == list(SAID.text)


@dialects
async def test_packets_of_three_bytes(dialect: str) -> None:
    words = DIALECTS[dialect]
    said = Said(SAID.text, calls=(Call("call_1", "f", ('{"a":', '"ö"}')),), finish="tool_calls")
    wire = STREAM_HEAD + b"".join(map(chunked, events(words, said))) + b"0\r\n\r\n"
    async with site_over((dialect, raw(*cut(wire, 3)))) as site, site.ask(stream=True) as answer:
        body = await answer.read()
        assert deltas(body) == list(SAID.text)
        assert b'"finish_reason":"tool_calls"' in body


@dialects
async def test_ten_thousand_events(dialect: str) -> None:
    said = Said(tuple(f"{number} " for number in range(10_000)), tokens=Tokens(5, 10_000))
    usage = {"include_usage": True}
    async with (
        site_over((dialect, plays(DIALECTS[dialect], said))) as site,
        site.ask(stream=True, stream_options=usage) as answer,
    ):
        body = await answer.read()
        assert deltas(body) == list(said.text)
        assert b'"completion_tokens":10000' in body


@dialects
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_events_of_a_megabyte(dialect: str, stream: bool) -> None:
    said = Said(tuple(letter * 2**20 for letter in "aé\n"))
    async with site_over((dialect, plays(DIALECTS[dialect], said))) as site, site.ask(stream=stream) as answer:
        body = await answer.read()
        if stream:
            assert deltas(body) == list(said.text)
        else:
            assert json.loads(body)["choices"][0]["message"]["content"] == "".join(said.text)


@dialects
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_silence_from_the_start(dialect: str, stream: bool) -> None:
    quick = {"first_event_timeout": 0.3}
    async with site_over((dialect, raw(FOREVER)), provider=quick) as site:
        async with site.ask(stream=stream) as answer:
            assert answer.status == 504
            assert (await answer.json())["error"]["code"] == "provider_timeout"
        await asyncio.wait_for(site.servers[0].aborted.wait(), SOON)
        await site.idle()


@dialects
@pytest.mark.parametrize("pings", [False, True], ids=["silent", "pings"])
async def test_silence_in_the_middle(dialect: str, pings: bool) -> None:
    """Keep-alives of the other side are no life."""
    content = [chunked(event) for event in DIALECTS[dialect].content(Said(("He", "llo")))]
    rest = [0.1, chunked(b": ping\n\n")] * 200 if pings else [FOREVER]
    async with site_over((dialect, raw(STREAM_HEAD, *content, *rest)), provider={"idle_timeout": 0.4}) as site:
        async with site.ask(stream=True) as answer:
            assert answer.status == 200
            body = await answer.read()
        assert b'"content":"llo"' in body
        assert error_of(body)["code"] == "provider_timeout"
        await asyncio.wait_for(site.servers[0].aborted.wait(), SOON)
        await site.idle()


@dialects
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_connection_cut_in_the_middle(dialect: str, stream: bool) -> None:
    words = DIALECTS[dialect]
    if stream:
        pieces = [STREAM_HEAD, *(chunked(event) for event in words.content(Said(("He", "llo")))), 0.05, RESET]
    else:
        pieces = [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{", 0.05, RESET]
    async with site_over((dialect, raw(*pieces))) as site:
        async with site.ask(stream=stream) as answer:
            if stream:
                body = await answer.read()
                assert b'"content":"llo"' in body
                error = error_of(body)
            else:
                assert answer.status == 502
                error = (await answer.json())["error"]
        assert error["code"] in ("provider_protocol", "provider_unreachable")
        await site.idle()
