"""A server that speaks Anthropic's Messages."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.e2e.matrix.outward_http import TROUBLE, Words
from tests.e2e.matrix.words import Call, Result, Said, Seen, Tokens, Tool, Turn, joined
from tests.support.upstream_anthropic import MODEL, PING, block, delta, end, event, start, stop
from tests.support.upstream_server import Request

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error", 500: "api_error"}
_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def _seen(request: Request) -> Seen:
    body = request.json
    turns: list[Turn] = []
    for turn in body["messages"]:
        turns += _turns(turn["role"], turn["content"])
    return Seen(
        tuple(part["text"] for part in body.get("system", ())),
        joined(turns),
        tuple(Tool(one["name"], one["description"], one["input_schema"]) for one in body.get("tools", ())),
        _chosen(body),
        body.get("output_config", {}).get("format", {}).get("schema"),
        body["max_tokens"],
        tuple(body.get("stop_sequences", ())),
        body.get("temperature"),
    )


def _chosen(body: Any) -> str:
    """Returns the tool that must be called; any of one is the same."""
    choice = body.get("tool_choice", {})
    if choice.get("type") == "any":
        (tool,) = body["tools"]
        return str(tool["name"])
    return str(choice.get("name", ""))


def _turns(role: str, content: Any) -> Iterator[Turn]:
    if isinstance(content, str):
        yield Turn(role, content)
        return
    blocks: dict[str, list[Any]] = {}
    for part in content:
        blocks.setdefault(part["type"], []).append(part)
    if results := blocks.pop("tool_result", None):
        yield Turn("tool", results=tuple(Result(one["tool_use_id"], "", one["content"]) for one in results))
        if not blocks:
            return
    thoughts = blocks.get("thinking", ())
    images = [one["source"] for one in blocks.get("image", ())]
    assert all(source["media_type"] == "image/png" for source in images)
    yield Turn(
        role,
        "".join(one["text"] for one in blocks.get("text", ())),
        tuple(base64.b64decode(source["data"]) for source in images),
        "".join(one["thinking"] for one in thoughts),
        "".join(one["signature"] for one in thoughts).encode(),
        tuple(Call(one["id"], one["name"], (json.dumps(one["input"]),)) for one in blocks.get("tool_use", ())),
    )


def _content_events(said: Said) -> Iterator[bytes]:
    usage = _usage(said.tokens)
    yield event(start(usage | {"output_tokens": 1}))
    yield event(PING)
    for index, content in enumerate(_blocks(said)):
        opened = {name: value for name, value in content.items() if name != "pieces"}
        if content["type"] == "tool_use":
            opened["input"] = {}
        yield event(block(index, **opened))
        kind, key = {
            "text": ("text", "text"),
            "thinking": ("thinking", "thinking"),
            "tool_use": ("input_json", "partial_json"),
        }[content["type"]]
        for piece in content["pieces"]:
            yield event(delta(index, kind, **{key: piece}))
        if content["type"] == "thinking" and said.signature:
            yield event(delta(index, "signature", signature=said.signature.decode()))
        yield event(stop(index))


def _blocks(said: Said) -> Iterator[dict[str, Any]]:
    if said.thoughts:
        yield {"type": "thinking", "thinking": "", "pieces": said.thoughts}
    if said.text:
        yield {"type": "text", "text": "", "pieces": said.text}
    for call in said.calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "pieces": call.pieces}


def _ending(said: Said) -> Iterator[bytes]:
    for payload in end(_FINISH[said.finish], _usage(said.tokens)):
        yield event(payload)


def _whole(said: Said) -> Any:
    content = []
    for made in _blocks(said):
        pieces = "".join(made.pop("pieces"))
        match made["type"]:
            case "text":
                made["text"] = pieces
            case "thinking":
                made |= {"thinking": pieces, "signature": said.signature.decode()}
            case "tool_use":
                made["input"] = json.loads(pieces)
        content.append(made)
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": content}
    return answer | {"stop_reason": _FINISH[said.finish], "stop_sequence": None, "usage": _usage(said.tokens)}


def _usage(tokens: Tokens) -> dict[str, Any]:
    """Returns the counts: what the cache gave is counted apart."""
    return {
        "input_tokens": tokens.read - tokens.cached,
        "cache_read_input_tokens": tokens.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": tokens.written,
        "output_tokens_details": {"thinking_tokens": tokens.thoughts},
    }


def _error(status: int) -> Any:
    return {"type": "error", "error": {"type": _TYPES[status], "message": TROUBLE}, "request_id": "req_1"}


WORDS = Words(
    "anthropic_messages",
    MODEL,
    lambda request: request.json.get("stream", False),
    _seen,
    _content_events,
    _ending,
    _whole,
    _error,
    lambda: event(_error(500)),
)
