"""Plays every scenario with the Alchemyst SDK that this interpreter has, and prints what came of each as JSON.

Run by test_sdks.py; `sdk_node.mjs` is its twin and prints the same. The SDK has no methods for chats; its general ones
reach them.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import httpx
from alchemyst_ai import AlchemystAI, APIStatusError, __version__

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_URL, KEY = sys.argv[1:3]
CHAT = "/api/v1/chat"
HISTORY = [{"role": "user", "content": "hello there", "id": "m-1"}]


def client(key: str = KEY) -> AlchemystAI:
    return AlchemystAI(base_url=BASE_URL, api_key=key, max_retries=0, timeout=60)


sdk = client()


def post(path: str, body: object, asking: AlchemystAI = sdk, **params: object) -> Any:
    return asking.post(CHAT + path, cast_to=object, body=body, options={"params": params})


def get(path: str) -> Any:
    return sdk.get(CHAT + path, cast_to=object)


def stream(body: object) -> list[Any]:
    response = sdk.post(f"{CHAT}/generate/stream", cast_to=httpx.Response, body=body)
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data:")]


def failure(call: Callable[[], object]) -> Any:
    try:
        call()
    except APIStatusError as error:
        return [error.status_code, sorted(error.body)]
    return None


direct = post("", {"chat_history": HISTORY})
made = post("/generate", {"chat_history": HISTORY, "persona": "maya"}, title="From the query", username="joe")
chat_id = made["chatId"]
longer = [*HISTORY, {"role": "assistant", "content": made["result"]["message"]}, {"role": "user", "content": "more"}]
*frames, done = stream({"chat_history": longer, "chatId": chat_id})
final, metadata = (json.loads(frame) for frame in frames[-2:])
chat = get(f"/fetch/{chat_id}")["data"]
fork = post("/fork", {"chatId": chat_id, "messageId": "m-1"})
pinned = sdk.put(f"{CHAT}/{chat_id}/pin", cast_to=object, body={"pinned": True})
renamed = sdk.patch(f"{CHAT}/{chat_id}", cast_to=object, body={"title": "Renamed"})
saved = post("/new", {"title": "Saved", "messages": HISTORY})
deleted = sdk.delete(f"{CHAT}/{saved['chatId']}", cast_to=object)
found = {
    "version": __version__,
    "direct": direct["result"],
    "generated": [made["result"]["response"]["kwargs"]["content"], made["title"]],
    "stream": [done, final["content"], metadata["content"]["chatId"] == chat_id],
    "chat": [[message["message"] for message in chat["messages"]], chat["username"]],
    "fork": [message["message"] for message in get(f"/fetch/{fork['forkedChatId']}")["data"]["messages"]],
    "changed": [pinned["data"]["pinned"], renamed["data"]["title"]],
    "deleted": deleted["chatId"] == saved["chatId"],
    "history": len(get("/history")["chats"]),
    "key": sorted(sdk.get("/api/v1/settings/api-keys/validate", cast_to=object)),
    "failures": [
        failure(lambda: post("/generate", {})),
        failure(lambda: post("/generate", {"chat_history": HISTORY}, client("wrong"))),
        failure(lambda: get(f"/fetch/{saved['chatId']}")),
        failure(lambda: post("/new", {})),
    ],
}
json.dump(found, sys.stdout)
