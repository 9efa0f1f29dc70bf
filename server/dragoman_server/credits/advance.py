"""Credits that are reserved ahead, for accounts that ask for much at a time.

A reservation that is made before a piece of work costs a write to the disk of its own. Where an account asks often, its
process reserves more at once: an advance. What the next pieces of work can cost is taken from that in memory, and what
they did cost is charged to it when they end (`Spend`). All that is taken is covered by what is reserved on disk, so
nobody overdraws; what a dead process had reserved ahead is released like any hold of it, after what it noted is
charged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dragoman_server.credits.hold import send_surely
from dragoman_server.ids import new_id
from dragoman_server.store.ledger.records import Balance, Extend, Hold, Settle, Verdict
from dragoman_server.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman_server.clock import Clock
    from dragoman_server.store.ledger.records import LedgerStore, Outcome, Post, Spend, Told

BUSY = 16
"""How many pieces of work an account begins within `PERIOD` before credits are reserved ahead for it."""
PERIOD = 1.0
"""Seconds. An advance from which nothing was taken for as long is given back."""
WORKS = 64
"""For how many pieces of work of the present size credits are reserved ahead, at first."""
GROWTH_MICROS = 500_000
"""Microseconds. If half of it is spent within that time, twice as much is reserved."""
MOST_PART = 8
"""At most this part of what is available is reserved ahead at a time: other processes may want it too."""
MOST_LEFT = 4
"""What is not taken is at most this part of what is available, or half of it is given back, for the same reason."""
MOST_REMEMBERED = 10_000
"""Accounts of which it is remembered how often they ask."""

NOTE = "advance"
"""What the entries say that give back what was reserved ahead."""

logger = get_logger(__name__)

Key = tuple[str, str]
"""Account and currency."""


class Advance:
    """What is reserved ahead for an account, in one currency.

    Args:
        ledger: Where it is reserved.
        account_id: The account.
        currency: The currency.
        clock: The time.
        on_change: Called when it is closed, and again when all of it is given back.
        note: Notes a charge to it; see `LedgerStore.note`. None if charges are to be written at once.

    Attributes:
        balance: The account's balance when something was written of the advance last.
        note: As above.
        id: Its name in the ledger, where it is a reservation for a run of this id.
        noted: How many charges to it are noted, and not in the ledger yet.
        reserved: What is reserved on disk, less what was charged or noted.
        taken: What of it is taken by work that goes on, or whose end is neither noted nor written yet.
        growing: Whether more was asked for, and the ledger has not answered yet.
        returning: What is given back, and the ledger has not answered yet.
        used: Whether anything was taken since somebody looked, who unsets it.
        closed: Whether nothing can be taken any more.
        ended: Whether all of it is given back.
    """

    __slots__ = (
        "_about", "_clock", "_growth_time", "_ledger", "_on_change", "_serial", "_wanted", "balance", "closed", "ended",
        "growing", "id", "note", "noted", "reserved", "returning", "taken", "used",
    )  # fmt: skip

    def __init__(
        self,
        ledger: LedgerStore,
        account_id: str,
        currency: str,
        clock: Clock,
        on_change: Callable[[Advance], None],
        note: Callable[[Spend, Told], bool] | None,
    ) -> None:
        self.id = new_id("adv")
        self.balance = Balance(account_id, currency)
        self.note = note
        self.noted = 0
        self.reserved = 0
        self.taken = 0
        self.growing = False
        self.returning = 0
        self.used = True
        self.closed = False
        self.ended = False
        self._ledger = ledger
        self._about = (account_id, currency, self.id, "")
        self._clock = clock
        self._on_change = on_change
        self._growth_time = 0  # when it grew last
        self._serial = 0  # of the last extension
        self._wanted = 0  # what was to be reserved when it grew last

    @property
    def key(self) -> Key:
        """The account and the currency."""
        return self._about[:2]

    @property
    def free(self) -> int:
        """What is reserved, and not taken."""
        return self.reserved - self.taken

    @property
    def spare(self) -> int:
        """What no work has taken of what the ledger knows to be reserved."""
        return self.reserved - self.taken + self.returning

    def take(self, amount: int) -> bool:
        """Takes an amount, unless there is less, or it is nothing; returns whether it did."""
        taken = self.taken + amount
        if taken > self.reserved or self.closed or not amount:
            return False
        self.taken = taken
        self.used = True
        return True

    def settled(self, amount: int, outcome: Outcome) -> None:
        """Notes that work has ended for which an amount was taken; `outcome` is what became of its `Spend`."""
        self.taken -= amount
        self.reserved -= outcome.amount_micros
        if outcome.verdict is Verdict.MISSING:  # others took this process for dead, and gave it back
            self.reserved = self.taken
            self.close()

    def written(self, outcome: Outcome | Exception) -> None:
        """Takes note of what became of a charge that was only noted (`noted`) when its work had ended."""
        if isinstance(outcome, Exception):
            return
        self.noted -= 1
        self.balance = outcome.balance
        if outcome.verdict is Verdict.MISSING:  # as above
            self.reserved = self.taken
            self.close()
        if self.closed:
            self._give_back()

    def adjust(self, balance: Balance) -> None:
        """Sees to it, when work has ended, that not too much is reserved, nor too little.

        Gives back what is not taken, if it is closed; half of that, if the balance has little besides. If half of it is
        spent, reserves as much again as it was, or twice as much if it was reserved a short time ago, as far as the
        balance has it to spare.
        """
        if self.closed:
            self._give_back()
        elif MOST_LEFT * (free := self.reserved - self.taken) > balance.available_micros + self.returning:
            self._return(free - free // 2)
            self._wanted = self.reserved
        elif 2 * self.reserved < self._wanted and not self.growing:
            wanted = 2 * self._wanted if self._now() < self._growth_time + GROWTH_MICROS else self._wanted
            self.extend(wanted - self.reserved, balance)

    def give_back(self) -> bool:
        """Closes it because the balance is short for something that was asked for while it was there.

        Returns:
            Whether anything was given back since: then it is worth to ask again.
        """
        given_back = self.closed or self.free > 0
        self.close()
        return given_back

    def begin(self, amount: int, owner_id: str) -> None:
        """Reserves an amount for a process, if the balance has it."""
        self._grow(Hold(*self._about, amount, owner_id, False, new_id("txn"), self._now()))

    def extend(self, amount: int, balance: Balance) -> None:
        """Reserves more, if the balance has it to spare."""
        if not self.growing and (share := _share(amount, balance)):
            self._grow(self._extension(share))

    def close(self) -> None:
        """Gives back what is not taken, before whatever is sent to the ledger next, and the rest when its work ends."""
        if not self.closed:
            self.closed = True
            self._on_change(self)
            self._give_back()

    def _grow(self, act: Hold | Extend) -> None:
        def told(outcome: Outcome | Exception) -> None:
            self.growing = False
            if isinstance(outcome, Exception):  # it may be written nevertheless: then it is given back in the end
                _log_error(outcome)
            else:
                self.balance = outcome.balance
                if outcome.verdict in (Verdict.DONE, Verdict.KNOWN):
                    self.reserved += act.amount_micros
            if self.closed:
                self._give_back()
            elif not self.reserved:
                self.close()

        self.growing = True
        self._growth_time = act.time
        self._wanted = self.reserved + act.amount_micros
        self._ledger.send(act, told)

    def _give_back(self) -> None:
        """Gives back what is not taken; all of it, when its last work has ended."""
        if self.taken or self.growing or self.noted:
            if free := self.free:
                self._return(free)
        elif not self.ended:
            self.ended = True
            act = Settle(*self._about, 0, NOTE, new_id("txn"), new_id("txn"), self._now())
            send_surely(self._ledger, act, self._given_back)

    def _return(self, amount: int) -> None:
        """Gives a part back that is not taken."""

        def told(outcome: Outcome | Exception) -> None:
            self.returning -= amount
            if not isinstance(outcome, Exception):
                self.balance = outcome.balance
            _log_error(outcome)

        self.reserved -= amount  # at once: nobody may take it, whether that is written by now or not
        self.returning += amount
        self._ledger.send(self._extension(-amount), told)

    def _given_back(self, outcome: Outcome | Exception) -> None:
        if not isinstance(outcome, Exception):
            self.balance = outcome.balance
        _log_error(outcome)
        self._on_change(self)

    def _extension(self, amount: int) -> Extend:
        self._serial += 1
        return Extend(*self._about, self._serial, amount, new_id("txn"), self._now())

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


class Advances:
    """What a process has reserved ahead.

    Args:
        ledger: Where it is reserved.
        owner_id: The process.
        clock: The time.
        wait_for_disk: Whether nothing counts as charged before it is on disk.

    Attributes:
        ending: What is closed, and not all given back.
    """

    def __init__(self, ledger: LedgerStore, owner_id: str, clock: Clock, *, wait_for_disk: bool = False) -> None:
        self._ledger = ledger
        self._note = None if wait_for_disk else ledger.note
        self._owner_id = owner_id
        self._clock = clock
        self._open: dict[Key, Advance] = {}
        self.ending: set[Advance] = set()
        self._all_ended: asyncio.Event | None = None
        self._asked: dict[Key, tuple[float, int]] = {}  # since when how often, where there is none
        self._timer: asyncio.TimerHandle | None = None
        self.find = self._open.get  # what is reserved ahead, if anything is, by account and currency

    def missed(self, balance: Balance, amount: int) -> None:
        """Notes that credits were reserved for a single piece of work; if that is often so, more are reserved ahead.

        Args:
            balance: The account's balance after it.
            amount: How much it was.
        """
        key = balance[:2]
        advance = self._open.get(key)
        if advance is not None:
            advance.extend(max(WORKS * amount, advance.reserved), balance)
        elif self._is_busy(key) and (share := _share(WORKS * amount, balance)):
            advance = self._open[key] = Advance(self._ledger, *key, self._clock, self._changed, self._note)
            advance.begin(share, self._owner_id)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(PERIOD, self._look)

    async def submit(self, act: Hold | Post) -> Outcome:
        """Has the ledger do an act; once more without what is reserved ahead, if the balance is short for it.

        Raises:
            Unavailable: If the database does not answer.
        """
        advance = self._open.get(act[:2])
        outcome = await self._ledger.submit(act)
        self.learn(outcome.balance)
        while outcome.verdict is Verdict.SHORT and advance is not None and advance.give_back():
            advance = self.at_stake(advance)
            outcome = await self._ledger.submit(act)
        return outcome

    def spare(self, key: Key) -> int:
        """Returns what is to be had of what is reserved ahead: what no work has taken, or is on its way back."""
        advance = self._open.get(key)
        spare = 0 if advance is None else advance.spare
        for closed in self.ending:
            if closed.key == key:
                spare += closed.spare
        return spare

    def learn(self, balance: Balance) -> None:
        """Takes note of the balance of an account."""
        if (advance := self._open.get(balance[:2])) is not None:
            advance.balance = balance

    def at_stake(self, closed: Advance) -> Advance | None:
        """Returns what may be given back once more for an act that is sent now, after one has been."""
        return closed if closed.growing else self._open.get(closed.key)  # what it grows by is given back later

    async def end(self, timeout: float) -> None:
        """Gives everything back, and waits up to `timeout` seconds until that is written."""
        if self._timer is not None:
            self._timer.cancel()
        for advance in list(self._open.values()):
            advance.close()
        if self.ending:
            self._all_ended = asyncio.Event()
            try:
                await asyncio.wait_for(self._all_ended.wait(), timeout)
            except TimeoutError:
                logger.warning("credits that were reserved ahead are not given back", advances=len(self.ending))

    def _is_busy(self, key: Key) -> bool:
        """Counts that an account asks; returns whether it does so often."""
        now = asyncio.get_running_loop().time()
        since, count = self._asked.get(key, (now, 0))
        if now - since > PERIOD:
            since, count = now, 0
        if len(self._asked) >= MOST_REMEMBERED:
            self._asked.clear()
        self._asked[key] = since, count + 1
        return count + 1 >= BUSY

    def _changed(self, advance: Advance) -> None:
        if not advance.ended:
            self.ending.add(advance)
            del self._open[advance.key]
            self._asked.pop(advance.key, None)  # it is to ask often again before there is another one
        else:
            self.ending.discard(advance)
            self.learn(advance.balance)
            if self._all_ended is not None and not self.ending:
                self._all_ended.set()

    def _look(self) -> None:
        """Gives back what is not used any more."""
        self._timer = None
        for advance in list(self._open.values()):
            if advance.used:
                advance.used = False
            else:
                advance.close()
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._look)


def _share(amount: int, balance: Balance) -> int:
    """Returns how much of an amount is reserved ahead of a balance; nothing if so little is not worth it."""
    share = min(amount, balance.available_micros // MOST_PART)
    return share if MOST_PART * share >= amount else 0


def _log_error(outcome: Outcome | Exception) -> None:
    if isinstance(outcome, Exception):
        logger.warning("what is reserved ahead was not changed", error=str(outcome))
