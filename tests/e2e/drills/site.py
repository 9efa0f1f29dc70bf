"""A server in front of upstream servers that do what a drill wants, and a client that may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from dragoman_server.app import Core
from dragoman_server.settings import BreakerSettings, ModelSettings, ProviderSettings, RoutingSettings, TargetSettings
from tests.e2e.matrix import outward_anthropic, outward_gemini, outward_openai
from tests.e2e.matrix.outward_http import Words
from tests.e2e.matrix.words import Said
from tests.support.core import running_core
from tests.support.edge import client_of, running_edge
from tests.support.upstream_server import Answer, Connection, Request, UpstreamServer, chunked, head, send, whole
from tests.support.waiting import until

DIALECTS = {
    "openai_chat": outward_openai.WORDS,
    "anthropic_messages": outward_anthropic.WORDS,
    "gemini": outward_gemini.WORDS,
}
PATIENCE = 30.0
"""Seconds after which a drill has failed."""
SOON = 5.0
"""Bound of what is to happen within a second: the machine may be busy."""
FOREVER = 600.0
ONCE = RoutingSettings(max_attempts=1, breaker=BreakerSettings(failures=1_000_000))


@dataclass
class Site:
    """A server, its upstream servers, and a client of its OpenAI dialect."""

    core: Core
    servers: list[UpstreamServer]
    session: aiohttp.ClientSession
    tasks: int
    """Tasks of the loop when nobody had asked yet."""

    def ask(self, *, stream: bool, **more: Any) -> Any:
        """Sends a request; an async context manager of the answer."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream, **more}
        return self.session.post("/v1/chat/completions", json=body)

    async def run(self, run_id: str) -> dict[str, Any]:
        """Returns the record of a run that has ended."""
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self.session.get(f"/v1/runs/{run_id}") as answer:
                    run: dict[str, Any] = (await answer.json())["run"]
                if run["state"] != "STATE_RUNNING":
                    return run
                await asyncio.sleep(0.01)

    async def runs(self) -> list[dict[str, Any]]:
        async with self.session.get("/v1/runs") as answer:
            found: list[dict[str, Any]] = (await answer.json())["runs"]
            return found

    @property
    def in_flight(self) -> int:
        return sum(target.in_flight + target.queued for target in self.core.catalog.get("m").targets)

    async def idle(self) -> None:
        """Waits until nothing is left of any request: no run, no place on a target, no task.

        Raises:
            TimeoutError: If something stays.
        """

        def quiet() -> bool:
            return not self.core.runs.active and not self.in_flight and len(asyncio.all_tasks()) <= self.tasks

        await until(quiet, SOON)


@asynccontextmanager
async def site_over(
    *upstreams: tuple[str, Answer],
    provider: dict[str, Any] | None = None,
    routing: RoutingSettings = ONCE,
    **model: Any,
) -> AsyncIterator[Site]:
    """Yields a site whose model `m` has one target for each upstream: its dialect, and what it answers."""
    async with AsyncExitStack() as stack:
        servers: list[UpstreamServer] = []
        providers: list[ProviderSettings] = []
        targets: list[TargetSettings] = []
        for index, (dialect, answer) in enumerate(upstreams):
            server = await stack.enter_async_context(UpstreamServer(answer))
            place = {"name": f"u{index}", "dialect": dialect, "base_url": server.url}
            providers.append(ProviderSettings.model_validate(place | (provider or {})))
            targets.append(TargetSettings(provider=f"u{index}", upstream_model=DIALECTS[dialect].model))
            servers.append(server)
        models = (ModelSettings(id="m", targets=tuple(targets), **model),)
        core = await stack.enter_async_context(running_core(providers=tuple(providers), models=models, routing=routing))
        edge = await stack.enter_async_context(running_edge(core.channel()))
        session = await stack.enter_async_context(client_of(edge, timeout=PATIENCE))
        yield Site(core, servers, session, len(asyncio.all_tasks()))


def plays(words: Words, said: Said, *, first: float = 0, gap: float = 0) -> Answer:
    """Returns what answers so, whole or as a stream, with waits before it and between its events."""

    async def answer(request: Request, connection: Connection) -> None:
        await asyncio.sleep(first)
        if not words.streams(request):
            await send(connection, [whole(200, json.dumps(words.whole(said)).encode())])
            return
        await connection.write(STREAM_HEAD)
        for event in events(words, said):
            await connection.write(chunked(event))
            await asyncio.sleep(gap)
        await connection.write(b"0\r\n\r\n")

    return answer


STREAM_HEAD = head(200, "text/event-stream", Transfer_Encoding="chunked")


def events(words: Words, said: Said) -> list[bytes]:
    """Returns all events of an answer."""
    return [*words.content(said), *words.ending(said)]


def deltas(body: bytes) -> list[str]:
    """Returns the texts of a stream that ended well."""
    assert body.endswith(b"data: [DONE]\n\n"), body[-300:]
    return list(_texts(body))


def _texts(body: bytes) -> Iterable[str]:
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]


def error_of(body: bytes) -> dict[str, Any]:
    """Returns the error that a stream ended with."""
    frames = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    assert frames[-1] == b"[DONE]"
    error: dict[str, Any] = json.loads(frames[-2])["error"]
    return error
