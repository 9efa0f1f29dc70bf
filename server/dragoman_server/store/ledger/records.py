"""What the ledger keeps, what can be done to it, and what a database of it offers.

Records are named tuples in the order of their tables' columns: the hot path makes many, and writes them as they are.
Amounts are integers in millionths of a currency, times are microseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragoman.v1.credit_service_pb2 import LedgerEntry

if TYPE_CHECKING:
    import asyncio

    from dragoman_server.store.identity.records import AuditRecord

GRANT: int = LedgerEntry.KIND_GRANT
ADJUST: int = LedgerEntry.KIND_ADJUST
HOLD: int = LedgerEntry.KIND_HOLD
CHARGE: int = LedgerEntry.KIND_CHARGE
RELEASE: int = LedgerEntry.KIND_RELEASE


class Entry(NamedTuple):
    """One entry of the ledger. Entries are only ever added.

    Attributes:
        id: The id, `txn_` and a UUIDv7.
        account_id: The account.
        currency: The currency.
        kind: One of the kinds above.
        amount_micros: How much; negative only for an ADJUST that takes away.
        run_id: The run that it is about; may be empty.
        step_id: The step of that run; may be empty.
        request_key: What can be written once only for the account, run and step.
        create_time: When it was written.
        note: Why.
    """

    id: str
    account_id: str
    currency: str
    kind: int
    amount_micros: int
    run_id: str
    step_id: str
    request_key: str
    create_time: int
    note: str


class Balance(NamedTuple):
    """What an account has of a currency.

    Attributes:
        account_id: The account.
        currency: The currency.
        available_micros: What can be spent.
        held_micros: What is reserved.
        quota_micros: What is left of the plan's grants: a part of the two above, spent first.
    """

    account_id: str
    currency: str
    available_micros: int = 0
    held_micros: int = 0
    quota_micros: int = 0


class OpenHold(NamedTuple):
    """A reservation that is neither charged nor released.

    Attributes:
        run_id: The run.
        step_id: The step of it.
        account_id: The account.
        currency: The currency.
        amount_micros: How much, extensions included.
        owner_id: The process that runs it.
        durable: Whether the run outlives its process, and with it the reservation.
        create_time: When it was made.
    """

    run_id: str
    step_id: str
    account_id: str
    currency: str
    amount_micros: int
    owner_id: str
    durable: bool
    create_time: int


class Hold(NamedTuple):
    """Reserves, if the balance has it. Done again, it changes nothing."""

    account_id: str
    currency: str
    run_id: str
    step_id: str
    amount_micros: int
    owner_id: str
    durable: bool
    entry_id: str
    time: int


class Extend(NamedTuple):
    """Adds to a reservation, if there is one and the balance has it. `serial` counts the extensions, from 1.

    A negative amount gives a part of it back, at most what is reserved.
    """

    account_id: str
    currency: str
    run_id: str
    step_id: str
    serial: int
    amount_micros: int
    entry_id: str
    time: int


class Settle(NamedTuple):
    """Charges at most what is reserved, and gives back the rest. Done again, it changes nothing."""

    account_id: str
    currency: str
    run_id: str
    step_id: str
    charge_micros: int
    note: str
    charge_id: str
    release_id: str
    time: int


class Spend(NamedTuple):
    """Charges work to a reservation that was made ahead, at most what that still has. Done again, it changes nothing.

    `advance_id` is the run of that reservation; its step is empty. A charge of nothing writes nothing.
    """

    account_id: str
    currency: str
    run_id: str
    step_id: str
    charge_micros: int
    note: str
    advance_id: str
    charge_id: str
    time: int


class Post(NamedTuple):
    """Writes a GRANT or an ADJUST, unless `request_key` was written before or the balance would fall below 0.

    `audit` tells of it where an administrator does it: both are written, or neither.
    """

    account_id: str
    currency: str
    kind: int
    amount_micros: int
    request_key: str
    note: str
    entry_id: str
    time: int
    audit: AuditRecord | None = None


class Renew(NamedTuple):
    """Begins a month of a plan, unless `request_key` was written before.

    Takes away what is left of the quota beyond `rollover_micros` and is not reserved, and grants `monthly_micros`.
    """

    account_id: str
    currency: str
    monthly_micros: int
    rollover_micros: int
    request_key: str
    note: str
    grant_id: str
    adjust_id: str
    time: int


Act = Hold | Extend | Settle | Spend | Post | Renew


class Verdict(Enum):
    """What became of an act."""

    DONE = auto()
    """It was written."""
    KNOWN = auto()
    """It had been done before; nothing was written."""
    SHORT = auto()
    """The balance does not have it; nothing was written."""
    MISSING = auto()
    """There is no such account, or no such reservation; nothing was written."""


class Outcome(NamedTuple):
    """What became of an act.

    Attributes:
        verdict: In a word.
        balance: The balance after it.
        amount_micros: What is reserved (Hold, Extend), what was charged (Settle, Spend), or what was added (Post,
            Renew).
        entry: The entry of a Post, be it of now or before; that of a Hold that had been done before.
    """

    verdict: Verdict
    balance: Balance
    amount_micros: int = 0
    entry: Entry | None = None


Told = Callable[[Outcome | Exception], None]
"""Is told what became of an act."""


class Subscription(NamedTuple):
    """An account's plan, and since when it has it."""

    account_id: str
    plan: str
    start_time: int


