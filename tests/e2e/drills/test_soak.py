"""Hundreds of streams whose readers leave when they please: nothing leaks, nothing gets stuck, no usage is lost.

A real server in a process of its own. `DRAGOMAN_SOAK_SECONDS` makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.drills.site import DIALECTS, PATIENCE, STREAM_HEAD, deltas, events
from tests.e2e.matrix.outward_http import Words
from tests.e2e.matrix.words import Said, Tokens
from tests.support.server import Server, running_server
from tests.support.upstream_server import Answer, Connection, Request, UpstreamServer, chunked

SECONDS = float(os.environ.get("DRAGOMAN_SOAK_SECONDS", "20"))
STREAMS = 200
"""Streams at a time."""
LEAVING = 0.4
"""Share of the readers that leave early."""
GAP = 0.1
"""Seconds between two pieces of an answer."""

pytestmark = pytest.mark.timeout(SECONDS * 2 + 120)


def upstream(words: Words) -> Answer:
    """Returns what plays answers whose length and usage the question tells."""

    async def answer(request: Request, connection: Connection) -> None:
        numbers = re.search(rb"read (\d+), write (\d+)", request.body)
        assert numbers is not None
        read, written = int(numbers[1]), int(numbers[2])
        said = Said(tuple(f"{number} " for number in range(written)), tokens=Tokens(read, written))
        await connection.write(STREAM_HEAD)
        for event in events(words, said):
            await connection.write(chunked(event))
            await asyncio.sleep(GAP)
        await connection.write(b"0\r\n\r\n")

    return answer


@dataclass
class Soak:
    """The server, and what its readers have seen."""

    server: Server
    session: aiohttp.ClientSession
    random: random.Random
    finished: Counter[str] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: int = 0

    async def read(self, dialect: str) -> None:
        """Reads one answer, or leaves it: before the first token, or within it."""
        read, written = self.random.randint(1, 1000), self.random.randint(2, 20)
        leaves = self.random.random() < LEAVING
        provider = f"{'left' if leaves else 'kept'}-{dialect}"
        body = {
            "model": f"{provider}/{DIALECTS[dialect].model}",
            "messages": [{"role": "user", "content": f"read {read}, write {written}"}],
            "stream": True,
        }
        asking = self.session.post("/v1/chat/completions", json=body)
        if not leaves:
            async with asking as answer:
                assert len(deltas(await answer.read())) == written
            self.finished[provider] += 1
            self.tokens[provider, "input"] += read
            self.tokens[provider, "output"] += written
            return
        self.left += 1
        try:
            async with asyncio.timeout(self.random.uniform(0, (written + 1) * GAP)):
                async with asking as answer:
                    await answer.content.readuntil(b"never said")
        except TimeoutError:
            pass
        except asyncio.IncompleteReadError:
            pass  # it was done before

    async def keep_reading(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.random.uniform(0, 1))
        while loop.time() < until:
            await self.read(self.random.choice(list(DIALECTS)))

    async def metrics(self) -> dict[str, float]:
        async with self.session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def memory(self) -> int:
        """Returns what the server keeps in memory, in KiB."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.server.process.pid}/status").read_text())
        assert found is not None
        return int(found[1])

    def sockets(self) -> int:
        """Returns how many sockets the server has."""
        folder = Path(f"/proc/{self.server.process.pid}/fd")
        return sum(os.readlink(entry).startswith("socket:") for entry in folder.iterdir())


@asynccontextmanager
async def soak(folder: Path) -> AsyncIterator[tuple[Soak, list[UpstreamServer]]]:
    async with AsyncExitStack() as stack:
        servers, config = [], "[runs]\nretention = 1\n"
        for dialect, words in DIALECTS.items():
            server = await stack.enter_async_context(UpstreamServer(upstream(words)))
            servers.append(server)
            for kind in ("kept", "left"):
                config += (
                    f'[[providers]]\nname = "{kind}-{dialect}"\ndialect = "{dialect}"\nbase_url = "{server.url}"\n'
                )
        running = stack.enter_context(running_server(folder, config=config))
        session = aiohttp.ClientSession(
            base_url=running.url,
            headers={"Authorization": f"Bearer {running.key}"},
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            connector=aiohttp.TCPConnector(limit=0),
        )
        await stack.enter_async_context(session)
        yield Soak(running, session, random.Random(7)), servers


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_readers_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    async with soak(tmp_path) as (found, servers):
        loop = asyncio.get_running_loop()
        begin, own_sockets = loop.time(), found.sockets()
        reading = asyncio.gather(*(found.keep_reading(begin + SECONDS) for _ in range(STREAMS)))
        early, late = await peaks(found, begin)
        await reading
        metrics = await settled(found)
        assert late <= early * 1.05, f"memory grew from {early} to {late} KiB"
        assert_usage(found, metrics)
        assert_quiet(found, metrics, own_sockets + sum(len(server.connections) for server in servers))


async def peaks(found: Soak, begin: float) -> tuple[int, int]:
    """Returns the most memory in the third quarter of the time and in the last one: the first half warms up."""
    loop = asyncio.get_running_loop()
    peak = {2: 0, 3: 0}
    while (quarter := int((loop.time() - begin) / SECONDS * 4)) < 4:
        if quarter in peak:
            peak[quarter] = max(peak[quarter], found.memory())
        await asyncio.sleep(0.1)
    return peak[2], peak[3]


async def settled(found: Soak) -> dict[str, float]:
    """Returns the metrics once no run goes on."""
    async with asyncio.timeout(PATIENCE):
        while (metrics := await found.metrics())["dragoman_runs_active"] > 0:
            await asyncio.sleep(0.1)
    return metrics


def assert_usage(found: Soak, metrics: dict[str, float]) -> None:
    assert found.left > 0
    assert sum(found.finished.values()) > 0
    for provider, count in found.finished.items():
        assert metrics[f'dragoman_runs_total{{provider="{provider}",state="completed"}}'] == count
        for direction in ("input", "output"):
            told = metrics[f'dragoman_tokens_total{{direction="{direction}",provider="{provider}"}}']
            assert told == found.tokens[provider, direction]
    ended = sum(value for name, value in metrics.items() if name.startswith("dragoman_runs_total{"))
    begun = sum(found.finished.values()) + found.left
    assert begun - found.left <= ended <= begun, "who leaves at once may never have been heard"
    states = {name.rpartition("=")[2] for name in metrics if name.startswith("dragoman_runs_total{")}
    assert states == {'"completed"}', '"cancelled"}'}
    for dialect in DIALECTS:
        assert metrics[f'dragoman_tokens_total{{direction="output",provider="left-{dialect}"}}'] > 0


def assert_quiet(found: Soak, metrics: dict[str, float], other_sockets: int) -> None:
    assert metrics["dragoman_http_open_streams"] == 0
    in_flight = [value for name, value in metrics.items() if name.startswith("dragoman_target_in_flight{")]
    assert len(in_flight) == 2 * len(DIALECTS)
    assert sum(in_flight) == 0
    assert found.sockets() <= other_sockets + metrics["dragoman_http_open_connections"]
