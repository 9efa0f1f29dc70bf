"""Deadlines of things that all have the same time: in the order in which they came, with one timer for the oldest."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Deadlines(Generic[T]):
    """A first-in, first-out set whose things are taken out when their time is over.

    Adding and discarding touch no timer while one is set: it serves whatever is then the oldest.

    Args:
        seconds: The time of each thing.
        overdue: Called with a thing whose time is over; it was taken out before.
        clock: Seconds that never go back.
    """

    __slots__ = ("_clock", "_items", "_overdue", "_seconds", "_timer")

    def __init__(self, seconds: float, overdue: Callable[[T], None], clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._overdue = overdue
        self._clock = clock
        self._items: OrderedDict[T, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, now: float) -> None:
        """Adds a thing as the newest."""
        self._items[item] = now + self._seconds
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._check)

    def discard(self, item: T) -> None:
        """Takes a thing out, if it is there."""
        self._items.pop(item, None)

    def pop(self) -> T:
        """Takes the oldest thing out.

        Raises:
            KeyError: If there is none.
        """
        return self._items.popitem(last=False)[0]

    def _check(self) -> None:
        self._timer = None
        now = self._clock()
        while self._items:
            item, deadline = next(iter(self._items.items()))
            if deadline > now:
                if self._timer is None:  # what was overdue may have added something
                    self._timer = asyncio.get_running_loop().call_later(deadline - now, self._check)
                return
            del self._items[item]
            self._overdue(item)
