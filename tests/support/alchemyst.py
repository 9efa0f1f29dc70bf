"""Requests of the chat API, as its clients make them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

CHAT = "/api/v1/chat"
UNUSED_ID = "64a7f92e9b4f20c5d7f1aabc"


def user(text: str, **members: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **members}


def assistant(text: str, **members: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **members}


def script(**members: Any) -> dict[str, Any]:
    """A question whose answer is scripted."""
    return user(f"SCRIPT {json.dumps(members)}")


async def call(
    client: aiohttp.ClientSession, method: str, path: str, status: int, body: Any = None, **options: Any
) -> Any:
    """Returns the JSON of an answer, whose status is checked."""
    async with client.request(method, path, json=body, **options) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def generate(client: aiohttp.ClientSession, *history: Any, status: int = 201, **fields: Any) -> Any:
    return await call(client, "POST", f"{CHAT}/generate", status, {"chat_history": history, **fields})


async def stream(client: aiohttp.ClientSession, *history: Any, query: str = "", **fields: Any) -> list[Any]:
    """Returns the frames of a stream, which must end as it should."""
    body = {"chat_history": history, **fields}
    async with client.post(f"{CHAT}/generate/stream{query}", json=body) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        wire = await response.text()
    frames = [line.removeprefix("data: ") for line in wire.splitlines() if line.startswith("data:")]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


async def fetch(client: aiohttp.ClientSession, chat_id: str) -> Any:
    return (await call(client, "GET", f"{CHAT}/fetch/{chat_id}", 200))["data"]


async def said(client: aiohttp.ClientSession, chat_id: str) -> list[str]:
    return [message["message"] for message in (await fetch(client, chat_id))["messages"]]


async def chat_ids(client: aiohttp.ClientSession) -> list[str]:
    return [chat["id"] for chat in (await call(client, "GET", f"{CHAT}/history", 200))["chats"]]
