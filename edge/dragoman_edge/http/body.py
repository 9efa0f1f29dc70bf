"""The body of a request on its way in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman_edge.http.errors import BodyError


class Body:
    """Takes the pieces of a body as they come, for one reader.

    Attributes:
        declared: Its length, as the head says; None if it comes in chunks.
        complete: Whether all of it has come.
        unread: How many bytes have come, and were not taken yet.
        taken: How many bytes were taken.
    """

    __slots__ = ("_data", "_dropped", "_error", "_limit", "_waiter", "complete", "declared", "taken", "unread")

    def __init__(self, declared: int | None, whole: bytes | None = None) -> None:
        """Begins to take a body.

        Args:
            declared: Its length, as the head says; None if it comes in chunks.
            whole: All of it, if it has come already.
        """
        self.declared = declared
        self.complete = whole is not None
        self.unread = 0 if whole is None else len(whole)
        self.taken = 0
        self._data: bytes | bytearray = whole or b""
        self._dropped = False
        self._limit = 0
        self._error: BodyError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it."""
        return self._waiter is not None

    def feed(self, piece: bytes) -> None:
        """Takes the next piece."""
        if self._dropped:
            return
        if not self._data:
            self._data = piece  # mostly, it is the only one
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += piece
        self.unread = len(self._data)
        if self._waiter is not None and self.unread > self._limit:
            self._wake()

    def end(self) -> None:
        """Notes that all of it has come."""
        self.complete = True
        if self._waiter is not None:
            self._wake()

    def fail(self, error: BodyError) -> None:
        """Notes that the rest will not come."""
        self._error = error
        self._wake()

    def drop(self) -> None:
        """Throws away what has come, and what still comes."""
        self._dropped = True
        self._data = b""
        self.unread = 0

    async def wait(self, limit: int) -> None:
        """Waits until all of it has come, or more than `limit` bytes.

        Raises:
            BodyError: If the rest will not come.
        """
        self._limit = limit
        while not self.complete and self._error is None and self.unread <= limit:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._error is not None:
            raise self._error

    def take(self) -> bytes:
        """Returns what has come."""
        data, self._data = self._data, b""
        self.taken += self.unread
        self.unread = 0
        return bytes(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
