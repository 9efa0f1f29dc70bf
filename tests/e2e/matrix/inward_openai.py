"""Asks in the dialect of OpenAI's chat completions."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from tests.e2e.matrix.http_client import BEARER, HttpClient, Reply, served
from tests.e2e.matrix.words import Answer, Ask, Call, Failed, Tokens, Turn

REASONS = {
    (400, "invalid_value"): "INVALID_REQUEST",
    (400, "unsupported_feature"): "UNSUPPORTED_FEATURE",
    (400, "provider_rejected"): "PROVIDER_REJECTED",
    (404, "model_not_found"): "MODEL_NOT_FOUND",
    (429, "rate_limit_exceeded"): "PROVIDER_RATE_LIMITED",
    (502, "provider_auth"): "PROVIDER_AUTH",
    (502, "provider_failed"): "PROVIDER_FAILED",
    (502, "provider_protocol"): "PROVIDER_PROTOCOL",
}
"""What statuses and codes mean; within a stream the code alone must do."""
FIELDS = {
    "sampling.seed": "seed",
    "sampling.logprobs": "logprobs",
    "messages[0].parts[1].image": "messages[0].content[1].image_url",
}
"""What paths in the contract are called."""


class OpenAI(HttpClient):
    name = "openai"
    hides: ClassVar[dict[str, str]] = {}

    async def ask(self, model: str, ask: Ask, *, stream: bool) -> Answer:
        body = _body(model, ask)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        reply = await self.post("/v1/chat/completions", body, authorization=BEARER)
        if reply.status != 200:
            raise _failed(reply, reply.json["error"])
        return _streamed(reply) if stream else _whole(reply)


def _body(model: str, ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model}
    messages: list[dict[str, Any]] = []
    for role, text in (("system", ask.system), ("developer", ask.developer)):
        if text:
            messages.append({"role": role, "content": text})
    for turn in ask.turns:
        messages += _messages(turn)
    body["messages"] = messages
    if ask.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in ask.tools
        ]
    if ask.tool_choice:
        body["tool_choice"] = {"type": "function", "function": {"name": ask.tool_choice}}
    if ask.schema == {}:
        body["response_format"] = {"type": "json_object"}
    elif ask.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": ask.schema, "strict": True},
        }
    if ask.stop:
        body["stop"] = list(ask.stop)
    numbers = {"max_completion_tokens": ask.max_tokens, "temperature": ask.temperature, "seed": ask.seed}
    body |= {name: value for name, value in numbers.items() if value is not None}
    if ask.logprobs:
        body["logprobs"] = True
    return body


def _messages(turn: Turn) -> list[dict[str, Any]]:
    if turn.role == "tool":
        return [{"role": "tool", "tool_call_id": one.call_id, "content": one.value} for one in turn.results]
    message: dict[str, Any] = {"role": turn.role, "content": turn.text or None}
    if turn.images:
        pictures = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in turn.images]
        parts = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
        message["content"] = [{"type": "text", "text": turn.text}, *parts]
    if turn.thoughts:
        message["reasoning_content"] = turn.thoughts
    if turn.calls:
        message["tool_calls"] = list(map(_call, turn.calls))
    return [message]


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": "".join(call.pieces)}
    made: dict[str, Any] = {"id": call.id, "type": "function", "function": function}
    if call.signature:
        made["extra_content"] = {"google": {"thought_signature": base64.b64encode(call.signature).decode()}}
    return made


def _signature(call: dict[str, Any]) -> bytes:
    return base64.b64decode(call["extra_content"]["google"]["thought_signature"]) if "extra_content" in call else b""


def _whole(reply: Reply) -> Answer:
    completion = reply.json
    assert completion["object"] == "chat.completion"
    (choice,) = completion["choices"]
    message = choice["message"]
    calls = [
        Call(one["id"], one["function"]["name"], (one["function"]["arguments"],), _signature(one))
        for one in message.get("tool_calls", ())
    ]
    return Answer(
        message["content"] or "",
        (),
        message.get("reasoning_content", ""),
        b"",
        tuple(calls),
        choice["finish_reason"],
        _tokens(completion.get("usage")),
        len((choice["logprobs"] or {}).get("content") or ()),
        served(reply.headers),
    )


def _streamed(reply: Reply) -> Answer:
    frames = reply.frames()
    assert frames[-1] == b"[DONE]"
    pieces: list[str] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    finishes: list[str] = []
    tokens = None
    logprobs = 0
    roles = 0
    for frame in map(orjson.loads, frames[:-1]):
        if "error" in frame:
            raise _failed(reply, frame["error"], "".join(pieces))
        assert frame["object"] == "chat.completion.chunk"
        if not frame["choices"]:
            tokens = _tokens(frame["usage"])
            continue
        (choice,) = frame["choices"]
        delta = choice["delta"]
        roles += "role" in delta
        pieces += filter(None, [delta.get("content")])
        thoughts += filter(None, [delta.get("reasoning_content")])
        for part in delta.get("tool_calls", ()):
            _take_call(part, calls)
        finishes += filter(None, [choice["finish_reason"]])
        logprobs += len((choice["logprobs"] or {}).get("content") or ())
    assert roles == len(finishes) == 1
    return Answer(
        "".join(pieces),
        tuple(pieces),
        "".join(thoughts),
        b"",
        tuple(calls),
        finishes[0],
        tokens,
        logprobs,
        served(reply.headers),
    )


def _take_call(part: dict[str, Any], calls: list[Call]) -> None:
    function = part["function"]
    if "id" in part:
        assert part["index"] == len(calls), "calls begin in order, and once"
        calls.append(Call(part["id"], function["name"], (function["arguments"],), _signature(part)))
    else:
        call = calls[part["index"]]
        calls[part["index"]] = replace(call, pieces=(*call.pieces, function["arguments"]))


def _tokens(usage: dict[str, Any] | None) -> Tokens | None:
    if usage is None:
        return None
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return Tokens(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0),
    )


def _failed(reply: Reply, error: dict[str, Any], said: str = "") -> Failed:
    assert error.keys() == {"message", "type", "param", "code"}
    codes = {code: reason for (_, code), reason in REASONS.items()}
    reason = codes[error["code"]] if reply.status == 200 else REASONS[reply.status, error["code"]]
    return Failed(
        reason,
        reply.status,
        error["message"],
        raw=reply.raw,
        field=error["param"] or "",
        retry_after=float(reply.headers.get("retry-after", "0")),
        said=said,
    )
