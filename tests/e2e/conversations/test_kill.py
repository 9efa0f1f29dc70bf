"""Whatever turn was acknowledged is there after the server was killed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp

from tests.support.server import KEY, running_server

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 16
ENOUGH = 120
HEADERS = {"Authorization": f"Bearer {KEY}"}


async def talk_until_killed(url: str, kill: asyncio.Event) -> tuple[list[str], list[tuple[str, str]]]:
    """Has turns in four conversations till the server is gone; returns those, and the questions that were answered."""
    answered: list[tuple[str, str]] = []
    async with aiohttp.ClientSession(url, headers=HEADERS) as client:
        names = []
        for _ in range(4):
            async with client.post("/v1/conversations", json={}) as made:
                names.append((await made.json())["conversation"]["id"])

        async def work(worker: int) -> None:
            for number in range(10_000):
                question, name = f"w{worker}n{number}", names[number % 4]
                body = {"messages": [{"role": "user", "content": question}], "stream": bool(worker % 2)}
                headers = {"X-Dragoman-Conversation": name}
                async with client.post("/v1/chat/completions", json=body, headers=headers) as answer:
                    said = await answer.text()
                if body["stream"] and "[DONE]" not in said:
                    continue
                answered.append((name, question))
                if len(answered) == ENOUGH:
                    kill.set()

        async def until_gone(worker: int) -> None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await work(worker)

        await asyncio.wait_for(asyncio.gather(*map(until_gone, range(WORKERS))), 90)
    return names, answered


async def test_no_acknowledged_turn_is_lost(tmp_path: Path) -> None:
    kill = asyncio.Event()
    with running_server(tmp_path) as server:
        talking = asyncio.create_task(talk_until_killed(server.url, kill))
        await asyncio.wait_for(kill.wait(), 90)
        server.process.kill()
        names, answered = await talking
    assert len(answered) >= ENOUGH
    with running_server(tmp_path) as server:
        async with aiohttp.ClientSession(server.url, headers=HEADERS) as client:
            for name in names:
                async with client.get(f"/v1/conversations/{name}/messages?page_size=1000") as listed:
                    messages = (await listed.json())["messages"]
                assert [message.get("parent_id", "") for message in messages[1:]] == [
                    one["id"] for one in messages[:-1]
                ]
                roles = [message["message"]["role"] for message in messages]
                assert roles == ["ROLE_USER", "ROLE_ASSISTANT"] * (len(messages) // 2)
                kept = {message["message"]["parts"][0]["text"]["text"] for message in messages[::2]}
                assert {question for of, question in answered if of == name} <= kept
