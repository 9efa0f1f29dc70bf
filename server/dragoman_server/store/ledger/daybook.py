"""Charges in a file that outlives the process, until they are written in the ledger.

To commit a charge is to wait for the disk. So charges to what is reserved ahead are noted first, in a file that is
mapped into memory: that is enough for them to survive the process. Some milliseconds later they are written in the
ledger, many in one transaction. Whoever finds the file of a dead process writes what it says in the ledger, before
anything is released; what was written before changes nothing then, so nobody has to know how much of it was.

The file has two pages. Each is filled from its beginning, and again from there when all that it says is written. A line
is the checksum of what follows (eight hexadecimal digits), a space, and the fields of a `Spend` in JSON.
"""

from __future__ import annotations

import asyncio
import os
from mmap import mmap
from typing import TYPE_CHECKING
from zlib import crc32

from orjson import JSONDecodeError, dumps, loads

from dragoman.reasons import Reason
from dragoman_server.errors import Unavailable
from dragoman_server.store.ledger.records import Spend, Verdict
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dragoman_server.store.ledger.records import Act, Outcome, Told
    from dragoman_server.store.ledger.writer import ToldAll

logger = get_logger(__name__)

DELAY = 0.1
"""Seconds from the first note to the ledger, if that answers. What is not written is lost in a power cut: the work was
given away."""
MOST = 1024
"""Notes that go to the ledger at once, however soon."""
PAGE_BYTES = 1 << 19
PAUSE = 1.0
"""Seconds before the next try, while the database does not answer; twice as many before each that follows."""
MOST_PAUSE = 30.0
MOST_DOUBLINGS = 10  # of the pause: many more would be no number
READ_PATIENCE = 1.0
"""Seconds for which readers wait until what is noted is written; then they see the ledger as it is."""

_SUM_CHARS = 9
_TYPES = (str, str, str, str, int, str, str, str, int)
"""Those of the fields of a `Spend`."""


class _Page:
    """A part of the file.

    Args:
        begin: Where it begins.

    Attributes:
        begin: Where it begins.
        end: Where the next line goes.
        open: How many of its lines are not written in the ledger yet.
    """

    __slots__ = ("begin", "end", "open")

    def __init__(self, begin: int) -> None:
        self.begin = self.end = begin
        self.open = 0


class _Posting:
    """Notes of a page that go to the ledger together.

    Attributes:
        page: The page.
        spends: What they say.
        thens: Who is told of each.
        readers: Who waits until they are written.
        tries: How often they could not be.
    """

    __slots__ = ("page", "readers", "spends", "thens", "tries")

    def __init__(self, page: _Page) -> None:
        self.page = page
        self.spends: list[Spend] = []
        self.thens: list[Told] = []
        self.readers: list[asyncio.Future[None]] = []
        self.tries = 0


