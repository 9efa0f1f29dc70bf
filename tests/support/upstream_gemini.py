"""Answers of `UpstreamServer` in the shapes of the Gemini API; they play the script of the last user message."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.event_pb2 import FinishReason, RunEvent, TokenLogprob
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import DragomanError
from dragoman_server.providers.base import GenerationFailed, GenerationRequest, iterate
from dragoman_server.providers.scripted import ScriptedProvider
from tests.support.upstream_server import chunked, cut, event, head, prompt_count, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tests.support.upstream_server import Answer, Connection, Request

STREAM = "streamGenerateContent?alt=sse"
_ROLES = {"user": Role.ROLE_USER, "model": Role.ROLE_ASSISTANT}
_FINISH = {
    FinishReason.FINISH_REASON_STOP: "STOP",
    FinishReason.FINISH_REASON_TOOL_CALLS: "STOP",
    FinishReason.FINISH_REASON_LENGTH: "MAX_TOKENS",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "SAFETY",
}


def chunk(*parts: dict[str, Any], finish: str | None = None, usage: Any = None, **fields: Any) -> dict[str, Any]:
    """Returns a chunk of the API, or a whole answer; `fields` are the candidate's."""
    candidate: dict[str, Any] = {"index": 0, **fields}
    if parts:
        candidate["content"] = {"parts": list(parts), "role": "model"}
    if finish is not None:
        candidate["finishReason"] = finish
    answer: dict[str, Any] = {"candidates": [candidate], "modelVersion": "m-001", "responseId": "r1"}
    return answer if usage is None else {**answer, "usageMetadata": usage}


def text(words: str, **fields: Any) -> dict[str, Any]:
    return chunk({"text": words}, **fields)


def error(code: int, message: str, status: str, *details: dict[str, Any]) -> dict[str, Any]:
    """Returns an error object of the API; each detail is a message of google.rpc without its package."""
    typed = [{**detail, "@type": f"type.googleapis.com/google.rpc.{detail['@type']}"} for detail in details]
    return {"error": {"code": code, "message": message, "status": status, **({"details": typed} if typed else {})}}


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "RetryInfo", "retryDelay": delay}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def generate(packet_size: int | None = None) -> Answer:
    """Returns an answer that plays the script of the request, in packets of a size.

    A failure before the first event is a status, one after it an error frame; a break is a cut connection.
    """

    async def answer(request: Request, connection: Connection) -> None:
        async def write(data: bytes) -> None:
            for piece in cut(data, packet_size or len(data) or 1):
                await connection.write(piece)

        target = request.head.split(" ")[1]
        streams = target.endswith(f":{STREAM}")
        assert streams or target.endswith(":generateContent"), target
        played = _Played()
        started = False
        try:
            spec = _spec(request.json)
            count = prompt_count(spec)
            so_far = {} if count is None else {"usageMetadata": {"promptTokenCount": count, "totalTokenCount": count}}
            generation = GenerationRequest(spec, "echo", incremental=streams)
            async for batch in iterate(ScriptedProvider("upstream"), generation):
                if streams and not started:
                    started = True
                    await write(head(200, "text/event-stream", Transfer_Encoding="chunked"))
                played.add(batch.events)
                if streams:
                    await write(b"".join(chunked(event({**so_far, **piece})) for piece in played.take()))
        except DragomanError as failed:
            await _fail(failed, write, connection, started=started)
            return
        if streams:
            await write(b"0\r\n\r\n")
        else:
            await write(whole(200, orjson.dumps(_joined(played.take()))))

    return answer


async def _fail(
    failed: DragomanError, write: Callable[[bytes], Awaitable[None]], connection: Connection, *, started: bool
) -> None:
    reason = failed.failure.reason if isinstance(failed, GenerationFailed) else failed.reason
    if reason == "PROVIDER_PROTOCOL":
        connection.transport.close()
        return
    body = error(500, failed.message, "INTERNAL", retry_info("1s"))
    if started:
        await write(chunked(event(body)) + b"0\r\n\r\n")
    else:
        status = 500 if isinstance(failed, GenerationFailed) else 400
        await write(whole(status, orjson.dumps(body)))


