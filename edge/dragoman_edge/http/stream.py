"""Answers that are written piece by piece."""

from __future__ import annotations

from typing import Protocol


class Outlet(Protocol):
    """What a stream needs of its connection.

    Attributes:
        writing_paused: Whether too much waits for the client.
    """

    writing_paused: bool

    def send(self, data: bytes) -> None:
        """Writes bytes by the end of this turn of the loop, unless the client has gone."""

    async def drain(self) -> None:
        """Waits until the client has caught up."""


class Stream:
    """The body of an answer that has begun. Pieces go out in this turn; a writer may look whether the client is slow.

    Attributes:
        status: The HTTP status.
        outlet: Takes the pieces, and tells whether the client is slow.
        ended: Whether the last piece is written.
        sent: Bytes of the body that were written.
    """

    __slots__ = ("_chunked", "_send", "ended", "outlet", "sent", "status")

    def __init__(self, outlet: Outlet, status: int, *, chunked: bool, ended: bool, sent: int = 0) -> None:
        self._send = outlet.send
        self._chunked = chunked
        self.outlet = outlet
        self.status = status
        self.ended = ended
        self.sent = sent

    def write(self, data: bytes, *, last: bool = False) -> None:
        """Writes a piece, which must not be empty; the end of the body goes with the last one."""
        if self.ended:
            return
        self.ended = last
        size = len(data)
        self.sent += size
        if not self._chunked:
            self._send(data)
        elif last or size >= _FEW:
            self._send(chunk(data, last=last))
        else:
            self._send(_SIZES[size] + data + b"\r\n")

    def end(self) -> None:
        """Ends the body, if it has not ended."""
        if not self.ended:
            self.ended = True
            if self._chunked:
                self._send(_END)


_END = b"0\r\n\r\n"
_FEW = 1024
_SIZES = tuple(b"%x\r\n" % size for size in range(_FEW))
"""What comes before a piece of so many bytes: most pieces are small, and there are many of them."""


def chunk(data: bytes, *, last: bool) -> bytes:
    """Frames a piece; the last one is followed by the end of the body."""
    return b"%x\r\n%b\r\n%b" % (len(data), data, _END if last else b"")
