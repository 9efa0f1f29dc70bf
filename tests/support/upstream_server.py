"""A real HTTP server that a provider can be pointed at, and that does on the wire whatever a test asks for.

`UpstreamServer` runs an answer function for every request and records what its clients do. `raw` makes answers of
pieces; `chat` answers in the chat completions dialect, playing the script that the last user message brings.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson

from dragoman.v1.event_pb2 import FinishReason, RunEvent, TokenLogprob
from dragoman.v1.message_pb2 import Role, ToolKind
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.errors import DragomanError
from dragoman_server.providers.base import GenerationFailed, GenerationRequest, iterate
from dragoman_server.providers.scripted import SCRIPT_MARK, ScriptedProvider

if TYPE_CHECKING:
    import ssl

CLOSE = object()
"""A piece of an answer: the connection is closed in order."""
RESET = object()
"""A piece of an answer: the connection is cut."""

Piece = bytes | float | object


@dataclass
class Request:
    """A request as it came: `headers` have lower-case names."""

    head: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Connection(asyncio.Protocol):
    """A connection of a client; answers its requests one after the other."""

    def __init__(self, server: UpstreamServer) -> None:
        self._server = server
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream protocol gets a stream transport
        self._server.connections.add(self)
        self._server.connection_count += 1
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator or (self._task is not None and not self._task.done()):
            return
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in fields)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        request = Request(line, headers, rest[:length])
        self._server.requests.append(request)
        self._task = asyncio.get_running_loop().create_task(self._answer(request))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._writable.set()
        if self._task is not None and not self._task.done():
            self._server.aborts.append(time.monotonic())
            self._server.aborted.set()
            self._task.cancel()

    def pause_writing(self) -> None:
        self._server.stalled = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the client does not read."""
        self.transport.write(data)
        self._server.sent_bytes += len(data)
        await self._writable.wait()
        await asyncio.sleep(0)  # so that pieces stay apart, as far as the kernel lets them

    async def _answer(self, request: Request) -> None:
        await self._server.answer(request, self)
        if self._buffer and not self.transport.is_closing():
            self.data_received(b"")


Answer = Callable[[Request, Connection], Awaitable[None]]


