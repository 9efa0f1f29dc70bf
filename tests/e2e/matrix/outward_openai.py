"""A server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from tests.e2e.matrix.outward_http import TROUBLE, Words
from tests.e2e.matrix.words import Call, Result, Said, Seen, Tokens, Tool, Turn, joined
from tests.support.upstream_server import DONE, Request, chunk, event

_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 429: "requests", 500: "server_error"}


def _seen(request: Request) -> Seen:
    body = request.json
    instructions: list[str] = []
    turns: list[Turn] = []
    for message in body["messages"]:
        texts, images = _content(message.get("content"))
        match message["role"]:
            case "system" | "developer":
                instructions += texts
            case "tool":
                turns.append(Turn("tool", results=(Result(message["tool_call_id"], "", texts[0]),)))
            case role:
                calls = tuple(
                    Call(one["id"], one["function"]["name"], (one["function"]["arguments"],), _signature(one))
                    for one in message.get("tool_calls", ())
                )
                thoughts = message.get("reasoning_content", "")
                turns.append(Turn(role, "".join(texts), tuple(images), thoughts, calls=calls))
    form = body.get("response_format", {})
    schema = {} if form.get("type") == "json_object" else form.get("json_schema", {}).get("schema")
    functions = [tool["function"] for tool in body.get("tools", ())]
    return Seen(
        tuple(instructions),
        joined(turns),
        tuple(Tool(one["name"], one["description"], one["parameters"]) for one in functions),
        _chosen(body.get("tool_choice")),
        schema,
        body.get("max_completion_tokens", body.get("max_tokens")),
        tuple(body.get("stop", ())),
        body.get("temperature"),
        body.get("seed"),
        body.get("logprobs", False),
    )


def _chosen(choice: Any) -> str:
    """Returns the tool that must be called; a list of one that must is the same."""
    if not isinstance(choice, dict):
        return choice or ""
    if choice["type"] == "allowed_tools":
        assert choice["allowed_tools"]["mode"] == "required"
        (choice,) = choice["allowed_tools"]["tools"]
    name: str = choice["function"]["name"]
    return name


def _content(content: Any) -> tuple[list[str], list[bytes]]:
    if isinstance(content, str):
        return [content], []
    parts = content or []
    texts = [part["text"] for part in parts if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return texts, [base64.b64decode(url.partition(",")[2]) for url in urls]


def _content_events(said: Said) -> Iterator[bytes]:
    yield event(chunk({"role": "assistant", "content": ""}))
    for thought in said.thoughts:
        yield event(chunk({"reasoning_content": thought}))
    for text in said.text:
        scores: dict[str, Any] = {"logprobs": {"content": [_logprob(text)]}} if said.logprobs else {}
        yield event(chunk({"content": text}, **scores))
    for index, call in enumerate(said.calls):
        function = {"name": call.name, "arguments": ""}
        yield _call_event({"index": index, "id": call.id, "type": "function", "function": function, **_proof(call)})
    # The arguments of parallel calls in turns: an index tells which is meant.
    for row in zip_longest(*(call.pieces for call in said.calls)):
        for index, piece in enumerate(row):
            if piece is not None:
                yield _call_event({"index": index, "function": {"arguments": piece}})


def _proof(call: Call) -> dict[str, Any]:
    """Returns the member of a call that holds its signature, as Google extends the dialect."""
    if not call.signature:
        return {}
    return {"extra_content": {"google": {"thought_signature": base64.b64encode(call.signature).decode()}}}


def _signature(call: dict[str, Any]) -> bytes:
    return base64.b64decode(call["extra_content"]["google"]["thought_signature"]) if "extra_content" in call else b""


def _call_event(call: dict[str, Any]) -> bytes:
    return event(chunk({"tool_calls": [call]}))


def _ending(said: Said) -> Iterator[bytes]:
    yield event(chunk({}, said.finish))
    yield event({**chunk(), "choices": [], "usage": _usage(said.tokens)})
    yield DONE


def _whole(said: Said) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(said.text) or None}
    if said.thoughts:
        message["reasoning_content"] = "".join(said.thoughts)
    if said.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.pieces)},
                **_proof(call),
            }
            for call in said.calls
        ]
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": said.finish}
    if said.logprobs:
        choice["logprobs"] = {"content": [_logprob(text) for text in said.text]}
    answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return {**answer, "usage": _usage(said.tokens)}


def _logprob(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.read,
        "completion_tokens": tokens.written,
        "total_tokens": tokens.read + tokens.written,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.thoughts},
    }


def _error(status: int) -> Any:
    return {"error": {"message": TROUBLE, "type": _TYPES[status], "param": None, "code": None}}


WORDS = Words(
    "openai_chat",
    "gpt-4.1-mini",
    lambda request: request.json.get("stream", False),
    _seen,
    _content_events,
    _ending,
    _whole,
    _error,
    lambda: event(_error(500)),
)
