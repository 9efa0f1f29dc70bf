"""A server of one wire dialect that says what a test wants, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.e2e.matrix.words import SILENCE, Said, Seen
from tests.support.upstream_server import CLOSE, Connection, Request, UpstreamServer, chunked, head, send, whole

KEY = "sk-the-key-of-this-server-0123456789"
TROUBLE = f"it hurts; see https://console.example.com/keys?key={KEY} or ask {KEY}"
"""What errors say; neither the address nor the key may get to clients."""
RETRY_AFTER = 7


@dataclass(frozen=True)
class Words:
    """A wire dialect, as a server speaks it.

    Attributes:
        dialect: The provider's dialect in the configuration.
        model: The name of the model.
        streams: Whether a request asks for a stream.
        seen: What a request says.
        content: The events of an answer, up to its end.
        ending: The events of its end.
        whole: An answer in one piece.
        error: The body of an error, by its status.
        error_event: An event that tells an error.
    """

    dialect: str
    model: str
    streams: Callable[[Request], bool]
    seen: Callable[[Request], Seen]
    content: Callable[[Said], Iterator[bytes]]
    ending: Callable[[Said], Iterator[bytes]]
    whole: Callable[[Said], Any]
    error: Callable[[int], Any]
    error_event: Callable[[], bytes]


@dataclass
class HttpBackend:
    """The server; `said` is what it says next."""

    words: Words
    said: Said = SILENCE
    requests: list[Request] = field(default_factory=list)

    def server(self) -> UpstreamServer:
        return UpstreamServer(self._answer)

    @property
    def seen(self) -> Seen:
        return self.words.seen(self.requests[-1])

    async def _answer(self, request: Request, connection: Connection) -> None:
        self.requests.append(request)
        await send(connection, self._pieces(request))

    def _pieces(self, request: Request) -> Iterator[object]:
        said, words = self.said, self.words
        if said.trouble.isdigit():
            status = int(said.trouble)
            headers: dict[str, Any] = {"Retry_After": RETRY_AFTER} if status == 429 else {}
            yield whole(status, orjson.dumps(words.error(status)), **headers)
        elif words.streams(request):
            yield head(200, "text/event-stream", Transfer_Encoding="chunked")
            for event in words.content(said):
                yield chunked(event)
            if said.trouble == "cut":
                yield CLOSE
                return
            for event in [words.error_event()] if said.trouble else words.ending(said):
                yield chunked(event)
            yield b"0\r\n\r\n"
        else:
            assert not said.trouble
            yield whole(200, orjson.dumps(words.whole(said)))
