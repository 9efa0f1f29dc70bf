"""Bytes in, requests out: llhttp's strict parser, and the rules of HTTP that it leaves to its users."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from dragoman_edge.http.body import Body
from dragoman_edge.http.errors import BodyError, HttpError
from dragoman_edge.http.request import Head, Request

if TYPE_CHECKING:
    from dragoman_edge.http.limits import Limits

_END = b"\r\n\r\n"
"""The end of every head and of every body in chunks."""

_MINOR_VERSIONS = {"HTTP/1.1": 1, "HTTP/1.0": 0}
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")

_LONGEST_LENGTH = 10
"""Digits of a Content-Length that a known head may differ by."""

_LARGEST_KNOWN = 8 * 1024
"""Bytes of a head up to which it is kept: connections that wait for nothing but a request must hold little."""


class _Known(NamedTuple):
    """A head that came on the connection. Clients say the same of themselves each time, but for the length of a body.

    Attributes:
        before: What stands before the number of its Content-Length.
        after: What stands behind the number.
        size: Bytes of the head, the last time it came.
        head: What it says.
    """

    before: bytes
    after: bytes
    size: int
    head: Head


class RequestParser:
    """Parses the requests of one connection, one at a time.

    llhttp decides what is HTTP, and where a request ends. It accepts no line break but CR LF, no folded lines, no space
    before a colon, and no control characters in values; a head that it has accepted can therefore be split at its
    line breaks, which costs less than two calls for each header.

    llhttp cannot be told to stop after a request. It is fed no further than a head or a request may end, so that what
    comes after a request waits as bytes, and not as any number of requests.

    Attributes:
        request: The request whose head is complete; its body may be on its way. None lets the next one be parsed.
    """

    __slots__ = ("_barren", "_head", "_known", "_left", "_limits", "_llhttp", "_tail", "_upgrading", "request")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._llhttp: HttpRequestParser | None = HttpRequestParser(self)
        self._head = b""  # what has come of a head
        self._left = 0  # bytes of a body of known length that are still to come
        self._barren = 0  # bytes of a body in chunks since its last data
        self._tail = b""  # its last bytes: they may be the first of an _END
        self._upgrading = False
        self._known: _Known | None = None
        self.request: Request | None = None

    @property
    def in_head(self) -> bool:
        """Whether a head has begun, and is not complete."""
        return bool(self._head)

    def feed(self, data: bytes) -> bytes:
        """Parses until the request is complete, and returns what comes after it.

        Raises:
            HttpError: If the request is no good HTTP, or exceeds a limit.
        """
        while data:
            request = self.request
            if request is None:
                data = self._feed_head(data)
            elif request.body.complete:
                break
            elif self._left:
                left, self._left = self._left, max(self._left - len(data), 0)
                self._parse(data[:left])
                data = data[left:]
            else:
                data = self._feed_chunks(data)
        return data

    def repeated(self, data: bytes) -> Request | None:
        """Returns the request that the bytes are, if they are one as it came before: nothing is left to parse.

        They must be all of it, its head that of the last one but for the number of its length, and that number the one
        that fits the bytes, of as many digits as the last one. Then llhttp, which stands between two requests, would
        find no other end for it; it is not asked. Whatever is different in any way is for `feed`.
        """
        known = self._known
        if known is None or self.request is not None or self._head:
            return None
        before, after, size, head = known
        length = len(data) - size
        if length < 0 or data[:size] != b"%b%d%b" % (before, length, after):
            return None
        self.request = request = Request(head, Body(length, data[size:]))
        return request

    def close(self) -> None:
        """Ends parsing. Parser and connection then no longer keep each other."""
        self._llhttp = None
        self._known = self.request = None

    def _feed_head(self, data: bytes) -> bytes:
        before, limit = len(self._head), self._limits.head
        head = self._head + data if before else data
        end = head.find(_END, max(0, before - len(_END) + 1))
        size = end + len(_END) if end >= 0 else len(head)
        if size > limit:
            head, size = head[: limit + 1], limit + 1
        self._head = head[:size]
        self._parse(self._head[before:])
        if self.request is not None:
            self._head = b""
        elif size > limit:
            raise _head_too_large(f"The request has a head of more than {limit} bytes.")
        return head[size:]

    def _feed_chunks(self, data: bytes) -> bytes:
        end = (self._tail + data).find(_END)
        size = len(data) if end < 0 else end + len(_END) - len(self._tail)
        self._barren += size
        self._tail = (self._tail + data[:size])[1 - len(_END) :]
        self._parse(data[:size])
        if self._barren > self._limits.head:
            raise BodyError("The framing of the request body is too long.", code="invalid_body")
        return data[size:]

    def _parse(self, piece: bytes) -> None:
        if self._llhttp is None:  # what follows a CONNECT is not HTTP
            return
        try:
            self._llhttp.feed_data(piece)
        except HttpParserUpgrade:  # it comes at the end of a head, where the piece ends
            self._ignore_upgrade()
        except HttpParserError as error:
            raise _fault(error, self.request) from None

    def _ignore_upgrade(self) -> None:
        """Goes on with HTTP/1.1: clients that offer another protocol must cope with that.

        llhttp takes such a request for one without a body. A new parser is told of the body that it has.
        """
        request = self.request
        if request is None or request.method == "CONNECT":
            self._llhttp = self._known = None
            return
        declared = request.body.declared
        framing = "Transfer-Encoding: chunked" if declared is None else f"Content-Length: {declared}"
        self._llhttp = HttpRequestParser(self)
        self._llhttp.feed_data(f"POST / HTTP/1.{request.head.minor}\r\n{framing}\r\n\r\n".encode())

    # Called by llhttp, from within feed_data

    def on_headers_complete(self) -> None:
        """Makes the request.

        Raises:
            HttpError: If the head cannot be accepted.
        """
        if self._upgrading:  # this head was written by `_ignore_upgrade`
            self._upgrading = False
            return
        self.request = request = self._known_request() or self._read_head()
        self._left = request.body.declared or 0
        self._barren, self._tail = 0, b""

    def _known_request(self) -> Request | None:
        """Returns the request of a head that differs from the known one by its length at most; None for others."""
        if self._known is None:
            return None
        raw, (before, after, size, head) = self._head, self._known
        digits = raw[len(before) : -len(after)]
        if not (digits.isdigit() and raw.startswith(before) and raw.endswith(after)):
            return None
        if len(digits) > _LONGEST_LENGTH:
            return None
        if len(raw) != size:
            self._known = self._known._replace(size=len(raw))
        return Request(head, Body(int(digits)))

    def _remember(self, head: Head, number: bytes) -> None:
        """Keeps what a checked head says, for the next one.

        Args:
            head: What it says.
            number: The number of its Content-Length, as it came.
        """
        raw = self._head
        line = raw.lower().find(b"\r\ncontent-length:")
        start = raw.index(number, line + len(b"\r\ncontent-length:"))
        self._known = _Known(raw[:start], raw[start + len(number) :], len(raw), head)

    def _read_head(self) -> Request:
        """Checks the head and returns the request.

        Raises:
            HttpError: If the head cannot be accepted.
        """
        assert self._llhttp is not None
        # Bytes that are not UTF-8 become lone surrogates.
        request_line, *lines = self._head.lstrip(b"\r\n")[: -len(_END)].decode("utf-8", "surrogateescape").split("\r\n")
        if len(self._head) > self._limits.field or len(lines) > self._limits.fields:
            self._check_sizes(request_line, lines)
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.lower()
            if name not in headers:
                headers[name] = value.strip(" \t")
        method, target, minor = _split(request_line)
        declared = _declared_length(headers, minor)
        keep_alive = self._llhttp.should_keep_alive()
        if "upgrade" in headers or method == "CONNECT":
            self._upgrading = self._llhttp.should_upgrade() and method != "CONNECT"
            keep_alive = keep_alive and method != "CONNECT"
        number = headers.get("content-length", "")
        head = Head(method, target, minor, headers, lines, keep_alive)
        request = Request(head, Body(declared))
        if minor:
            _check_host(request)
        repeatable = declared and keep_alive and "upgrade" not in headers and self._head[:1] != b"\r"
        if repeatable and len(self._head) <= _LARGEST_KNOWN:
            self._remember(head, number.encode())
        return request

    def on_body(self, piece: bytes) -> None:
        """Takes a piece of the body."""
        self._barren = 0
        assert self.request is not None
        self.request.body.feed(piece)

    def on_message_complete(self) -> None:
        """Notes that the request is complete."""
        if not self._upgrading:  # else the body is still to come
            assert self.request is not None
            self.request.body.end()

    def _check_sizes(self, request_line: str, lines: list[str]) -> None:
        limit = self._limits.field
        if max(len(line.encode("utf-8", "surrogateescape")) for line in (request_line, *lines)) > limit:
            raise _head_too_large(f"The request has a header of more than {limit} bytes.")
        if len(lines) > self._limits.fields:
            raise _head_too_large(f"The request has more than {self._limits.fields} headers.")


def _split(request_line: str) -> tuple[str, str, int]:
    """Returns method, target and minor version."""
    parts = request_line.split(" ")
    if len(parts) != 3:
        raise HttpError("The request line is not a method, a target and a version, with single spaces.")
    method, target, version = parts
    if version not in _MINOR_VERSIONS:
        raise HttpError("This server speaks HTTP/1.1 and HTTP/1.0.")
    return method, target, _MINOR_VERSIONS[version]


def _declared_length(headers: dict[str, str], minor: int) -> int | None:
    """Returns the length of a body; llhttp has seen to it that at most one header tells it, once."""
    coding = headers.get("transfer-encoding")
    if coding is None:
        return int(headers.get("content-length", 0))
    if coding.lower() != "chunked":
        raise HttpError("The only Transfer-Encoding that this server takes is chunked.")
    if not minor:
        raise HttpError("HTTP/1.0 has no Transfer-Encoding.")
    return None


def _check_host(request: Request) -> None:
    """Refuses what proxies could read in two ways: no host, two of them, or one that is none."""
    hosts = request.all_values("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise HttpError("A request needs exactly one Host header, with a host.")


def _head_too_large(message: str) -> HttpError:
    return HttpError(message, status=431, code="header_too_large")


def _fault(error: HttpParserError, request: Request | None) -> HttpError:
    if isinstance(error.__context__, HttpError):  # what a callback raised
        return error.__context__
    if request is not None:
        return BodyError("The request body breaks the HTTP protocol.", code="invalid_body")
    return HttpError("The request breaks the HTTP protocol.")
