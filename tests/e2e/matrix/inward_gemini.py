"""Asks in the dialect of Google's Gemini API."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import orjson

from tests.e2e.matrix.http_client import HttpClient, Reply, served
from tests.e2e.matrix.words import Answer, Ask, Call, Failed, Tokens, Turn
from tests.support.core import KEY

STATUSES = {
    "INVALID_REQUEST": (400, "INVALID_ARGUMENT"),
    "UNSUPPORTED_FEATURE": (400, "INVALID_ARGUMENT"),
    "PROVIDER_REJECTED": (400, "INVALID_ARGUMENT"),
    "MODEL_NOT_FOUND": (404, "NOT_FOUND"),
    "PROVIDER_RATE_LIMITED": (429, "RESOURCE_EXHAUSTED"),
    "PROVIDER_AUTH": (500, "INTERNAL"),
    "PROVIDER_FAILED": (503, "UNAVAILABLE"),
    "PROVIDER_PROTOCOL": (500, "INTERNAL"),
}
FIELDS = {
    "sampling.seed": "generation_config.seed",
    "sampling.logprobs": "generation_config.response_logprobs",
    "messages[0].parts[1].image": "contents",
    "response_format.json_object": "generation_config.response_mime_type",
}
"""What paths in the contract are called."""
_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}
_ROLES = {"user": "user", "assistant": "model", "tool": "user"}


class Gemini(HttpClient):
    name = "gemini"
    hides: ClassVar = {"tool_calls": "stop"}

    async def ask(self, model: str, ask: Ask, *, stream: bool) -> Answer:
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        headers = {"x-goog-api-key": KEY}
        reply = await self.post(f"/v1beta/models/{model}:{method}", _body(ask), **headers)
        if reply.status != 200:
            raise _failed(reply, reply.json["error"])
        chunks = [orjson.loads(frame) for frame in reply.frames()] if stream else [reply.json]
        return _read(reply, chunks)


def _body(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {
        "contents": [{"role": _ROLES[turn.role], "parts": _parts(turn)} for turn in ask.turns],
    }
    if instructions := [{"text": text} for text in (ask.system, ask.developer) if text]:
        body["systemInstruction"] = {"parts": instructions}
    if ask.tools:
        functions = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
            for tool in ask.tools
        ]
        body["tools"] = [{"functionDeclarations": functions}]
    if ask.tool_choice:
        rule = {"mode": "ANY", "allowedFunctionNames": [ask.tool_choice]}
        body["toolConfig"] = {"functionCallingConfig": rule}
    numbers = {"maxOutputTokens": ask.max_tokens, "temperature": ask.temperature, "seed": ask.seed}
    config: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if ask.stop:
        config["stopSequences"] = list(ask.stop)
    if ask.logprobs:
        config["responseLogprobs"] = True
    if ask.thoughts:
        config["thinkingConfig"] = {"includeThoughts": True}
    if ask.schema is not None:
        config["responseMimeType"] = "application/json"
    if ask.schema:
        config["responseJsonSchema"] = ask.schema
    return body | ({"generationConfig": config} if config else {})


def _parts(turn: Turn) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if turn.thoughts:
        parts.append({"text": turn.thoughts, "thought": True})
        if turn.signature:
            parts[-1]["thoughtSignature"] = _base64(turn.signature)
    if turn.text:
        parts.append({"text": turn.text})
    parts += [{"inlineData": {"mimeType": "image/png", "data": _base64(image)}} for image in turn.images]
    for call in turn.calls:
        parts.append({"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}})
        if call.signature:
            parts[-1]["thoughtSignature"] = _base64(call.signature)
    for result in turn.results:
        value = orjson.loads(result.value)
        parts.append({"functionResponse": {"id": result.call_id, "name": result.name, "response": value}})
    return parts


def _read(reply: Reply, chunks: list[Any]) -> Answer:
    pieces: list[str] = []
    thoughts: list[str] = []
    signature = b""
    calls: list[Call] = []
    finishes: list[str] = []
    usages: list[Any] = []
    logprobs = 0
    for chunk in chunks:
        if "error" in chunk:
            raise _failed(reply, chunk["error"], "".join(pieces))
        usages += filter(None, [chunk.get("usageMetadata")])
        (candidate,) = chunk["candidates"]
        finishes += filter(None, [candidate.get("finishReason")])
        logprobs += len(candidate.get("logprobsResult", {}).get("chosenCandidates", ()))
        for part in candidate["content"]["parts"]:
            signed = base64.b64decode(part.get("thoughtSignature", ""))
            if part.get("thought"):
                thoughts.append(part["text"])
                signature = signed or signature
            elif call := part.get("functionCall"):
                calls.append(Call(call["id"], call["name"], (orjson.dumps(call["args"]).decode(),), signed))
            elif part["text"]:
                pieces.append(part["text"])
    assert len(finishes) == 1
    assert len(usages) <= 1
    return Answer(
        "".join(pieces),
        tuple(pieces),
        "".join(thoughts),
        signature,
        tuple(calls),
        _FINISH[finishes[0]],
        _tokens(usages[0]) if usages else None,
        logprobs,
        served(reply.headers),
    )


def _tokens(usage: dict[str, Any]) -> Tokens:
    thoughts = usage.get("thoughtsTokenCount", 0)
    written = usage["candidatesTokenCount"] + thoughts
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + written
    return Tokens(usage["promptTokenCount"], written, usage.get("cachedContentTokenCount", 0), thoughts)


def _failed(reply: Reply, error: dict[str, Any], said: str = "") -> Failed:
    details = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
    reason = details["ErrorInfo"]["reason"]
    assert (error["code"], error["status"]) == STATUSES[reason]
    assert reply.status in (error["code"], 200)
    violations = details.get("BadRequest", {}).get("fieldViolations", [{"field": ""}])
    retry = details.get("RetryInfo", {}).get("retryDelay", "0s")
    if reply.status != 200:
        assert float(reply.headers.get("retry-after", "0")) == float(retry.removesuffix("s"))
    return Failed(
        reason,
        reply.status,
        error["message"],
        raw=reply.raw,
        field=violations[0]["field"],
        retry_after=float(retry.removesuffix("s")),
        said=said,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
