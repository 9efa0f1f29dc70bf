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
        status: The HTTP status.
        close: Whether the connection is closed after it.
    """

    __slots__ = ("body", "close", "headers", "status")

    def __init__(self, body: bytes, headers: Mapping[str, str], status: int = 200, *, close: bool = False) -> None:
        self.body = body
        self.headers = headers
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
            return render_head(request, status, self.headers, common, close=close)
        common = f"{common}Content-Length: {len(body)}\r\n"
        head = render_head(request, status, self.headers, common, close=close)
        return head if request is not None and request.method == "HEAD" else head + body


def render_head(request: Request | None, status: int, headers: Mapping[str, str], common: str, *, close: bool) -> bytes:
    """Returns the head of an answer.

    Args:
        request: What is answered; None if it is not known.
        status: The HTTP status.
        headers: The headers of this answer.
        common: Further header lines, each with its line break.
        close: Whether the connection is closed after it.

    Raises:
        ValueError: If a header holds a line break.
    """
    minor = 1 if request is None else request.minor
    lines = [_STATUS_LINES.get((minor, status)) or f"HTTP/1.{minor} {status} "]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if close:
        if minor:
            lines.append("Connection: close")
    elif not minor:
        lines.append("Connection: keep-alive")
    head = "\r\n".join(lines)
    if head.count("\r") >= len(lines) or head.count("\n") >= len(lines):  # what handlers tell may hold anything
        raise ValueError("a header holds a line break")
    return f"{head}\r\n{common}\r\n".encode()