class Daybook:
    """Notes charges, and has them written in the ledger soon.

    Args:
        send_all: Has the ledger do acts; see `Writer.send_all`.
    """

    def __init__(self, send_all: Callable[[Sequence[Act], ToldAll], None]) -> None:
        self._send_all = send_all
        self._file: mmap | None = None
        self._page, self._other = _Page(0), _Page(PAGE_BYTES)
        self._noted = _Posting(self._page)
        self._posted: dict[_Posting, None] = {}  # what is not written yet, in order
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_written(self) -> bool:
        """Whether all that was noted is in the ledger."""
        return not (self._page.open or self._other.open)

    def open(self, descriptor: int) -> None:
        """Begins to note in an empty file; if there is something in it, or it cannot be mapped, nothing is noted."""
        if not self.is_written or os.fstat(descriptor).st_size:
            logger.warning("charges are written at once: there are older ones that are not written yet")
            return
        try:
            os.pwrite(descriptor, bytes(2 * PAGE_BYTES), 0)  # so that there is room on the disk, whatever comes
            self._file = mmap(descriptor, 2 * PAGE_BYTES)
        except (OSError, ValueError) as error:
            logger.warning("charges cannot be noted, and are written at once", error=str(error))

    def close(self) -> None:
        """Notes nothing more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def note(self, spend: Spend, then: Told) -> bool:
        """Notes a charge; see `LedgerStore.note`."""
        if self._file is None:
            return False
        text = dumps((*spend,))
        line = b"%08x %b\n" % (crc32(text), text)
        page = self._page
        end = page.end + len(line)
        if end > page.begin + PAGE_BYTES:
            if self._other.open or len(line) > PAGE_BYTES:  # the ledger cannot keep up: then let it be waited for
                return False
            self.post()
            self._page, self._other = page, _ = self._other, page
            self._noted = _Posting(page)
            end = page.end + len(line)
        self._file[page.end : end] = line
        page.end = end
        page.open += 1
        noted = self._noted
        noted.spends.append(spend)
        noted.thens.append(then)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self.post)
        elif len(noted.spends) >= MOST:
            self.post()
        return True

    def post(self) -> None:
        """Has what is noted written in the ledger now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            posting, self._noted = self._noted, _Posting(self._page)
            self._posted[posting] = None
            self._post(posting)

    async def settle(self) -> None:
        """Waits until what is noted by now is in the ledger, for `READ_PATIENCE` seconds at most."""
        self.post()
        if self._posted:
            create_future = asyncio.get_running_loop().create_future
            written: list[asyncio.Future[None]] = []
            for posting in self._posted:
                posting.readers.append(reader := create_future())
                written.append(reader)
            await asyncio.wait(written, timeout=READ_PATIENCE)

    def _post(self, posting: _Posting) -> None:
        def told(outcomes: Sequence[Outcome] | Exception) -> None:
            if isinstance(outcomes, Exception):
                self._failed(posting, outcomes)
            else:
                self._written(posting, outcomes)

        self._send_all(posting.spends, told)

    def _failed(self, posting: _Posting, error: Exception) -> None:
        """Tries again later, unless this process ends: then the notes are left to whoever finds the file."""
        charges = len(posting.spends)
        if isinstance(error, Unavailable) and error.reason is Reason.SHUTTING_DOWN:
            logger.warning("charges that were noted are left to the next process", charges=charges)
            self._tell_readers(posting)
            return
        logger.warning("charges that were noted are not written yet", charges=charges, error=str(error))
        pause = min(PAUSE * 2 ** min(posting.tries, MOST_DOUBLINGS), MOST_PAUSE)
        posting.tries += 1
        asyncio.get_running_loop().call_later(pause, self._post, posting)

    def _written(self, posting: _Posting, outcomes: Sequence[Outcome]) -> None:
        page = posting.page
        page.open -= len(outcomes)
        if not page.open:
            page.end = page.begin
        for then, outcome in zip(posting.thens, outcomes, strict=True):
            then(outcome)
        log_lost(posting.spends, outcomes)
        self._tell_readers(posting)

    def _tell_readers(self, posting: _Posting) -> None:
        del self._posted[posting]
        for reader in posting.readers:
            if not reader.done():
                reader.set_result(None)


def read(descriptor: int) -> list[Spend]:
    """Returns the charges that a file tells of; some of them may be written in the ledger."""
    spends = []
    for begin in (0, PAGE_BYTES):
        for line in os.pread(descriptor, PAGE_BYTES, begin).split(b"\n"):
            text = line[_SUM_CHARS:]
            if line[:_SUM_CHARS] != b"%08x " % crc32(text):  # the end of what was noted
                break
            try:
                spends.append(_spend_of(loads(text)))
            except (JSONDecodeError, ValueError):
                logger.error("a process that is dead noted what this release does not understand", bytes=len(text))
    return spends


def log_lost(spends: Iterable[Spend], outcomes: Iterable[Outcome]) -> None:
    """Logs charges for which nothing is reserved any more: somebody has given back what was not theirs."""
    for spend, outcome in zip(spends, outcomes, strict=True):
        if outcome[0] is Verdict.MISSING:
            logger.error("a charge was not written", run_id=spend.run_id, amount=spend.charge_micros)


def _spend_of(fields: object) -> Spend:
    """Returns a charge.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(fields, list) or tuple(map(type, fields)) != _TYPES:
        raise ValueError("this is no charge")
    return Spend(*fields)
