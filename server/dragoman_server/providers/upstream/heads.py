"""Heads of answers, by their bytes: under load, servers send the same head again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_KNOWN = 256
"""Heads that are remembered at a time."""

MAX_SIZE = 2048
"""Bytes of the largest head that is remembered."""

MAX_HEADERS = 64
"""Headers of the largest head that is remembered: small ones take many times their bytes."""

HEAD_END = b"\r\n\r\n"


class Head(NamedTuple):
    """What a head says of an answer that came in one read, and whose connection stays open.

    Attributes:
        status: The status.
        headers: The headers, with lower-case names.
        length: Bytes of the body.
        idle_limit: Seconds for which the server keeps the connection, as it announced; None if it did not.
    """

    status: int
    headers: Mapping[bytes, bytes]
    length: int
    idle_limit: float | None


class KnownHeads(dict[bytes, Head]):
    """The heads of one server, as the parser of HTTP understood them.

    A server that never sends the same head twice, because it numbers its answers, is soon not listened to any more.

    Attributes:
        hits: How often a head was known since the last time that there were too many.
        learns: Whether heads are still remembered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hits = 0
        self.learns = True

    def learn(self, read: bytes, body: bytes, head: Head) -> None:
        """Remembers the head of an answer that one read brought whole.

        Args:
            read: What was read.
            body: Its body, as the parser took it out.
            head: What the parser understood.
        """
        size = len(read) - head.length
        # Only a head that ends where the body begins says all there was: no interim answer, no chunks.
        if len(body) != head.length or read.find(HEAD_END) + len(HEAD_END) != size:
            return
        if size > MAX_SIZE or len(head.headers) > MAX_HEADERS:
            return
        if len(self) >= MOST_KNOWN:
            self.learns = self.hits > 0
            self.hits = 0
            self.clear()
        if self.learns:
            self[read[:size]] = head
