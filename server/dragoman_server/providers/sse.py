"""Takes server-sent events out of a stream of bytes, whatever the pieces it comes in."""

from __future__ import annotations

from typing import NamedTuple

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Largest event that is taken."""

_BOM = b"\xef\xbb\xbf"


class SseFrameTooLarge(ValueError):
    """An event is larger than the limit."""


class NamedEvent(NamedTuple):
    """An event that has a name; one without is just its data."""

    name: bytes
    data: bytes


class SseDecoder:
    """Decodes one stream. Line ends may be LF, CRLF and CR; `id` and `retry` are of no use here and are skipped.

    Args:
        max_frame_bytes: Largest event, in bytes.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._pieces: list[bytes] = []  # the last line, which has no end yet
        self._lines: list[bytes] = []  # the complete lines of an event that has no end yet
        self._size = 0  # of both
        self._after_cr = False
        self._at_start = True
        self.between = False
        """Whether the last bytes ended an event: whatever comes next begins one."""

    def feed(self, data: bytes) -> list[bytes | NamedEvent]:
        """Returns the events that these bytes complete.

        Raises:
            SseFrameTooLarge: If an event grows beyond the limit.
        """
        self.between = False
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._pieces:
            if b"\n" not in data:
                return self._keep(data)
            start = b"".join(self._pieces)
            self._pieces.clear()
            self._size -= len(start)
            data = start + data
        if self._at_start:
            if data in (b"", _BOM[:1], _BOM[:2]):
                return self._keep(data)
            self._at_start = False
            data = data.removeprefix(_BOM)
        found: list[bytes | NamedEvent] = []
        if self._lines:
            rest = self._continue(data, found)
            if rest is None:
                return found
            data = rest
        end = data.rfind(b"\n\n")
        if end >= 0:
            whole = data[:end]
            payloads = whole[6:].split(b"\n\ndata: ")
            if whole.startswith(b"data: ") and whole.count(b"\n") == 2 * (len(payloads) - 1):
                found += payloads  # nearly every read: events of one line each
            else:
                for frame in whole.split(b"\n\n"):
                    _decode(frame.split(b"\n"), found)
            data = data[end + 2 :]
            self._size = 0
        if data:
            self._keep(data)
        else:
            self.between = not self._after_cr
        return found

    def finish(self) -> list[bytes | NamedEvent]:
        """Returns the event that only the end of the stream ends, if there is one."""
        found: list[bytes | NamedEvent] = []
        if self._pieces:
            self._lines.append(b"".join(self._pieces))
        _decode(self._lines, found)
        self._lines, self._pieces, self._size = [], [], 0
        return found

    def _with_lf(self, data: bytes) -> bytes:
        """Returns the bytes with LF for every line end; a CR at the end of a read ends its line at once."""
        if not data:
            return data
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _continue(self, data: bytes, found: list[bytes | NamedEvent]) -> bytes | None:
        """Goes on with an event whose first lines came before; returns what follows it, None if it still has no end."""
        if data.startswith(b"\n"):
            end, after = 0, 1
        else:
            end = data.find(b"\n\n")
            after = end + 2
        if end < 0:
            self._keep(data)
            return None
        if end:
            self._lines += data[:end].split(b"\n")
        _decode(self._lines, found)
        self._lines.clear()
        self._size = 0
        return data[after:]

    def _keep(self, data: bytes) -> list[bytes | NamedEvent]:
        """Keeps the beginning of an event."""
        *lines, last = data.split(b"\n")
        self._lines += lines
        if last:
            self._pieces.append(last)
        self._size += len(data)
        if self._size > self._max:
            raise SseFrameTooLarge(f"an event is larger than {self._max} bytes")
        return []


def _decode(lines: list[bytes], found: list[bytes | NamedEvent]) -> None:
    """Adds the event with these lines, if it has data."""
    event = b""
    data: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    if data:
        joined = b"\n".join(data)
        found.append(NamedEvent(event, joined) if event else joined)
