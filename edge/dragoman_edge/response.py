"""Answers that are known as a whole: head and body are one write."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.web import BaseRequest

_NO_CONTENT = 204


class WholeResponse(web.StreamResponse):
    """An answer with its body.

    aiohttp's own `Response` can be changed, compressed and streamed until it is sent, and pays for that with every
    request; this one is rendered once.

    Args:
        body: The body; a HEAD request and status 204 leave it out.
        headers: The headers, without those about length, date and connection.
        status: The HTTP status.
    """

    def __init__(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        super().__init__(status=status)
        self._whole_body = body
        self._head = headers
        self._closes = False
        self._unwritten = b""
        self._writer: AbstractStreamWriter | None = None

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may be used again."""
        return not self._closes

    def force_close(self) -> None:
        """Closes the connection after the answer."""
        self._closes = True

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        """Renders the answer to a request.

        Raises:
            ValueError: If a header holds a line break.
        """
        self._closes = self._closes or not request.keep_alive
        self._writer = request.writer
        head = self._render_head(request)
        self._unwritten = head if request.method == hdrs.METH_HEAD else head + self._whole_body
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Writes the answer, and waits while the client is slow.

        Raises:
            ConnectionError: If the client has gone.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.write(self._unwritten)
            await writer.drain()

    def _render_head(self, request: BaseRequest) -> bytes:
        version = request.version
        lines = [f"HTTP/{version.major}.{version.minor} {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self._head.items()]
        if self.status != _NO_CONTENT:
            lines.append(f"Content-Length: {len(self._whole_body)}")
        lines.append(f"Date: {_date(int(time.time()))}")
        if self._closes:
            if version == HttpVersion11 and hdrs.CONNECTION not in self._head:
                lines.append("Connection: close")
        elif version == HttpVersion10:
            lines.append("Connection: keep-alive")
        head = "\r\n".join(lines)
        if head.count("\r") >= len(lines) or head.count("\n") >= len(lines):  # what the core names may hold anything
            raise ValueError("a header holds a line break")
        return f"{head}\r\n\r\n".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
