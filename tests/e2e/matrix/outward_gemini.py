"""A server that speaks Google's Gemini API."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.e2e.matrix.outward_http import TROUBLE, Words
from tests.e2e.matrix.words import Call, Result, Said, Seen, Tokens, Tool, Turn, joined
from tests.support.upstream_gemini import STREAM, base64_of, chunk, error
from tests.support.upstream_server import Request, event

_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
_UNSIGNED = "skip_thought_signature_validator"
"""What the API takes in place of a signature that nobody has kept."""


def _seen(request: Request) -> Seen:
    body = request.json
    config = body.get("generationConfig", {})
    functions = [one for tool in body.get("tools", ()) for one in tool["functionDeclarations"]]
    choice = body.get("toolConfig", {}).get("functionCallingConfig", {})
    schema = config.get("responseJsonSchema")
    if schema is None and config.get("responseMimeType") == "application/json":
        schema = {}
    return Seen(
        tuple(part["text"] for part in body.get("systemInstruction", {}).get("parts", ())),
        joined([_turn(content) for content in body["contents"]]),
        tuple(Tool(one["name"], one["description"], one["parametersJsonSchema"]) for one in functions),
        choice["allowedFunctionNames"][0] if choice.get("mode") == "ANY" else "",
        schema,
        config.get("maxOutputTokens"),
        tuple(config.get("stopSequences", ())),
        config.get("temperature"),
        config.get("seed"),
        config.get("responseLogprobs", False),
    )


def _turn(content: Any) -> Turn:
    role = {"user": "user", "model": "assistant"}[content["role"]]
    turn: dict[str, Any] = {"text": "", "images": (), "thoughts": "", "signature": b"", "calls": (), "results": ()}
    for part in content["parts"]:
        signed = (
            b"" if part.get("thoughtSignature") == _UNSIGNED else base64.b64decode(part.get("thoughtSignature", ""))
        )
        if call := part.get("functionCall"):
            turn["calls"] += (Call(call["id"], call["name"], (json.dumps(call["args"]),), signed),)
        elif result := part.get("functionResponse"):
            role = "tool"
            turn["results"] += (Result(result["id"], "", json.dumps(result["response"])),)
        elif blob := part.get("inlineData"):
            assert blob["mimeType"] == "image/png"
            turn["images"] += (base64.b64decode(blob["data"]),)
        else:
            turn["thoughts" if part.get("thought") else "text"] += part["text"]
            turn["signature"] += signed
    return Turn(role, **turn)


def _content_events(said: Said) -> Iterator[bytes]:
    """The API repeats the usage so far in every chunk; calls come whole."""
    usage = _usage(said.tokens)
    so_far = {"promptTokenCount": usage["promptTokenCount"], "totalTokenCount": usage["promptTokenCount"]}
    for index, thought in enumerate(said.thoughts):
        part: dict[str, Any] = {"text": thought, "thought": True}
        if said.signature and index == len(said.thoughts) - 1:
            part["thoughtSignature"] = base64_of(said.signature)
        yield event(chunk(part, usage=so_far))
    for text in said.text:
        yield event(chunk({"text": text}, usage=so_far, **_scores(said, text)))
    for call in said.calls:
        yield event(chunk(_call(call), usage=so_far))


def _scores(said: Said, *texts: str) -> dict[str, Any]:
    if not said.logprobs:
        return {}
    return {"logprobsResult": {"chosenCandidates": [{"token": text, "logProbability": -0.5} for text in texts]}}


def _call(call: Call) -> dict[str, Any]:
    part: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
    return part | ({"thoughtSignature": base64_of(call.signature)} if call.signature else {})


def _ending(said: Said) -> Iterator[bytes]:
    yield event(chunk({"text": ""}, finish=_FINISH[said.finish], usage=_usage(said.tokens)))


def _whole(said: Said) -> Any:
    parts: list[dict[str, Any]] = []
    if said.thoughts:
        parts.append({"text": "".join(said.thoughts), "thought": True})
        if said.signature:
            parts[-1]["thoughtSignature"] = base64_of(said.signature)
    if said.text:
        parts.append({"text": "".join(said.text)})
    parts += map(_call, said.calls)
    usage = _usage(said.tokens)
    return chunk(*parts, finish=_FINISH[said.finish], usage=usage, **_scores(said, *said.text))


def _usage(tokens: Tokens) -> dict[str, Any]:
    """Returns the counts: thoughts are counted apart from the candidates."""
    counts = {
        "promptTokenCount": tokens.read,
        "cachedContentTokenCount": tokens.cached,
        "candidatesTokenCount": tokens.written - tokens.thoughts,
        "thoughtsTokenCount": tokens.thoughts,
        "totalTokenCount": tokens.read + tokens.written,
    }
    return {name: count for name, count in counts.items() if count}


def _error(status: int) -> Any:
    return error(status, TROUBLE, _STATUSES[status])


WORDS = Words(
    "gemini",
    "gemini-3-pro-preview",
    lambda request: request.head.split(" ")[1].endswith(f":{STREAM}"),
    _seen,
    _content_events,
    _ending,
    _whole,
    _error,
    lambda: event(_error(500)),
)
