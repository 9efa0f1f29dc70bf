"""A load generator for chat endpoints: raw HTTP/1.1 on keep-alive connections, one request after the other on each.

It reads no more of an answer than it must: status, end, number of `data:` lines, `[DONE]`. An answer that is not what
it should be is an error, and a reading with errors is not a reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_PATH = "/v1/chat/completions"
_DATA = b"data:"
_DONE = b"data: [DONE]\n\n"
_CONNECT_TIMEOUT = 10.0
_FINISH_TIMEOUT = 30.0
"""How long answers that are under way at the end of a reading may take, in seconds."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go.

    Attributes:
        port: Port on 127.0.0.1.
        model: Value of the body's `model`.
        api_key: Sent as bearer token, if not empty.
    """

    port: int
    model: str = "mock-model"
    api_key: str = ""

    def request(self, orders: str, *, stream: bool) -> bytes:
        """Renders a chat request whose prompt is the orders for the mock upstream."""
        messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": orders}]
        body: dict[str, object] = {"model": self.model, "messages": messages, "max_tokens": 512, "temperature": 0.7}
        if stream:
            body["stream"] = True
        content = json.dumps(body).encode()
        head = [f"POST {_PATH} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Content-Type: application/json"]
        if self.api_key:
            head.append(f"Authorization: Bearer {self.api_key}")
        head.append(f"Content-Length: {len(content)}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + content


@dataclass(frozen=True, slots=True)
class Percentiles:
    """A distribution, in seconds."""

    p50: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        """Returns the percentiles (nearest rank below) of the values, or None if there are none."""
        if not values:
            return None
        ranked = sorted(values)
        return cls(ranked[len(ranked) // 2], ranked[len(ranked) * 99 // 100], ranked[-1])


@dataclass(slots=True)
class Tally:
    """What the connections of one reading count. Times are in seconds.

    Attributes:
        requests: Answers that were as they should be.
        events: `data:` lines of the streams, `[DONE]` aside.
        errors: Answers that were not as they should be.
        first_error: What was wrong with the first of those.
        latencies: Request to end of answer.
        first_events: Request to first event.
        gaps: Between two reads that brought events of one stream.
        reads: Reads that brought events.
        seconds: From the first request to the end of the last answer.
    """

    requests: int = 0
    events: int = 0
    errors: int = 0
    first_error: str = ""
    latencies: list[float] = field(default_factory=list)
    first_events: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    reads: int = 0
    seconds: float = 0.0

    def fail(self, message: str) -> None:
        """Counts an answer that is not what it should be."""
        self.errors += 1
        self.first_error = self.first_error or message


@dataclass(frozen=True, slots=True)
class Plan:
    """What the connections do.

    Attributes:
        request: The request, rendered.
        connections: How many there are.
        events: For streams, how many events an answer has at least and at most; None for plain answers.
        seconds: How long new requests are sent; those under way then are finished.
        spread: Seconds over which the first requests are spread, so that paced streams do not move in step.
    """

    request: bytes
    connections: int
    events: tuple[int, int] | None
    seconds: float
    spread: float = 0.0


class Connection(asyncio.Protocol):
    """One connection, which sends a request whenever the last one is answered, until told to stop."""

    def __init__(self, plan: Plan, tally: Tally, on_idle: Callable[[], None]) -> None:
        self._plan = plan
        self._tally = tally
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._stop_at = 0.0
        self._busy = False
        self._sent = 0.0
        self._read = 0.0
        self._status = 0
        self._events = 0
        self._tail = b""

    def run(self, stop_at: float) -> None:
        """Sends requests until that time of the loop, then calls `on_idle` once the last is answered."""
        self._stop_at = stop_at
        self._busy = True
        self._send()

    def drop(self) -> None:
        """Closes the connection; an answer under way is left uncounted."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    @property
    def streaming(self) -> bool:
        """Whether an answer is under way and has brought an event."""
        return self._busy and self._events > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts an error, if an answer was under way."""
        self._transport = None
        if self._busy:
            self._tally.fail(f"connection lost after {self._events} events: {exc or 'closed'}")
            self._stop()

    def data_received(self, data: bytes) -> None:
        """Takes a part of an answer."""
        events = self._events
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._tally.fail(f"not HTTP: {error}")
            self._stop()
            return
        if self._events > events:
            self._time_read()

    def _time_read(self) -> None:
        now = time.perf_counter()
        if self._read:
            self._tally.gaps.append(now - self._read)
        else:
            self._tally.first_events.append(now - self._sent)
        self._read = now
        self._tally.reads += 1

    def on_message_begin(self) -> None:
        """Starts an answer."""
        self._events = 0
        self._tail = b""

    def on_headers_complete(self) -> None:
        """Takes the status."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Counts the events of a part of the body, also those that began in the part before."""
        tail = self._tail
        text = tail + body
        self._events += text.count(_DATA) - tail.count(_DATA)
        self._tail = text[-len(_DONE) :]

    def on_message_complete(self) -> None:
        """Judges the answer; the next request goes out on the next turn of the loop."""
        now = time.perf_counter()
        if problem := self._problem():
            self._tally.fail(problem)
        else:
            self._tally.requests += 1
            self._tally.latencies.append(now - self._sent)
            if self._plan.events:
                self._tally.events += self._events - 1
        if self._loop.time() < self._stop_at and self._parser.should_keep_alive():
            self._loop.call_soon(self._send)
        else:
            self._loop.call_soon(self._stop)

    def _problem(self) -> str:
        if self._status != 200:
            return f"status {self._status}: {self._tail!r}"
        if self._plan.events is None:
            return ""
        if self._tail != _DONE:
            return f"no [DONE] after {self._events} events: {self._tail!r}"
        low, high = self._plan.events
        if not low <= self._events - 1 <= high:
            return f"{self._events - 1} events instead of {low} to {high}"
        return ""

    def _send(self) -> None:
        if self._transport is None:
            return
        self._read = 0.0
        self._sent = time.perf_counter()  # the loop's clock counts whole milliseconds
        self._transport.write(self._plan.request)

    def _stop(self) -> None:
        if self._busy:
            self._busy = False
            self._on_idle()


