"""A conversation in words of nobody's: what is asked, what the model says, and what either side gets to see of it.

Clients (`inward_*`) put an `Ask` into their dialect and read the answer as an `Answer`; servers (`outward_*`) read a
request as an `Ask` and put what the model `Said` into theirs. Neither uses a line of the product: what one side writes
and the other reads is compared here.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Call:
    """A call of a tool; `pieces` are its arguments as they stream."""

    id: str
    name: str
    pieces: tuple[str, ...]
    signature: bytes = b""

    @property
    def arguments(self) -> Any:
        return json.loads("".join(self.pieces))


@dataclass(frozen=True)
class Result:
    """What a tool answered: JSON."""

    call_id: str
    name: str
    value: str


@dataclass(frozen=True)
class Turn:
    """What somebody said: `user`, `assistant` or `tool`."""

    role: str
    text: str = ""
    images: tuple[bytes, ...] = ()
    thoughts: str = ""
    signature: bytes = b""
    calls: tuple[Call, ...] = ()
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """A request. `thoughts` asks to see them; `schema` is a JSON Schema, `{}` any JSON object."""

    turns: tuple[Turn, ...]
    system: str = ""
    developer: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    seed: int | None = None
    logprobs: bool = False
    thoughts: bool = False


@dataclass(frozen=True)
class Seen:
    """A request as a server understands it; instructions are in order, wherever they stood."""

    instructions: tuple[str, ...]
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    seed: int | None = None
    logprobs: bool = False


@dataclass(frozen=True)
class Tokens:
    """What an answer consumed: the whole prompt, and the whole answer with its thoughts."""

    read: int = 11
    written: int = 7
    cached: int = 0
    thoughts: int = 0


@dataclass(frozen=True)
class Said:
    """What the model says. `trouble` takes the place of the end: a status, `error frame` or `cut`."""

    text: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    signature: bytes = b""
    calls: tuple[Call, ...] = ()
    finish: str = "stop"
    tokens: Tokens = Tokens()
    logprobs: bool = False
    trouble: str = ""


SILENCE = Said()


@dataclass(frozen=True)
class Answer:
    """An answer as a client understands it."""

    text: str
    pieces: tuple[str, ...]
    thoughts: str
    signature: bytes
    calls: tuple[Call, ...]
    finish: str
    tokens: Tokens | None
    logprobs: int
    served: Served


@dataclass(frozen=True)
class Served:
    """What an answer tells about who made it and how."""

    model: str = ""
    provider: str = ""
    attempts: int = 0
    emulated: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


class Failed(Exception):
    """An error as a client understands it.

    Attributes:
        reason: Its stable name.
        status: The HTTP status, the gRPC code, or `run` for a run that failed.
        message: For people.
        field: What is at fault, in the words of the dialect.
        retry_after: Seconds to wait.
        said: The text that came before.
        raw: All that was sent.
    """

    def __init__(
        self,
        reason: str,
        status: int | str,
        message: str,
        *,
        raw: str,
        field: str = "",
        retry_after: float = 0,
        said: str = "",
    ) -> None:
        super().__init__(f"{reason} ({status}): {message} [{field}]")
        self.reason, self.status, self.message, self.field = reason, status, message, field
        self.retry_after, self.said, self.raw = retry_after, said, raw


def whole(call: Call) -> Call:
    """Returns a call with its arguments in one piece, as everybody writes them."""
    return replace(call, pieces=(json.dumps(call.arguments, sort_keys=True),))


def joined(turns: list[Turn]) -> tuple[Turn, ...]:
    """Returns turns with neighbouring results of tools in one, and all JSON written alike."""
    made: list[Turn] = []
    for turn in turns:
        results = tuple(replace(one, value=json.dumps(json.loads(one.value))) for one in turn.results)
        turn = replace(turn, calls=tuple(map(whole, turn.calls)), results=results)
        if made and turn.role == made[-1].role == "tool":
            made[-1] = replace(made[-1], results=made[-1].results + turn.results)
        else:
            made.append(turn)
    return tuple(made)


def seen_of(ask: Ask) -> Seen:
    """Returns what a server is to see of a request."""
    return Seen(
        tuple(filter(None, (ask.system, ask.developer))),
        joined(list(ask.turns)),
        ask.tools,
        ask.tool_choice,
        ask.schema,
        ask.max_tokens,
        ask.stop,
        ask.temperature,
        ask.seed,
        ask.logprobs,
    )


def png(red: int) -> bytes:
    """Returns a picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes([0, red, 0, 0]))) + chunk(b"IEND", b"")
