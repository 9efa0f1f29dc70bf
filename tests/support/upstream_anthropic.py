"""A server that answers in the Anthropic Messages dialect, playing the script that the last user message brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman.v1.event_pb2 import FinishReason, RunEvent
from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import DragomanError
from dragoman_server.providers.base import GenerationFailed, GenerationRequest, iterate
from dragoman_server.providers.scripted import ScriptedProvider
from tests.support.upstream_server import chunked, cut, head, prompt_count, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.upstream_server import Answer, Connection, Request

MODEL = "claude-haiku-4-5"


def event(payload: dict[str, Any]) -> bytes:
    """Returns an SSE event of the dialect: it is named after its type."""
    return f"event: {payload['type']}\ndata: {orjson.dumps(payload).decode()}\n\n".encode()


def start(usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns how every stream begins."""
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
    }
    return {"type": "message_start", "message": {**message, "usage": usage} if usage is not None else message}


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, kind: str, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **content}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str, usage: dict[str, Any] | None = None, **fields: Any) -> list[dict[str, Any]]:
    """Returns how every good stream ends."""
    told = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None, **fields}}
    return [{**told, "usage": usage} if usage is not None else told, {"type": "message_stop"}]


PING = {"type": "ping"}


def error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def messages(packet_size: int | None = None) -> Answer:
    """Returns an answer in packets of a size. A failure before the first event is a status, one after it an error
    event; a break is a closed connection."""

    async def answer(request: Request, connection: Connection) -> None:
        async def write(data: bytes) -> None:
            for piece in cut(data, packet_size or len(data) or 1):
                await connection.write(piece)

        streams = request.json.get("stream", False)
        provider = ScriptedProvider("upstream")
        player = _Player()
        started = False
        try:
            spec = _spec(request.json)
            count = prompt_count(spec)
            so_far = None if count is None else {"input_tokens": count, "output_tokens": 1}
            async for batch in iterate(provider, GenerationRequest(spec, "echo", incremental=streams)):
                if streams and not started:
                    started = True
                    await write(head(200, "text/event-stream; charset=utf-8", Transfer_Encoding="chunked"))
                    await write(chunked(event(start(so_far))) + chunked(event(PING)))
                for item in batch.events:
                    payloads = list(player.play(item))
                    if streams:
                        await write(b"".join(chunked(event(payload)) for payload in payloads))
        except DragomanError as failure:
            await _fail(failure, write, connection, started=started)
            return
        if streams:
            await write(b"".join(chunked(event(payload)) for payload in player.finish()) + b"0\r\n\r\n")
        else:
            await write(whole(200, orjson.dumps(player.whole())))

    return answer


async def _fail(
    failure: DragomanError, write: Callable[[bytes], Awaitable[None]], connection: Connection, *, started: bool
) -> None:
    reason = failure.failure.reason if isinstance(failure, GenerationFailed) else failure.reason
    if reason == "PROVIDER_PROTOCOL":
        connection.transport.close()
        return
    body = error("api_error", failure.message)
    if started:
        await write(chunked(event(body)) + b"0\r\n\r\n")
    else:
        await write(whole(500 if isinstance(failure, GenerationFailed) else 400, orjson.dumps(body), Retry_After=1))


def _spec(body: dict[str, Any]) -> ChatSpec:
    """Returns as much of the request as a scripted answer depends on."""
    spec = ChatSpec()
    for entry in body["messages"]:
        message = spec.messages.add(role=Role.Value(f"ROLE_{entry['role'].upper()}"))
        content = entry["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            message.parts.add().text.text = part.get("text", "")
    spec.sampling.stop.extend(body.get("stop_sequences", ()))
    spec.sampling.max_output_tokens = body["max_tokens"]
    if form := body.get("output_config", {}).get("format"):
        assert form["type"] == "json_schema"
        spec.response_format.json_schema.schema_json = orjson.dumps(form["schema"]).decode()
    return spec


_STOP_REASONS = {
    FinishReason.FINISH_REASON_STOP: "end_turn",
    FinishReason.FINISH_REASON_LENGTH: "max_tokens",
    FinishReason.FINISH_REASON_TOOL_CALLS: "tool_use",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "refusal",
}
_SIGNATURE = "c2lnbmF0dXJl"


class _Player:
    """Turns events into those of the dialect, and collects what they say."""

    def __init__(self) -> None:
        self._content: list[dict[str, Any]] = []
        self._open = ""
        self._reason = ""
        self._stop_sequence: str | None = None
        self._usage: dict[str, Any] | None = None

    def play(self, item: RunEvent) -> Iterator[dict[str, Any]]:
        match item.WhichOneof("kind"):
            case "text_delta":
                yield from self._say("text", "text", item.text_delta.text)
            case "reasoning_delta":
                yield from self._say("thinking", "thinking", item.reasoning_delta.text)
            case "tool_call_started":
                call = item.tool_call_started
                yield from self._begin("tool_use", id=call.call_id, name=call.name, input={})
                self._content[-1]["json"] = ""
            case "tool_call_arguments_delta":
                arguments = item.tool_call_arguments_delta.arguments
                self._content[-1]["json"] += arguments
                yield delta(len(self._content) - 1, "input_json", partial_json=arguments)
            case "tool_call_completed":
                yield from self._close()
            case "choice_finished":
                finished = item.choice_finished
                self._stop_sequence = finished.stop_sequence or None
                self._reason = "stop_sequence" if self._stop_sequence else _STOP_REASONS[finished.finish_reason]
            case "usage_reported":
                usage = item.usage_reported.last_call
                self._usage = {
                    "input_tokens": usage.input_tokens,
                    "output_tokens": usage.output_tokens,
                    "output_tokens_details": {"thinking_tokens": usage.output_details.reasoning_tokens},
                }

    def finish(self) -> Iterator[dict[str, Any]]:
        yield from self._close()
        yield from end(self._reason, self._usage, stop_sequence=self._stop_sequence)

    def whole(self) -> dict[str, Any]:
        list(self._close())
        for content in self._content:
            if "json" in content:
                content["input"] = orjson.loads(content.pop("json") or "{}")
        answer: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": self._content,
        }
        answer |= {"stop_reason": self._reason, "stop_sequence": self._stop_sequence}
        return {**answer, "usage": self._usage} if self._usage is not None else answer

    def _say(self, kind: str, key: str, text: str) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._begin(kind, **{key: ""})
        self._content[-1][key] += text
        yield delta(len(self._content) - 1, key, **{key: text})

    def _begin(self, kind: str, **content: Any) -> Iterator[dict[str, Any]]:
        yield from self._close()
        self._content.append({"type": kind, **content})
        self._open = kind
        yield block(len(self._content) - 1, type=kind, **content)

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open:
            index = len(self._content) - 1
            if self._open == "thinking":
                self._content[-1]["signature"] = _SIGNATURE
                yield delta(index, "signature", signature=_SIGNATURE)
            yield stop(index)
        self._open = ""
