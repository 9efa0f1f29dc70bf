"""What goes back: answers that are known as a whole, and the heads of all answers."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.http.request import Request

_BODYLESS = frozenset({204, 304})
_STATUS_LINES = {
    (minor, one.value): f"HTTP/1.{minor} {one.value} {one.phrase}" for one in HTTPStatus for minor in (0, 1)
}


class Response:
    """An answer with its body.

    Attributes:
        body: The body; HEAD requests and statuses without a body leave it out.
        headers: The headers, without those about length, date, server and connection.
        lines: More of them, written already, each with its line break: none of them may hold another one.
        status: The HTTP status.
        close: Whether the connection is closed after it.
    """

    __slots__ = ("body", "close", "headers", "lines", "status")

    def __init__(
        self, body: bytes, headers: Mapping[str, str], status: int = 200, *, close: bool = False, lines: str = ""
    ) -> None:
        self.body = body
        self.headers = headers
        self.lines = lines
        self.status = status
        self.close = close

    def render(self, request: Request | None, common: str, *, close: bool) -> bytes:
        """Returns head and body.

        Args:
            request: What is answered; None if it is not known.
            common: The header lines of every answer.
            close: Whether the connection is closed after it.

        Raises:
            ValueError: If a header holds a line break.
        """
        status, body = self.status, self.body
        if status in _BODYLESS:
            return render_head(request, status, self.headers, common, close=close, lines=self.lines)
        common = f"{common}Content-Length: {len(body)}\r\n"
        head = render_head(request, status, self.headers, common, close=close, lines=self.lines)
        return head if request is not None and request.head.method == "HEAD" else head + body


def render_head(
    request: Request | None, status: int, headers: Mapping[str, str], common: str, *, close: bool, lines: str = ""
) -> bytes:
    """Returns the head of an answer.

    Args:
        request: What is answered; None if it is not known.
        status: The HTTP status.
        headers: The headers of this answer.
        common: Further header lines, each with its line break.
        close: Whether the connection is closed after it.
        lines: More header lines of this answer.

    Raises:
        ValueError: If a header holds a line break.
    """
    minor = 1 if request is None else request.head.minor
    own = ""
    for name, value in headers.items():
        own += f"{name}: {value}\r\n"
    if own.count("\r") != len(headers) or own.count("\n") != len(headers):  # what handlers tell may hold anything
        raise ValueError("a header holds a line break")
    if close:
        if minor:
            own += "Connection: close\r\n"
    elif not minor:
        own += "Connection: keep-alive\r\n"
    line = _STATUS_LINES.get((minor, status)) or f"HTTP/1.{minor} {status} "
    return f"{line}\r\n{lines}{own}{common}\r\n".encode()