class LedgerStore(Protocol):
    """The ledger in a database.

    All methods, and the futures, raise `Unavailable` if the database does not answer.
    """

    def send(self, act: Act, then: Told) -> None:
        """Does an act, together with whatever else waits to be written; neither blocks nor waits.

        Acts are done in the order in which they come, each as if alone, except that what gives back may come before
        what takes.

        Args:
            act: What to do.
            then: Called once, in the event loop, perhaps within this call: with what became of the act when that is
                durable, or with an error. After an error, the act may have been done nevertheless; it may always be
                sent again. It must not raise.
        """

    def submit(self, act: Act) -> asyncio.Future[Outcome]:
        """Does what `send` says; the future resolves, or fails, when `then` would be called."""

    def note(self, spend: Spend, then: Told) -> bool:
        """Notes a charge to a reservation of this process, so that it outlives the process, and does it soon.

        Readers see what was noted. The reservation must have what is charged, and must not be settled before `then` is
        called: if the database does not answer for a while, what is sent meanwhile may be done before.

        Args:
            spend: The charge.
            then: Called once, in the event loop, with what became of it when that is durable. It must not raise.

        Returns:
            Whether it was noted. If not, it is to be sent instead.
        """

    async def balances(self, account_id: str) -> list[Balance]:
        """Returns the balances of an account, by currency."""

    async def entries(
        self, account_id: str, *, limit: int, before_id: str = "", currency: str = "", run_id: str = ""
    ) -> list[Entry]:
        """Returns entries of an account, newest first: at most `limit`, older than one, of a currency, of a run."""

    async def subscription(self, account_id: str) -> Subscription | None:
        """Returns the plan of an account, if it has one."""

    async def subscriptions(self, *, limit: int, after_id: str = "") -> list[Subscription]:
        """Returns the plans of all accounts by account, beginning behind one; for the sweep."""

    async def beat(self, owner_id: str) -> None:
        """Tells that a process lives; with the first time, `note` begins to work for it where it can."""

    async def leave(self, owner_id: str) -> None:
        """Tells that a process has ended, when what it noted is written; if that fails, others will find it dead."""

    async def orphans(self, owner_id: str, patience: float) -> list[OpenHold]:
        """Returns the reservations of all accounts whose process is gone; for the sweep of a process.

        Gone are those that ended, are known to be dead, or told nothing for `patience` seconds and are not known to
        live; never the sweeping one. Reservations of durable runs are not among them: who takes up such a run has its
        reservation too.
        """
