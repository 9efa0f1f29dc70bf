"""How long runs are kept: for a while after their end, and while all together stay within their bytes."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING

from dragoman.v1.run_pb2 import Run
from dragoman_server.runs.finished import FinishedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragoman_server.runs.finished import KeptRun, Owner
    from dragoman_server.runs.run import LiveRun

RUN_OVERHEAD_BYTES = 4096
"""What a run takes beyond its events, roughly: its parts, and a record that says what the events say."""

RECORD_OVERHEAD_BYTES = 512
"""What the record of a run takes beyond its own bytes, roughly."""


_FIELD_BYTES = 11
"""What a field with a message takes beyond the message, at most: tag and length."""


class Budget:
    """The bytes that all kept runs may take together.

    Attributes:
        limit: The bound, in bytes.
        used: What is taken, in bytes.
        reclaim: Called when more is taken than the limit; frees what can be freed.
    """

    __slots__ = ("limit", "reclaim", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.reclaim: Callable[[], None] | None = None

    def take(self, size: int) -> None:
        """Counts bytes as taken."""
        self.used += size
        if self.used > self.limit:
            self.enforce()

    def enforce(self) -> None:
        """Frees what can be freed: more is taken than the limit."""
        if self.reclaim is not None:
            self.reclaim()

    def give(self, size: int) -> None:
        """Counts bytes as free again."""
        self.used -= size


_Record = tuple["Owner", float, bytes]
"""A bare record: whose it is, the loop time of its end, and its bytes. There may be a hundred thousand of them, and the
garbage collector passes over plain tuples of such things.
"""


class Retention:
    """All runs that are kept: those that go on, those that ended and can be watched again, and bare records.

    Args:
        budget: What they may take together.
        seconds: How long a run is kept after its end.
        forget: Called with each run that is let go of, unless only its record was left.
    """

    def __init__(self, budget: Budget, seconds: float, forget: Callable[[LiveRun], None]) -> None:
        self._budget = budget
        self._seconds = seconds
        self._forget = forget
        self._runs: dict[str, LiveRun] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()  # id of a run in `_runs` -> loop time of its end
        self._records: OrderedDict[str, _Record] = OrderedDict()  # by time of the end
        budget.reclaim = self._reclaim

    def __len__(self) -> int:
        return len(self._runs) + len(self._records)

    def newest_first(self) -> Iterator[KeptRun]:
        """Iterates over the kept runs by the time of their start."""
        for run_id in heapq.merge(*(sorted(ids, reverse=True) for ids in (self._runs, self._records)), reverse=True):
            run = self.get(run_id)
            if run is not None:
                yield run

    def get(self, run_id: str) -> KeptRun | None:
        """Returns a kept run."""
        run = self._runs.get(run_id)
        if run is not None:
            return run
        record = self._records.get(run_id)
        return None if record is None else FinishedRun(record[0], Run.FromString(record[2]))

    def has_room(self, most: int) -> bool:
        """Whether a run more may begin: fewer than `most` go on, and they do not use up the bytes."""
        return len(self._runs) - len(self._ended) < most and self._budget.used <= self._budget.limit

    def active_runs(self) -> list[LiveRun]:
        """Returns the runs that go on."""
        return [run for run in self._runs.values() if not run.ended]

    def add(self, run: LiveRun) -> None:
        """Keeps a run that begins."""
        self._runs[run.id] = run
        budget = self._budget
        budget.used += RUN_OVERHEAD_BYTES  # as `Budget.take`, without the call
        if budget.used > budget.limit:
            budget.enforce()

    def finish(self, run: LiveRun, now: float) -> None:
        """Takes note that a run has ended, `now` in the loop's time."""
        if run.id in self._runs:
            if run.whole_record is None:
                self._ended[run.id] = now
            else:
                self._keep_record(run, now, run.whole_record)

    def reduce(self, run: LiveRun) -> int | None:
        """Keeps only the record of a run that has ended: nobody can come back to its events.

        Returns:
            How large a response with the record is at most, in bytes; None if the run was not kept.
        """
        ended = self._ended.pop(run.id, None)
        if ended is None:
            return None
        run.log.clear()
        data = run.record().SerializeToString()
        self._keep_record(run, ended, data)
        return len(data) + _FIELD_BYTES

    def _keep_record(self, run: LiveRun, ended: float, record: bytes) -> None:
        """Keeps a bare record in place of its run."""
        del self._runs[run.id]
        self._records[run.id] = (run.owner, ended, record)
        budget = self._budget
        budget.used += RECORD_OVERHEAD_BYTES + len(record) - RUN_OVERHEAD_BYTES  # as `Budget.take`, without the call
        if budget.used > budget.limit:
            budget.enforce()

    def sweep(self, now: float) -> None:
        """Lets go of the runs whose time is over. `now` is the loop's time."""
        for kind in (self._ended, self._records):
            while kind and now - self._end_of(run_id := next(iter(kind))) >= self._seconds:
                self._drop(run_id)

    @property
    def active(self) -> int:
        """Number of runs that go on."""
        return len(self._runs) - len(self._ended)

    def _end_of(self, run_id: str) -> float:
        record = self._records.get(run_id)
        return self._ended[run_id] if record is None else record[1]

    def _reclaim(self) -> None:
        """Lets go of the oldest finished runs until the bytes suffice; then of stored events of the runs that go on."""
        budget = self._budget
        while budget.used > budget.limit and (self._ended or self._records):
            oldest = (next(iter(kind)) for kind in (self._ended, self._records) if kind)
            self._drop(min(oldest, key=self._end_of))
        if budget.used > budget.limit:
            for run in self._runs.values():
                run.log.trim()
                if budget.used <= budget.limit:
                    return

    def _drop(self, run_id: str) -> None:
        record = self._records.pop(run_id, None)
        if record is not None:
            self._budget.give(RECORD_OVERHEAD_BYTES + len(record[2]))
            return
        run = self._runs.pop(run_id)
        del self._ended[run_id]
        run.log.clear()
        self._budget.give(RUN_OVERHEAD_BYTES)
        self._forget(run)
