"""The thread that writes the ledger, in groups: nothing waits for a group to fill."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from dragoman.reasons import Reason
from dragoman_server.errors import DragomanError, Unavailable
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragoman_server.store.ledger.records import Act, Outcome, Told

logger = get_logger(__name__)

MOST = 256
"""Acts of a group, unless more are sent at once: a bound for how long a transaction holds its locks."""

ToldAll = Callable[["Sequence[Outcome] | Exception"], None]
"""Is told what became of acts, in their order."""

_Item = tuple["Sequence[Act]", ToldAll]


class Scribe(Protocol):
    """Writes groups of acts, on one thread."""

    def commit(self, acts: Sequence[Act]) -> list[Outcome]:
        """Does acts in one transaction, and returns what became of each when they are durable.

        Raises:
            Unavailable: If the database does not answer; then nothing was written, or everything was.
        """

    def close(self) -> None:
        """Closes the connection."""


def as_future(send: Callable[[Act, Told], None], act: Act) -> asyncio.Future[Outcome]:
    """Returns a future of what becomes of an act."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def tell(outcome: Outcome | Exception) -> None:
        if future.done():  # whoever waited was cancelled
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    send(act, tell)
    return future


class Writer:
    """Hands acts to a scribe on a thread of its own, which runs from the first act to `close`.

    What comes in one turn of the event loop, and what comes while a group is written, makes a group: each wakes the
    thread once, and is fetched from it once.
    """

    def __init__(self, scribe: Scribe) -> None:
        self._scribe = scribe
        self._groups: SimpleQueue[list[_Item] | None] = SimpleQueue()
        self._waiting: list[_Item] = []
        self._busy = False  # a group is written, or is about to be
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._closing: asyncio.Future[None] | None = None

    def send(self, act: Act, then: Told) -> None:
        """Does what `LedgerStore.send` says."""

        def told(outcomes: Sequence[Outcome] | Exception) -> None:
            then(outcomes if isinstance(outcomes, Exception) else outcomes[0])

        self.send_all((act,), told)

    def send_all(self, acts: Sequence[Act], then: ToldAll) -> None:
        """Does acts one after the other, in one group.

        Args:
            acts: What to do.
            then: Called once, in the event loop, perhaps within this call: with what became of them when that is
                durable, or with an error, as in `send`.
        """
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
            self._thread.start()
        if self._closing is not None:
            then(Unavailable("the server is shutting down", reason=Reason.SHUTTING_DOWN))
            return
        self._waiting.append((acts, then))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)

    async def close(self) -> None:
        """Writes what waits, then ends the thread."""
        if self._thread is None or self._closing is not None:
            return
        self._closing = self._loop.create_future()
        if not self._busy:
            self._closing.set_result(None)
        await self._closing
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        """Gives the thread what waits."""
        if not self._waiting:
            self._busy = False
            if self._closing is not None and not self._closing.done():
                self._closing.set_result(None)
            return
        count = 0
        for index, (acts, _) in enumerate(self._waiting):
            count += len(acts)
            if index and count > MOST:
                break
        else:
            index = len(self._waiting)
        group = self._waiting[:index]
        del self._waiting[:index]
        self._groups.put(group)

    def _written(self, group: Sequence[_Item], outcomes: Sequence[Outcome] | Exception) -> None:
        at = 0
        for acts, then in group:
            end = at + len(acts)
            try:
                then(outcomes if isinstance(outcomes, Exception) else outcomes[at:end])
            except Exception:
                logger.exception("what became of acts could not be told", act=type(acts[0]).__name__)
            at = end
        self._loop.call_soon(self._hand_over)  # behind those who were told: what they ask for next is in the next group

    def _write(self) -> None:
        """Writes groups: all that the thread does."""
        while (group := self._groups.get()) is not None:
            outcomes: Sequence[Outcome] | Exception
            try:
                outcomes = self._scribe.commit([act for acts, _ in group for act in acts])
            except DragomanError as error:
                outcomes = error
            except Exception as error:
                logger.exception("the ledger could not be written", acts=len(group))
                outcomes = error
            try:
                self._loop.call_soon_threadsafe(self._written, group, outcomes)
            except RuntimeError:  # the loop is closed: nobody waits any more
                logger.warning("nobody waited for entries of the ledger", acts=len(group))
        self._scribe.close()