def _spec(body: dict[str, Any]) -> ChatSpec:
    """Returns as much of the request as a scripted answer depends on."""
    spec = ChatSpec()
    for content in body["contents"]:
        message = spec.messages.add(role=_ROLES[content["role"]])
        message.parts.add().text.text = "".join(part.get("text", "") for part in content["parts"])
    config = body.get("generationConfig", {})
    spec.sampling.stop.extend(config.get("stopSequences", ()))
    if "maxOutputTokens" in config:
        spec.sampling.max_output_tokens = config["maxOutputTokens"]
    spec.sampling.logprobs = config.get("responseLogprobs", False)
    spec.sampling.top_logprobs = config.get("logprobs", 0)
    if "responseJsonSchema" in config:
        spec.response_format.json_schema.schema_json = orjson.dumps(config["responseJsonSchema"]).decode()
    elif config.get("responseMimeType") == "application/json":
        spec.response_format.json_object.SetInParent()
    return spec


class _Played:
    """Turns the events of a scripted answer into chunks: calls come whole, finish and usage come together."""

    def __init__(self) -> None:
        self._chunks: list[dict[str, Any]] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, str] = {}

    def take(self) -> list[dict[str, Any]]:
        taken, self._chunks = self._chunks, []
        return taken

    def add(self, events: Iterable[RunEvent]) -> None:
        for item in events:
            match item.WhichOneof("kind"):
                case "text_delta":
                    delta = item.text_delta
                    scores = {"logprobsResult": _logprobs(delta.logprobs)} if delta.logprobs else {}
                    self._chunks.append(text(delta.text, **scores))
                case "reasoning_delta":
                    self._chunks.append(chunk({"text": item.reasoning_delta.text, "thought": True}))
                case "tool_call_started":
                    started = item.tool_call_started
                    self._calls[started.call_index] = {"id": started.call_id, "name": started.name}
                    self._arguments[started.call_index] = ""
                case "tool_call_arguments_delta":
                    fragment = item.tool_call_arguments_delta
                    self._arguments[fragment.call_index] += fragment.arguments
                case "tool_call_completed":
                    index = item.tool_call_completed.call_index
                    arguments = orjson.loads(self._arguments[index] or b"{}")
                    self._chunks.append(chunk({"functionCall": {**self._calls[index], "args": arguments}}))
                case "choice_finished":
                    self._chunks.append(chunk(finish=_FINISH[item.choice_finished.finish_reason]))
                case "usage_reported":
                    self._chunks.append({"usageMetadata": _usage(item)})


def _joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the one answer that chunks make, texts of one kind in a row being one part."""
    parts: list[dict[str, Any]] = []
    answer = chunk()
    candidate = answer["candidates"][0]
    candidate["content"] = {"parts": parts, "role": "model"}
    for piece in chunks:
        answer.update({key: value for key, value in piece.items() if key == "usageMetadata"})
        for source in piece.get("candidates", ()):
            if "finishReason" in source:
                candidate["finishReason"] = source["finishReason"]
            for name, scores in source.get("logprobsResult", {}).items():
                candidate.setdefault("logprobsResult", {}).setdefault(name, []).extend(scores)
            for part in source.get("content", {}).get("parts", ()):
                if parts and "text" in part and parts[-1].keys() == part.keys():
                    parts[-1] = {**part, "text": parts[-1]["text"] + part["text"]}
                else:
                    parts.append(part)
    return answer


def _usage(item: RunEvent) -> dict[str, Any]:
    usage = item.usage_reported.last_call
    thoughts = usage.output_details.reasoning_tokens
    return {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }


def _logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    tokens = list(tokens)
    return {
        "chosenCandidates": [{"token": token.token, "logProbability": token.logprob} for token in tokens],
        "topCandidates": [
            {"candidates": [{"token": top.token, "logProbability": top.logprob} for top in token.top]}
            for token in tokens
        ],
    }
