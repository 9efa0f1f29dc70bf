"""A request, as handlers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dragoman_edge.http.errors import BodyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.http.body import Body
    from dragoman_edge.http.response import Response
    from dragoman_edge.http.stream import Stream


class Wire(Protocol):
    """What a request needs of the connection that it came on."""

    def ask_for_body(self) -> None:
        """Tells a client that waits for it to send its body."""

    def reply(self, answer: Response) -> None:
        """Answers the request, if what answers it has said that the answer comes later."""

    async def receive(self, request: Request, limit: int) -> None:
        """Waits until the body of a request is complete, or larger than `limit`.

        Raises:
            BodyError: If it comes too slowly, or breaks off.
        """

    def begin(self, request: Request, status: int, headers: Mapping[str, str], first: bytes, *, last: bool) -> Stream:
        """Begins an answer whose length is not known."""


class Head:
    """What the head of a request says. Requests of a connection share it if they differ in nothing but their length.

    Attributes:
        method: The method.
        raw_target: The request target, as it stands in the request line.
        path: The path in it, still encoded; `*` or an authority for the methods that have no path.
        query: The query in it, still encoded, without the question mark.
        minor: 1 for HTTP/1.1, 0 for HTTP/1.0.
        headers: The headers by lower-case name, without Content-Length; of repeated ones the first.
        lines: The header lines as they came, with the first request.
        repeats: Whether a header came twice.
        keep_alive: Whether the client wants to go on using the connection.
        facts: What whoever answers has found out from the head, and need not find out again.
    """

    __slots__ = (
        "facts",
        "headers",
        "keep_alive",
        "lines",
        "method",
        "minor",
        "path",
        "query",
        "raw_target",
        "repeats",
    )

    def __init__(
        self, method: str, target: str, minor: int, headers: dict[str, str], lines: list[str], keep_alive: bool
    ) -> None:
        self.method = method
        self.raw_target = target
        self.path, _, self.query = (target if target[:1] == "/" else _origin_form(target)).partition("?")
        self.minor = minor
        self.repeats = len(headers) != len(lines)
        headers.pop("content-length", None)
        self.headers = headers
        self.lines = lines
        self.keep_alive = keep_alive
        self.facts: Any = None


class Request:
    """A request. Its head is complete; its body may still be on its way.

    Attributes:
        head: What its head says.
        body: The body on its way; `read` returns it.
        wire: The connection that it came on.
        stream: The answer, if it has begun and its length is not known.
    """

    __slots__ = ("body", "head", "stream", "wire")

    wire: Wire

    def __init__(self, head: Head, body: Body) -> None:
        self.head = head
        self.body = body
        self.stream: Stream | None = None

    @property
    def method(self) -> str:
        """The method."""
        return self.head.method

    @property
    def path(self) -> str:
        """The path, still encoded."""
        return self.head.path

    @property
    def query(self) -> str:
        """The query, still encoded."""
        return self.head.query

    @property
    def headers(self) -> dict[str, str]:
        """The headers by lower-case name, without Content-Length; of repeated ones the first."""
        return self.head.headers

    def all_values(self, name: str) -> list[str]:
        """Returns all values of a header; the name is in lower case."""
        if name not in self.headers:
            return []
        if not self.head.repeats:
            return [self.headers[name]]
        return [value for given, value in self.fields() if given.lower() == name]

    def fields(self) -> list[tuple[str, str]]:
        """Returns the headers in their order, named as they came."""
        split = (line.partition(":") for line in self.head.lines)
        length = str(self.body.declared)
        return [(name, length if name.lower() == "content-length" else value.strip(" \t")) for name, _, value in split]

    async def read(self, limit: int) -> bytes:
        """Returns the whole body. It does not wait if the body has come with the head.

        Raises:
            BodyError: If it is larger than `limit` bytes, comes too slowly, or breaks off.
        """
        body = self.body
        if body.declared is not None and body.declared > limit:
            raise _too_large(limit)
        if "expect" in self.headers and self.headers["expect"].lower() == "100-continue" and self.head.minor:
            self.wire.ask_for_body()
        if not body.complete:
            await self.wire.receive(self, limit)
        if body.unread > limit:
            raise _too_large(limit)
        return body.take()

    def begin(self, headers: Mapping[str, str], first: bytes, *, last: bool = False, status: int = 200) -> Stream:
        """Begins an answer whose length is not known: the head and the first bytes of its body are one write.

        Raises:
            ValueError: If a header holds a line break.
        """
        self.stream = self.wire.begin(self, status, headers, first, last=last)
        return self.stream


def _origin_form(target: str) -> str:
    """Returns path and query of a target; proxies may send the whole address."""
    if target.startswith("/"):
        return target
    scheme, found, rest = target.partition("://")
    if not found or not scheme.isalpha():
        return target
    for index, mark in enumerate(rest):
        if mark == "/":
            return rest[index:]
        if mark == "?":
            return "/" + rest[index:]
    return "/"


def _too_large(limit: int) -> BodyError:
    return BodyError(
        f"The request body is larger than the {limit} bytes that this server takes.",
        status=413,
        code="request_too_large",
    )