@contextlib.asynccontextmanager
async def _connected(port: int, plan: Plan, tally: Tally) -> AsyncIterator[tuple[list[Connection], asyncio.Event]]:
    """Opens the connections of a plan, with an event that is set once all of them are idle again; closes them at last.

    Raises:
        OSError: If a connection cannot be made.
        TimeoutError: If that takes too long.
    """
    loop = asyncio.get_running_loop()
    busy = plan.connections
    idle = asyncio.Event()

    def on_idle() -> None:
        nonlocal busy
        busy -= 1
        if not busy:
            idle.set()

    def connect() -> Connection:
        return Connection(plan, tally, on_idle)

    connections: list[Connection] = []
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            for _ in range(plan.connections):
                _, connection = await loop.create_connection(connect, "127.0.0.1", port)
                connections.append(connection)
        yield connections, idle
    finally:
        for connection in connections:
            connection.drop()


async def run(port: int, plan: Plan) -> Tally:
    """Carries out a plan and returns what was counted.

    Raises:
        OSError: If a connection cannot be made.
        TimeoutError: If that takes too long.
    """
    tally = Tally()
    async with _connected(port, plan, tally) as (connections, idle):
        loop = asyncio.get_running_loop()
        gc.disable()  # a collection in here would be a pause of the server's reader
        try:
            start = loop.time()
            for index, connection in enumerate(connections):
                loop.call_at(start + plan.spread * index / len(connections), connection.run, start + plan.seconds)
            async with asyncio.timeout(plan.seconds + _FINISH_TIMEOUT):
                await idle.wait()
        except TimeoutError:
            tally.fail(f"not finished {_FINISH_TIMEOUT:.0f} s after the end")
        finally:
            gc.enable()
        tally.seconds = loop.time() - start
    return tally


@contextlib.asynccontextmanager
async def held_open(port: int, plan: Plan) -> AsyncIterator[Tally]:
    """Opens one stream on each connection, waits for the first event of each, and drops them all at the end.

    Raises:
        OSError: If a connection cannot be made.
        TimeoutError: If the streams do not open in time.
    """
    tally = Tally()
    async with _connected(port, plan, tally) as (connections, _):
        for connection in connections:
            connection.run(0.0)
            await asyncio.sleep(0.001)  # one at a time, more or less: this is about memory, not about a rush
        async with asyncio.timeout(_FINISH_TIMEOUT):
            # Looked at now and then: a callback for each first event would be a cost of all other readings.
            while not tally.errors and not all(connection.streaming for connection in connections):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield tally
