"""What both ends of a tunnel share: metadata in frames, and fair turns for what waits to be sent.

`dragoman/v1/tunnel_service.proto` says what a tunnel is.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

CONNECT = "/dragoman.v1.TunnelService/Connect"
"""The method that opens a tunnel."""

FRAME_BYTES = 32 * 1024
"""Most bytes of a request or message in one frame; what is larger is sent in pieces, in turn with other calls."""

MESSAGE_BYTES = 32 * 1024
"""A message takes no more frames once it has so many bytes."""

FRAME_OVERHEAD = 16
"""What a frame takes beside its payload, in bytes, roughly."""

MAX_CALLS = 16_384
"""Most calls of one tunnel at a time."""


class Source(Protocol):
    """One call, as an outbox sees it.

    Attributes:
        queued: Whether it waits for its turn; the outbox's own.
    """

    queued: bool

    def fill(self, frames: Any) -> int:
        """Adds the next frame, if there is one, and puts itself back if another is ready.

        Returns:
            The size of the frame in bytes, roughly.
        """


class Outbox:
    """The calls that have frames to send, each in its turn: one frame, and to the end of the queue."""

    __slots__ = ("_closed", "_loop", "_ready", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Source] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, source: Source) -> None:
        """Queues a call that has something to send, unless it is queued already."""
        if not source.queued:
            source.queued = True
            self._ready.append(source)
            if self._waiter is not None:
                self._wake()

    def take(self, frames: Any) -> None:
        """Adds what is ready, up to the size of one message."""
        ready, room = self._ready, MESSAGE_BYTES
        while ready and room > 0:
            source = ready.popleft()
            source.queued = False
            room -= source.fill(frames)

    async def wait(self) -> bool:
        """Waits until there is something to take; returns False if there is nothing, and the outbox is closed."""
        while not self._ready:
            if self._closed:
                return False
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return True

    def close(self) -> None:
        """Ends `wait` as soon as nothing is left to take."""
        self._closed = True
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


_is_key = re.compile(r"[0-9a-z_.-]+").fullmatch


class InvalidMetadata(grpc.aio.InternalError):
    """A key or value that gRPC cannot carry."""


def add_metadata(entries: Any, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Adds metadata to a repeated `CallMetadata`.

    Raises:
        InvalidMetadata: If a key or value is illegal.
        TypeError: If a key or value has the wrong type.
        ValueError: If an entry is not a pair.
    """
    for key, value in metadata:
        if not _is_key(key):
            raise InvalidMetadata(f"Metadata key {key!r} is invalid")
        if key.endswith("-bin"):
            entries.add(key=key, binary=value)
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if isinstance(text, str) and not (text.isascii() and text.isprintable()):
            raise InvalidMetadata(f"Metadata value for key {key!r} is invalid")
        entries.add(key=key, text=text)


def read_metadata(entries: Any) -> tuple[tuple[str, str | bytes], ...]:
    """Returns what `add_metadata` added."""
    return tuple(
        [(entry.key, entry.binary if entry.WhichOneof("value") == "binary" else entry.text) for entry in entries]
    )