@dataclass
class UpstreamServer:
    """A server on a free port of 127.0.0.1, as an async context manager."""

    answer: Answer
    ssl_context: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    connections: set[Connection] = field(default_factory=set)
    connection_count: int = 0
    aborts: list[float] = field(default_factory=list)
    """When clients closed their connection in the middle of an answer, by the monotonic clock."""
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    stalled: bool = False
    """Whether a client ever stopped reading."""
    sent_bytes: int = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, ssl=self.ssl_context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        tasks = [connection._task for connection in self.connections if connection._task is not None]
        for connection in tuple(self.connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"{'https' if self.ssl_context else 'http'}://127.0.0.1:{self.port}/v1"

    def drop_idle(self) -> None:
        """Closes all connections, as a server does with idle ones."""
        for connection in tuple(self.connections):
            connection.transport.close()


def raw(*pieces: Piece) -> Answer:
    """Returns an answer that sends bytes, sleeps for numbers, and closes or resets the connection."""

    async def answer(request: Request, connection: Connection) -> None:
        await send(connection, pieces)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Returns an answer that is another one for each request; the last one for all that follow."""
    left = list(answers)

    async def answer(request: Request, connection: Connection) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request, connection)

    return answer


async def send(connection: Connection, pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        if isinstance(piece, bytes):
            await connection.write(piece)
        elif isinstance(piece, int | float):
            await asyncio.sleep(piece)
        elif piece is CLOSE:
            connection.transport.close()
        else:
            connection.transport.abort()


def head(status: int = 200, kind: str = "application/json", **headers: object) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Any\r\nContent-Type: {kind}\r\n{fields}\r\n".encode()


def whole(status: int, body: bytes, kind: str = "application/json", **headers: object) -> bytes:
    """Returns an answer with a length."""
    return head(status, kind, Content_Length=len(body), **headers) + body


def event(payload: object) -> bytes:
    """Returns an SSE event."""
    return b"data: " + (payload if isinstance(payload, bytes) else orjson.dumps(payload)) + b"\n\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*frames: object, end: bytes = b"0\r\n\r\n") -> bytes:
    """Returns a whole SSE answer; frames are payloads, or bytes as they are."""
    encoded = (frame if isinstance(frame, bytes) else event(frame) for frame in frames)
    return head(200, "text/event-stream", Transfer_Encoding="chunked") + b"".join(map(chunked, encoded)) + end


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Returns a chunk of the dialect, with more fields of its choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, **fields}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


DONE = b"data: [DONE]\n\n"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Yields a text in pieces of one size."""
    return (data[start : start + size] for start in range(0, len(data), size))


def chat(packet_size: int | None = None) -> Answer:
    """Returns an answer in the chat completions dialect, in packets of a size, that plays the script of the request.

    A failure before the first event is a status, one after it an error frame; a break is a cut connection.
    """

    async def answer(request: Request, connection: Connection) -> None:
        async def write(data: bytes) -> None:
            for piece in cut(data, packet_size or len(data) or 1):
                await connection.write(piece)

        streams = request.json.get("stream", False)
        provider = ScriptedProvider("upstream")
        started = False
        whole_answer = _Whole()
        try:
            spec = _spec(request.json)
            count = prompt_count(spec)
            so_far = {} if count is None else {"usage": {"prompt_tokens": count, "completion_tokens": 0}}
            async for batch in iterate(provider, GenerationRequest(spec, "echo", incremental=streams)):
                if streams and not started:
                    started = True
                    await write(head(200, "text/event-stream; charset=utf-8", Transfer_Encoding="chunked"))
                    await write(chunked(event(chunk({"role": "assistant", "content": ""}))))
                for item in batch.events:
                    if streams:
                        await write(b"".join(chunked(event({**so_far, **one})) for one in _chunks(item)))
                    else:
                        whole_answer.add(item)
        except DragomanError as error:
            await _fail(error, write, connection, started=started)
            return
        if streams:
            await write(chunked(DONE) + b"0\r\n\r\n")
        else:
            await write(whole(200, orjson.dumps(whole_answer.json())))

    return answer


def prompt_count(spec: ChatSpec) -> int | None:
    """Returns the tokens of the prompt, if the script brings the counts: the server then tells it from the start."""
    text = spec.messages[-1].parts[0].text.text
    usage = orjson.loads(text.removeprefix(SCRIPT_MARK)).get("usage") if text.startswith(SCRIPT_MARK) else None
    return usage["input_tokens"] if usage else None


async def _fail(
    error: DragomanError, write: Callable[[bytes], Awaitable[None]], connection: Connection, *, started: bool
) -> None:
    reason = error.failure.reason if isinstance(error, GenerationFailed) else error.reason
    if reason == "PROVIDER_PROTOCOL":
        connection.transport.close()
        return
    body = {"error": {"message": error.message, "type": "server_error", "param": None, "code": None}}
    if started:
        await write(chunked(event(body)) + chunked(DONE) + b"0\r\n\r\n")
    else:
        status = 500 if isinstance(error, GenerationFailed) else 400
        await write(whole(status, orjson.dumps(body), Retry_After=1))


def _spec(body: dict[str, Any]) -> ChatSpec:
    """Returns as much of the request as a scripted answer depends on."""
    spec = ChatSpec()
    for entry in body["messages"]:
        message = spec.messages.add(role=Role.Value(f"ROLE_{entry['role'].upper()}"))
        message.parts.add().text.text = entry["content"] if isinstance(entry["content"], str) else ""
    spec.sampling.stop.extend(body.get("stop", ()))
    if "max_tokens" in body:
        spec.sampling.max_output_tokens = body["max_tokens"]
    spec.sampling.logprobs = body.get("logprobs", False)
    spec.sampling.top_logprobs = body.get("top_logprobs", 0)
    response_format = body.get("response_format", {})
    if response_format.get("type") == "json_object":
        spec.response_format.json_object.SetInParent()
    elif response_format.get("type") == "json_schema":
        schema = response_format["json_schema"]["schema"]
        spec.response_format.json_schema.schema_json = orjson.dumps(schema).decode()
    return spec


_FINISH = {
    FinishReason.FINISH_REASON_STOP: "stop",
    FinishReason.FINISH_REASON_LENGTH: "length",
    FinishReason.FINISH_REASON_TOOL_CALLS: "tool_calls",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


def _chunks(item: RunEvent) -> Iterator[dict[str, Any]]:
    """Yields the chunks that an event becomes."""
    match item.WhichOneof("kind"):
        case "text_delta":
            logprobs = _logprobs(item.text_delta.logprobs)
            yield chunk({"content": item.text_delta.text}, logprobs={"content": logprobs} if logprobs else None)
        case "reasoning_delta":
            yield chunk({"reasoning_content": item.reasoning_delta.text})
        case "refusal_delta":
            yield chunk({"refusal": item.refusal_delta.text})
        case "tool_call_started":
            call = item.tool_call_started
            named = {"name": call.name, "arguments": ""}
            yield chunk(
                {"tool_calls": [{"index": call.call_index, "id": call.call_id, "type": "function", "function": named}]}
            )
        case "tool_call_arguments_delta":
            delta = item.tool_call_arguments_delta
            yield chunk({"tool_calls": [{"index": delta.call_index, "function": {"arguments": delta.arguments}}]})
        case "choice_finished":
            stop = item.choice_finished.stop_sequence or None
            yield chunk({}, _FINISH[item.choice_finished.finish_reason], stop_reason=stop)
        case "usage_reported":
            yield {**chunk(), "choices": [], "usage": _usage(item)}


class _Whole:
    """Collects an answer in one piece."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._choice: dict[str, Any] = {"index": 0, "message": self._message, "logprobs": None}
        self._usage: dict[str, Any] | None = None

    def add(self, item: RunEvent) -> None:
        message = self._message
        match item.WhichOneof("kind"):
            case "text_delta":
                message["content"] = (message["content"] or "") + item.text_delta.text
                if item.text_delta.logprobs:
                    known = self._choice["logprobs"] or {"content": []}
                    known["content"] += _logprobs(item.text_delta.logprobs)
                    self._choice["logprobs"] = known
            case "reasoning_delta":
                message["reasoning_content"] = message.get("reasoning_content", "") + item.reasoning_delta.text
            case "refusal_delta":
                message["refusal"] = message.get("refusal", "") + item.refusal_delta.text
            case "tool_call_started":
                call = item.tool_call_started
                custom = call.tool_kind == ToolKind.TOOL_KIND_CUSTOM
                assert not custom, "not needed so far"
                named = {"name": call.name, "arguments": ""}
                message.setdefault("tool_calls", []).append({"id": call.call_id, "type": "function", "function": named})
            case "tool_call_arguments_delta":
                delta = item.tool_call_arguments_delta
                message["tool_calls"][delta.call_index]["function"]["arguments"] += delta.arguments
            case "choice_finished":
                self._choice["finish_reason"] = _FINISH[item.choice_finished.finish_reason]
                self._choice["stop_reason"] = item.choice_finished.stop_sequence or None
            case "usage_reported":
                self._usage = _usage(item)

    def json(self) -> dict[str, Any]:
        answer = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [self._choice]}
        return {**answer, "usage": self._usage} if self._usage is not None else answer


def _usage(item: RunEvent) -> dict[str, Any]:
    usage = item.usage_reported.last_call
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "completion_tokens_details": {"reasoning_tokens": usage.output_details.reasoning_tokens},
    }


def _logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "bytes": list(token.token_bytes),
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": list(top.token_bytes)} for top in token.top
            ],
        }
        for token in tokens
    ]


def script(**fields: Any) -> str:
    """Returns the user message that brings a script."""
    return SCRIPT_MARK + orjson.dumps(fields).decode()


def without_urls(text: str) -> bool:
    """Whether a text names no address."""
    return re.search(r"https?://", text) is None
