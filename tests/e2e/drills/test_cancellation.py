"""Whoever stops waiting stops the work: at every moment, and up to the upstream server's socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman_server.settings import RoutingSettings
from tests.e2e.drills.site import DIALECTS, FOREVER, SOON, STREAM_HEAD, Site, deltas, plays, site_over
from tests.e2e.matrix.outward_http import Words
from tests.e2e.matrix.words import Said, Tokens
from tests.support.upstream_server import Piece, chunked, raw, whole
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)

dialects = pytest.mark.parametrize("dialect", DIALECTS)


def plain_silent(words: Words) -> list[Piece]:
    return [FOREVER]


def plain_within(words: Words) -> list[Piece]:
    return [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{", FOREVER]


def stream_with_head(words: Words) -> list[Piece]:
    return [STREAM_HEAD, FOREVER]


def stream_within(words: Words) -> list[Piece]:
    return [STREAM_HEAD, *(chunked(event) for event in words.content(Said(("He", "llo")))), FOREVER]


MOMENTS = {
    "plain, before the answer": (False, plain_silent),
    "plain, within the answer": (False, plain_within),
    "stream, before the answer": (True, plain_silent),
    "stream, before the first token": (True, stream_with_head),
    "stream, after the first token": (True, stream_within),
}


@dialects
@pytest.mark.parametrize("moment", MOMENTS)
async def test_leaving_ends_the_work_upstream(dialect: str, moment: str) -> None:
    stream, pieces = MOMENTS[moment]
    async with site_over((dialect, raw(*pieces(DIALECTS[dialect])))) as site:
        if pieces is stream_within:
            async with site.ask(stream=True) as answer:
                await answer.content.readuntil(b"llo")
                answer.close()
        else:
            await leave(site, stream=stream, when=asked(site))
        await asyncio.wait_for(site.servers[0].aborted.wait(), SOON)
        await site.idle()
        (run,) = await site.runs()
        assert (run["state"], run["cancel_reason"]) == ("STATE_CANCELLED", "CANCEL_REASON_DISCONNECTED")
        assert ("usage" in run) == (pieces is stream_within)


@dialects
async def test_cancelling_the_run_ends_the_work_upstream(dialect: str) -> None:
    async with site_over((dialect, raw(*stream_within(DIALECTS[dialect])))) as site:
        async with site.ask(stream=True) as answer:
            run_id = answer.headers["x-dragoman-run-id"]
            async with site.session.post(f"/v1/runs/{run_id}/cancel") as cancelled:
                assert (await cancelled.json())["run"]["state"] == "STATE_CANCELLED"
            await answer.read()
        await asyncio.wait_for(site.servers[0].aborted.wait(), SOON)
        await site.idle()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@dialects
async def test_leaving_the_queue_reaches_nobody(dialect: str, stream: bool) -> None:
    words = DIALECTS[dialect]
    bounds = {"max_concurrency": 1, "max_queue": 2}
    async with site_over((dialect, plays(words, Said(("a", "b")), first=0.5)), provider=bounds) as site:
        first = asyncio.create_task(read(site, stream=True))
        await asked(site)
        await leave(site, stream=stream, when=until(lambda: site.in_flight == 2))
        await until(lambda: site.in_flight == 1)
        assert deltas(await first) == ["a", "b"]
        await site.idle()
        assert len(site.servers[0].requests) == 1
        assert [run["state"] for run in await site.runs()] == ["STATE_CANCELLED", "STATE_COMPLETED"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@dialects
async def test_leaving_before_another_attempt_reaches_nobody(dialect: str, stream: bool) -> None:
    routing = RoutingSettings(backoff=0.01, max_backoff=2)
    failing = raw(whole(503, b'{"error": {"message": "it hurts", "type": "api_error"}}', Retry_After=1))
    async with site_over((dialect, failing), routing=routing) as site:
        waits = until(lambda: len(site.servers[0].requests) > 0 == site.in_flight and site.core.runs.active == 1)
        await leave(site, stream=stream, when=waits)
        await site.idle()
        await asyncio.sleep(1.5)  # the next attempt would have come by now
        assert len(site.servers[0].requests) == 1
        (run,) = await site.runs()
        assert run["state"] == "STATE_CANCELLED"


@dialects
async def test_usage_is_counted_although_nobody_asked(dialect: str) -> None:
    said = Said(("Do", "ne."), tokens=Tokens(1000, 50, cached=900, thoughts=40))
    async with site_over((dialect, plays(DIALECTS[dialect], said))) as site:
        for stream in (True, False):
            async with site.ask(stream=stream) as answer:
                body = await answer.read()
                assert (b'"usage"' in body) is not stream
                run = await site.run(answer.headers["x-dragoman-run-id"])
            usage: dict[str, Any] = run["usage"]
            assert (usage["input_tokens"], usage["output_tokens"]) == ("1000", "50")
            assert usage["input_details"]["cached_tokens"] == "900"
            assert usage["output_details"]["reasoning_tokens"] == "40"


@dialects
async def test_usage_of_an_answer_that_was_left_is_estimated(dialect: str) -> None:
    async with site_over((dialect, raw(*stream_within(DIALECTS[dialect])))) as site:
        async with site.ask(stream=True) as answer:
            run_id = answer.headers["x-dragoman-run-id"]
            await answer.content.readuntil(b"llo")
            answer.close()
        usage = (await site.run(run_id))["usage"]
        assert int(usage["input_tokens"]) > 0
        assert int(usage["output_tokens"]) > 0


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect != "openai_chat"])
@pytest.mark.parametrize("fails", [False, True])
async def test_the_prompt_of_an_answer_that_was_broken_off_counts_as_the_provider_told_it(
    dialect: str, fails: bool
) -> None:
    words = DIALECTS[dialect]
    said = Said(("He", "llo"), tokens=Tokens(1000, 50, cached=900))
    rest = [chunked(words.error_event()), b"0\r\n\r\n"] if fails else [FOREVER]
    pieces = [STREAM_HEAD, *(chunked(event) for event in words.content(said)), *rest]
    async with site_over((dialect, raw(*pieces))) as site:
        async with site.ask(stream=True) as answer:
            run_id = answer.headers["x-dragoman-run-id"]
            await answer.content.readuntil(b"llo")
            if fails:
                await answer.read()
            answer.close()
        run = await site.run(run_id)
        assert run["state"] == ("STATE_FAILED" if fails else "STATE_CANCELLED")
        usage = run["usage"]
        assert usage["input_tokens"] == "1000"
        assert 0 < int(usage["output_tokens"]) < 50
        assert usage["estimated"] is True


async def read(site: Site, *, stream: bool) -> bytes:
    async with site.ask(stream=stream) as answer:
        body: bytes = await answer.read()
        return body


async def leave(site: Site, *, stream: bool, when: Any) -> None:
    """Asks, and leaves at a moment."""
    task = asyncio.create_task(read(site, stream=stream))
    await when
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def asked(site: Site) -> None:
    """Returns once the upstream server has a request."""
    await until(lambda: bool(site.servers[0].requests))
    await asyncio.sleep(0.05)  # what it sends at once has come by then, as a rule
