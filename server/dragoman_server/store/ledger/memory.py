"""The ledger in memory: one book for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman_server.store.ledger.book import Book
from dragoman_server.store.ledger.records import Subscription
from dragoman_server.store.ledger.writer import as_future

if TYPE_CHECKING:
    import asyncio

    from dragoman_server.store.identity.memory import MemoryIdentity
    from dragoman_server.store.ledger.records import Act, Balance, Entry, OpenHold, Outcome, Spend, Told


class MemoryLedger:
    """The ledger; see `LedgerStore`.

    Args:
        identity: The accounts, and the audit log.
    """

    def __init__(self, identity: MemoryIdentity) -> None:
        self._identity = identity
        self._book = Book(identity.account_records)
        self._entries: dict[str, list[Entry]] = {}  # of each account, oldest first

    def submit(self, act: Act) -> asyncio.Future[Outcome]:
        """Does what `LedgerStore.submit` says."""
        return as_future(self.send, act)

    def send(self, act: Act, then: Told) -> None:
        """Does what `LedgerStore.send` says, at once."""
        book = self._book
        outcome = book.do(act)
        for entry in book.added:
            self._entries.setdefault(entry.account_id, []).append(entry)
        for audit in book.audits:
            self._identity.keep_audit(audit)
        book.begin()
        then(outcome)

    def note(self, spend: Spend, then: Told) -> bool:
        """Returns False: `send` is done at once."""
        return False

    async def balances(self, account_id: str) -> list[Balance]:
        """Does what `LedgerStore.balances` says."""
        return sorted(balance for balance in self._book.balances.values() if balance.account_id == account_id)

    async def entries(
        self, account_id: str, *, limit: int, before_id: str = "", currency: str = "", run_id: str = ""
    ) -> list[Entry]:
        """Does what `LedgerStore.entries` says."""
        found = [
            entry
            for entry in self._entries.get(account_id, ())
            if (not before_id or entry.id < before_id)
            and (not currency or entry.currency == currency)
            and (not run_id or entry.run_id == run_id)
        ]
        return sorted(found, reverse=True)[:limit]

    async def subscription(self, account_id: str) -> Subscription | None:
        """Does what `LedgerStore.subscription` says."""
        return next((found for found in self._all_subscriptions() if found.account_id == account_id), None)

    async def subscriptions(self, *, limit: int, after_id: str = "") -> list[Subscription]:
        """Does what `LedgerStore.subscriptions` says."""
        return sorted(found for found in self._all_subscriptions() if found.account_id > after_id)[:limit]

    async def beat(self, owner_id: str) -> None:
        """Does nothing: what is in memory ends with its process."""

    async def leave(self, owner_id: str) -> None:
        """Does nothing."""

    async def orphans(self, owner_id: str, patience: float) -> list[OpenHold]:
        """Returns the reservations of others, whoever they were: they are not in this process, so they are gone."""
        return [hold for hold in self._book.holds.values() if hold.owner_id != owner_id and not hold.durable]

    def rows(self, account_id: str) -> dict[str, list[Any]]:
        """Returns the records of an account by the names of their tables."""
        book = self._book
        return {
            "balances": [balance for balance in book.balances.values() if balance.account_id == account_id],
            "ledger_entries": list(self._entries.get(account_id, ())),
            "holds": [hold for hold in book.holds.values() if hold.account_id == account_id],
        }

    def erase(self, account_id: str, user_id: str | None) -> None:
        """Erases an account. What was paid for users stays: the books must go on to add up."""
        if user_id is None:
            self._entries.pop(account_id, None)
            self._book.forget(account_id)

    def _all_subscriptions(self) -> list[Subscription]:
        return [
            Subscription(account.id, account.plan, account.plan_start_time)
            for account in self._identity.account_records.values()
            if account.plan and account.plan_start_time is not None
        ]
