"""Times single functions of the hot path, each by itself: CPU microseconds per unit, the best of a few tries.

    python -m benchmarks.micro [NAME …]

It tells where the time goes, not what the server costs: that is `python -m benchmarks`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dragoman.streaming import CallStatus
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_server.errors import DragomanError
    from dragoman_server.inprocess import InProcessServer

_TRIES = 5
_SECRET = "dgm_benchmark_key_of_no_value"
_METHOD = "/benchmark.Echo/Say"
_REQUEST = (
    b'{"model":"mock-model","messages":[{"role":"system","content":"You are a helpful assistant."},'
    b'{"role":"user","content":"Tell me something."}],"stream":true,"temperature":0.7,"max_tokens":512}'
)
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"mock-model",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)


@dataclass(frozen=True, slots=True)
class Micro:
    """One function under the watch.

    Attributes:
        name: How it is called.
        what: What a unit is.
        units: How many are timed in one try.
        run: Does so many of them; returns the CPU seconds that took.
    """

    name: str
    what: str
    units: int
    run: Callable[[int], Awaitable[float]]


async def _authenticate(units: int) -> float:
    from dragoman_server.accounts.service import Accounts
    from dragoman_server.api.interceptors import credential_in
    from dragoman_server.store.memory import MemoryStore

    accounts = Accounts(MemoryStore())
    await accounts.keys.bootstrap(_SECRET)
    await accounts.authenticate(_SECRET)
    metadata = (("user-agent", "benchmark"), ("authorization", f"Bearer {_SECRET}"))
    start = time.process_time()
    for _ in range(units):
        if accounts.cached(credential_in(metadata)) is None:
            raise AssertionError("the key is not in the cache")
    return time.process_time() - start


async def _parse_request(units: int) -> float:
    import orjson

    from dragoman.v1.run_pb2 import RunSpec
    from dragoman_edge.routes.chat import read_generation

    start = time.process_time()
    for _ in range(units):
        read_generation(orjson.loads(_REQUEST)).fill(RunSpec())
    return time.process_time() - start


def _split_stream(together: int) -> Callable[[int], Awaitable[float]]:
    """Returns a run that splits a stream, so many events in a read."""

    async def run(units: int) -> float:
        from dragoman_server.providers.sse import SseDecoder

        decoder = SseDecoder()
        read = _CHUNK * together
        found = 0
        start = time.process_time()
        for _ in range(units // together):
            found += len(decoder.feed(read))
        seconds = time.process_time() - start
        if found != units:
            raise AssertionError(f"{found} events instead of {units}")
        return seconds

    return run


def _read_stream(together: int) -> Callable[[int], Awaitable[float]]:
    """Returns a run that makes events of an upstream's stream, so many in a read."""

    async def run(units: int) -> float:
        from dragoman_server.providers.base import EventBatch
        from dragoman_server.providers.openai_chat.response import ResponseReader

        reader = ResponseReader(0, b"")
        read = _CHUNK * together
        found = 0
        start = time.process_time()
        for _ in range(units // together):
            batch = EventBatch()
            reader.read_stream(read, batch)
            found += len(batch.events)
        seconds = time.process_time() - start
        if found != units:
            raise AssertionError(f"{found} events instead of {units}")
        return seconds

    return run


def _text_batches(count: int) -> list[StreamRunResponse]:
    from dragoman.v1.event_pb2 import RunEvent, TextDelta
    from dragoman.v1.run_service_pb2 import StreamRunResponse

    return [StreamRunResponse(events=[RunEvent(text_delta=TextDelta(text=" word"))]) for _ in range(count)]


class _Watcher:
    """Takes everything, does nothing."""

    def on_batch(self, batch: StreamRunResponse, size: int) -> None:
        """Takes a batch."""

    def on_closed(self, error: DragomanError | None) -> None:
        """Takes the end."""


async def _append(units: int) -> float:
    from dragoman_server.runs.log import EventLog
    from dragoman_server.runs.retention import Budget
    from dragoman_server.settings import RunSettings

    settings = RunSettings()
    log = EventLog("run_0", settings, Budget(settings.total_bytes))
    log.subscribe(_Watcher(), 0)
    batches = _text_batches(units)
    start = time.process_time()
    for batch in batches:
        log.append(batch)
    seconds = time.process_time() - start
    if log.last_sequence != units:
        raise AssertionError(f"{log.last_sequence} events instead of {units}")
    return seconds


class _TextWatcher(_Watcher):
    """Takes text without a batch around it."""

    def on_text(self, text: str, sequence: int, size: int) -> bool:
        """Takes a piece of text."""
        return True


async def _append_text(units: int) -> float:
    from dragoman_server.runs.log import EventLog
    from dragoman_server.runs.retention import Budget
    from dragoman_server.settings import RunSettings

    settings = RunSettings()
    log = EventLog("run_0", settings, Budget(settings.total_bytes))
    log.subscribe(_TextWatcher(), 0)
    start = time.process_time()
    for _ in range(units):
        log.append_text(" word")
    seconds = time.process_time() - start
    if log.last_sequence != units:
        raise AssertionError(f"{log.last_sequence} events instead of {units}")
    return seconds


async def _fold(units: int) -> float:
    from dragoman_server.runs.fold import Fold

    fold = Fold()
    events = [batch.events[0] for batch in _text_batches(units)]
    start = time.process_time()
    for event in events:
        fold.apply((event,))
    return time.process_time() - start


async def _render(units: int) -> float:
    from dragoman.v1.event_pb2 import RunEvent, RunStarted
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.dialects.openai.answer import AnswerOptions
    from dragoman_edge.dialects.openai.render import ChatRenderer

    renderer = ChatRenderer(AnswerOptions(model="mock-model"))
    renderer.render(StreamRunResponse(run_id="run_0", events=[RunEvent(run_started=RunStarted())]))
    batches = _text_batches(units)
    size = 0
    start = time.process_time()
    for batch in batches:
        size += len(renderer.render(batch))
    seconds = time.process_time() - start
    if size < units * len(" word"):
        raise AssertionError("not everything was rendered")
    return seconds


async def _render_text(units: int) -> float:
    from dragoman.v1.event_pb2 import RunEvent, RunStarted
    from dragoman.v1.run_service_pb2 import StreamRunResponse
    from dragoman_edge.dialects.openai.answer import AnswerOptions
    from dragoman_edge.dialects.openai.render import ChatRenderer

    renderer = ChatRenderer(AnswerOptions(model="mock-model"))
    renderer.render(StreamRunResponse(run_id="run_0", events=[RunEvent(run_started=RunStarted())]))
    size = 0
    start = time.process_time()
    for sequence in range(2, units + 2):
        size += len(renderer.render_text(" word", sequence))
    seconds = time.process_time() - start
    if size < units * len(" word"):
        raise AssertionError("not everything was rendered")
    return seconds


def _echo_server(handler: Any) -> InProcessServer:
    """Returns an in-process server with one method and one interceptor that lets everything pass."""
    import grpc

    from dragoman_server.inprocess import InProcessServer

    class Pass(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            return await continuation(handler_call_details)

    server = InProcessServer([Pass()], max_message_bytes=1 << 20)
    service, _, method = _METHOD[1:].rpartition("/")
    server.add_registered_method_handlers(service, {method: handler})
    return server


async def _call(units: int) -> float:
    import grpc

    from dragoman.v1.run_service_pb2 import ExecuteRunRequest, ExecuteRunResponse

    answer = ExecuteRunResponse()

    async def say(request: ExecuteRunRequest, context: Any) -> ExecuteRunResponse:
        return answer

    server = _echo_server(grpc.unary_unary_rpc_method_handler(say))
    stub = server.channel().unary_unary(
        _METHOD,
        request_serializer=ExecuteRunRequest.SerializeToString,
        response_deserializer=ExecuteRunResponse.FromString,
    )
    request = ExecuteRunRequest()
    start = time.process_time()
    for _ in range(units):
        await stub(request)
    seconds = time.process_time() - start
    await server.stop(None)
    return seconds


class _Sink:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.messages = 0
        self.ended = asyncio.Event()

    def on_message(self, message: StreamRunResponse) -> None:
        """Takes a message."""
        self.messages += 1

    def on_end(self, status: CallStatus) -> None:
        """Takes the end."""
        self.ended.set()


async def _open_and_push(streams: int, messages: int) -> float:
    """Opens streams, one after the other, that push so many messages each; returns the CPU seconds."""
    import grpc

    from dragoman.streaming import StreamRpc, open_stream
    from dragoman.v1.run_service_pb2 import StreamRunRequest, StreamRunResponse

    batches = _text_batches(messages)

    async def say(request: StreamRunRequest, context: Any) -> None:
        push = context.push.on_message
        for batch in batches:
            push(batch)

    server = _echo_server(grpc.unary_stream_rpc_method_handler(say))
    channel = server.channel()
    rpc = StreamRpc(_METHOD, StreamRunRequest, StreamRunResponse)
    request = StreamRunRequest()
    sink = _Sink()
    start = time.process_time()
    for _ in range(streams):
        sink.ended.clear()
        open_stream(channel, rpc, request, sink)
        await sink.ended.wait()
    seconds = time.process_time() - start
    if sink.messages != streams * messages:
        raise AssertionError(f"{sink.messages} messages instead of {streams * messages}")
    await server.stop(None)
    return seconds


async def _open(units: int) -> float:
    return await _open_and_push(units, 0)


async def _push(units: int) -> float:
    return await _open_and_push(1, units)


MICROS = (
    Micro("authenticate", "known key, from metadata", 20_000, _authenticate),
    Micro("parse-request", "chat request, JSON to contract", 2_000, _parse_request),
    Micro("call", "unary in-process call, one interceptor", 5_000, _call),
    Micro("open-stream", "pushed in-process stream, empty", 5_000, _open),
    Micro("push", "message on such a stream", 100_000, _push),
    Micro("split-1", "SSE event, one in a read", 50_000, _split_stream(1)),
    Micro("split-20", "SSE event, 20 in a read", 50_000, _split_stream(20)),
    Micro("read-1", "upstream event made ours, one in a read", 20_000, _read_stream(1)),
    Micro("read-20", "upstream event made ours, 20 in a read", 20_000, _read_stream(20)),
    Micro("append", "text event into a log with a watcher", 10_000, _append),
    Micro("append-text", "text alone, within a process", 10_000, _append_text),
    Micro("fold", "text event, the folding alone", 10_000, _fold),
    Micro("render", "text event as a chunk", 10_000, _render),
    Micro("render-text", "text alone, within a process", 10_000, _render_text),
)


def measure(micro: Micro) -> float:
    """Returns the CPU microseconds per unit, the least of a few tries.

    Raises:
        ImportError: If the part of the server is not installed.
    """
    best = float("inf")
    for _ in range(_TRIES):
        gc.collect()
        best = min(best, uvloop.run(_timed(micro)))
    return best * 1e6 / micro.units


async def _timed(micro: Micro) -> float:
    return await micro.run(micro.units)


def main() -> int:
    """Prints a table; returns the exit status."""
    names = [micro.name for micro in MICROS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description="See docs/benchmarks.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    chosen = parser.parse_args().names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for micro in MICROS:
        if micro.name in chosen:
            try:
                result = f"{measure(micro):8.2f} us"
            except ImportError as error:
                result = f" skipped: {error}"
            print(f"{micro.name:14} {micro.what:40} {result}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
