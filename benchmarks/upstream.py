"""A mock upstream: an OpenAI-compatible chat endpoint that writes pre-rendered bytes.

It takes its orders from the prompt, so that they survive a server that rebuilds the JSON: a message that holds
`MOCK chunks=200 delay_us=20000 ttft_us=0 size=5` is answered with 200 pieces of 5 characters, 20 ms apart. What the
prompt leaves out keeps its default. Every piece is written by itself; streams without delay are served round robin, one
piece each, so that none of them gets ahead.

    python -m benchmarks.upstream --port 18080
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httptools
import uvloop

if TYPE_CHECKING:
    from collections.abc import Sequence

_ORDERS = re.compile(rb"MOCK((?: [a-z_]+=\d+)*)")
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_INCLUDE_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_WORDS = ("alpha", "bravo", "chess", "delta", "eagle", "fjord", "globe", "hotel")
_PROMPT_TOKENS = 16
_OK = b"HTTP/1.1 200 OK\r\nServer: mock\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Orders:
    """How to answer.

    Attributes:
        chunks: Pieces of text.
        delay_us: Microseconds between two pieces; 0 means as fast as the reader takes them.
        ttft_us: Microseconds before the first piece.
        size: Characters of a piece.
    """

    chunks: int = 16
    delay_us: int = 0
    ttft_us: int = 0
    size: int = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """A rendered answer.

    Attributes:
        writes: What to write, one piece after the other, the HTTP framing included.
        delay: Seconds between two writes.
        first_delay: Seconds before the first.
    """

    writes: tuple[bytes, ...]
    delay: float
    first_delay: float


def parse_orders(text: bytes) -> Orders:
    """Reads the orders out of a request body.

    Raises:
        ValueError: If the orders name something unknown.
    """
    found = _ORDERS.search(text)
    pairs = [pair.split("=") for pair in found[1].decode().split()] if found else []
    try:
        return Orders(**{key: int(value) for key, value in pairs})
    except TypeError as error:
        raise ValueError(str(error)) from error


@functools.lru_cache(maxsize=256)
def render(body: bytes) -> Answer:
    """Renders the answer to a request body.

    Raises:
        ValueError: If the orders in it name something unknown.
    """
    orders = parse_orders(body)
    streamed = _STREAM.search(body) is not None
    if streamed:
        writes = _render_stream(orders, include_usage=_INCLUDE_USAGE.search(body) is not None)
    else:
        writes = (_render_plain(orders),)
    return Answer(writes, orders.delay_us / 1e6, orders.ttft_us / 1e6)


def _words(orders: Orders) -> Sequence[str]:
    """Returns the pieces. They take turns: some servers take a repeated piece for a model gone astray."""
    words = [(word * (orders.size // len(word) + 1))[: orders.size] for word in _WORDS]
    return list(itertools.islice(itertools.cycle(words), orders.chunks))


def _usage(orders: Orders) -> dict[str, int]:
    return {
        "prompt_tokens": _PROMPT_TOKENS,
        "completion_tokens": orders.chunks,
        "total_tokens": _PROMPT_TOKENS + orders.chunks,
    }


def _render_plain(orders: Orders) -> bytes:
    message = {"role": "assistant", "content": "".join(_words(orders)), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = _head("chat.completion") | {"choices": [choice], "usage": _usage(orders)}
    body = json.dumps(answer).encode()
    return _OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _render_stream(orders: Orders, *, include_usage: bool) -> tuple[bytes, ...]:
    """Returns the writes of a stream: role and first text, each further text, then finish, usage and terminator."""

    def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if include_usage else {}
        return _chunk(_data(_head("chat.completion.chunk") | {"choices": [choice]} | usage))

    pieces = [event({"content": word}) for word in _words(orders)]
    start = _OK + b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
    start += event({"role": "assistant", "content": ""})
    end = event({}, "stop")
    if include_usage:
        end += _chunk(_data(_head("chat.completion.chunk") | {"choices": [], "usage": _usage(orders)}))
    end += _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return (start + b"".join(pieces[:1]), *pieces[1:], end)


def _head(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-mock", "object": kind, "created": 1767225600, "model": "mock-model"}


def _data(event: dict[str, object]) -> bytes:
    return b"data: %b\n\n" % json.dumps(event, separators=(",", ":")).encode()


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class RoundRobin:
    """Serves the streams without delay: each turn of the loop, one piece to each of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._connections: list[Connection] = []

    def add(self, connection: Connection) -> None:
        """Takes a stream in, until its last piece is written or its connection is gone."""
        self._connections.append(connection)
        if len(self._connections) == 1:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._connections = [connection for connection in self._connections if connection.write_next()]
        if all(connection.paused for connection in self._connections):
            # Nobody takes anything: look again in a millisecond, instead of spinning.
            if self._connections:
                self._loop.call_later(0.001, self._turn)
        else:
            self._loop.call_soon(self._turn)


class Connection(asyncio.Protocol):
    """One connection of a client; one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, round_robin: RoundRobin) -> None:
        self._loop = loop
        self._round_robin = round_robin
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._writes: tuple[bytes, ...] = ()
        self._next = 0
        self._due = 0.0
        self._delay = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drops the answer under way."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Notes that the client is slow."""
        self.paused = True

    def resume_writing(self) -> None:
        """Notes that the client has caught up."""
        self.paused = False

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, ValueError):
            self._refuse()

    def on_body(self, body: bytes) -> None:
        """Takes a part of the request's body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answers the request."""
        answer = render(b"".join(self._body))
        self._body.clear()
        self._writes, self._next, self._delay = answer.writes, 0, answer.delay
        if answer.first_delay:
            self._due = self._loop.time() + answer.first_delay
            self._timer = self._loop.call_at(self._due, self._start)
        else:
            self._due = self._loop.time()
            self._start()

    def _start(self) -> None:
        if len(self._writes) == 1:
            self.write_next()
        elif self._delay:
            self._write_paced()
        else:
            self._round_robin.add(self)

    def _write_paced(self) -> None:
        if self.write_next():
            self._due += self._delay  # counted from the start, so that lateness does not add up
            self._timer = self._loop.call_at(self._due, self._write_paced)

    def write_next(self) -> bool:
        """Writes the next piece, unless the reader is slow; returns whether there will be another."""
        if self._transport is None:
            return False
        if not self.paused:
            self._transport.write(self._writes[self._next])
            self._next += 1
        return self._next < len(self._writes)

    def _refuse(self) -> None:
        if self._transport is not None:
            self._transport.write(_BAD_REQUEST)
            self._transport.close()


async def serve(port: int) -> None:
    """Serves on 127.0.0.1 until cancelled."""
    loop = asyncio.get_running_loop()
    round_robin = RoundRobin(loop)
    server = await loop.create_server(lambda: Connection(loop, round_robin), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Runs the mock upstream by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=18080)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
