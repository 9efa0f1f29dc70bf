"""Messages pushed into a sink, in the call chain that produced them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from dragoman.streaming import CallStatus
from dragoman_server.inprocess.exchange import LOCALLY_CANCELLED, WINDOW, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from dragoman.streaming import StreamSink
    from dragoman_server.inprocess.metadata import WireMetadata


class PushFlow(Protocol):
    """What a producer offers to a slow reader. Both methods return at once and never raise."""

    def pause(self) -> None:
        """Asks to hold back messages; a few more may come."""

    def resume(self) -> None:
        """Lifts `pause`."""


class PushTarget:
    """Where a servicer pushes the messages of a call: `context.push`.

    A servicer that pushes waits for its source in any way it likes, returns when all is pushed, and leaves the rest
    (status, cancellation, deadline) to the context, as ever.
    """

    __slots__ = ("_exchange", "_flow", "_limit", "_open", "_paused", "_room", "_sink", "_text_sink", "_written")

    def __init__(self, exchange: Exchange, sink: StreamSink[Any], max_message_bytes: int) -> None:
        self._exchange = exchange
        self._sink = sink
        self._text_sink: Callable[[str, int], None] | None = getattr(sink, "on_text", None)
        self._limit = max_message_bytes
        self._open = True
        self._flow: PushFlow | None = None
        self._paused = False
        self._room: asyncio.Future[None] | None = None
        self._written = 0

    def on_message(self, message: Message, size: int | None = None) -> None:
        """Hands a message to the caller, at once. After the end of the call it is dropped.

        A message that is too large ends the call. The message is shared from here on: nobody may change it. It may be
        of another type than the method's, as long as it has the same fields.

        Args:
            message: The message.
            size: Its size in bytes, if known; may be stated too large.
        """
        if not self._open:
            return
        if (size is None or size > self._limit) and (exact := message.ByteSize()) > self._limit:
            self._exchange.fail(too_large("Sent", exact, self._limit))
            return
        if self._exchange.guard is not None:
            self._exchange.guard.keep(message)
        self._sink.on_message(message)

    def on_text(self, text: str, sequence: int, size: int) -> bool:
        """Does what `on_message` does with a piece of text, if the sink is a `dragoman.streaming.TextSink`.

        Args:
            text: The text.
            sequence: Sequence of its event.
            size: Size of the message that it would be, in bytes; may be stated too large.

        Returns:
            Whether the text was taken; if not, it must come as a message.
        """
        if self._text_sink is None or size > self._limit:
            return False
        if self._open:
            self._text_sink(text, sequence)
        return True

    def bind(self, flow: PushFlow) -> None:
        """Forwards the caller's `pause` and `resume` to a producer; a `pause` that is in force, too."""
        if self._open:
            self._flow = flow
            if self._paused:
                flow.pause()

    # For handlers that write or yield instead of pushing.

    async def put(self, message: Message) -> None:
        """Hands a message, whose size was checked, to the caller as soon as it is not paused."""
        while self._paused and self._open:
            self._room = self._exchange.loop.create_future()
            await self._room
        if self._open:
            self._sink.on_message(message)
        self._written += 1
        if self._written % WINDOW == 0:
            await asyncio.sleep(0)  # nothing else would ever make a quick producer give way

    # From the call.

    def pause(self) -> None:
        """Takes the caller's wish to hold back messages."""
        if self._open and not self._paused:
            self._paused = True
            if self._flow is not None:
                self._flow.pause()

    def resume(self) -> None:
        """Takes the caller's wish to go on."""
        if self._open and self._paused:
            self._paused = False
            self._give_room()
            if self._flow is not None:
                self._flow.resume()

    def finish(self, status: CallStatus) -> None:
        """Takes the handler's end: the caller has all messages already."""
        self._exchange.end(status)

    def close(self, status: CallStatus) -> None:
        """Takes the end of the call, and reports it to the sink on the next turn of the loop."""
        self._open = False
        self._flow = None
        self._give_room()
        self._exchange.loop.call_soon(self._sink.on_end, status)

    def _give_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class PushHandle:
    """A pushed stream, as its reader holds it: `dragoman.streaming.StreamHandle`."""

    __slots__ = ("_exchange", "_target")

    def __init__(self, exchange: Exchange, target: PushTarget) -> None:
        self._exchange = exchange
        self._target = target

    def cancel(self) -> None:
        """Ends the call with CANCELLED, unless it has ended."""
        self._exchange.give_up(LOCALLY_CANCELLED)

    def pause(self) -> None:
        """Asks to hold back messages."""
        self._target.pause()

    def resume(self) -> None:
        """Lifts `pause`."""
        self._target.resume()

    @property
    def initial_metadata(self) -> WireMetadata:
        """The initial metadata, as far as it has come."""
        return self._exchange.initial_metadata or ()


def too_large(verb: str, size: int, limit: int) -> CallStatus:
    """Returns the status of a call with a message of too many bytes; `verb` is Sent or Received."""
    return CallStatus(
        grpc.StatusCode.RESOURCE_EXHAUSTED, f"SERVER: {verb} message larger than max ({size} vs. {limit})"
    )
