"""The rules of the ledger, in one place for all databases.

A book is a working set. The databases fill one with the rows that a group of acts is about, let the acts happen one
after the other, and write what has changed. The ledger in memory is one book for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman_server.store.ledger.records import (
    ADJUST,
    CHARGE,
    GRANT,
    HOLD,
    RELEASE,
    Act,
    Balance,
    Entry,
    Extend,
    Hold,
    OpenHold,
    Outcome,
    Post,
    Renew,
    Settle,
    Spend,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Container

    from dragoman_server.store.identity.records import AuditRecord

HOLD_KEY = "hold"
CHARGE_KEY = "charge"
RELEASE_KEY = "release"

BalanceKey = tuple[str, str]
"""Account and currency."""
HoldKey = tuple[str, str]
"""Run and step."""
EntryKey = tuple[str, str, str, str]
"""Account, run, step and request key."""


def hold_key(act: Act) -> HoldKey | None:
    """Returns the key of the reservation that must be known before an act is done; None if there is none."""
    if isinstance(act, Spend):
        return act.advance_id, ""
    return act[2:4] if isinstance(act, (Hold, Extend, Settle)) else None


def entry_key(act: Act) -> EntryKey:
    """Returns the key of the entry that shows whether an act had been done before."""
    if isinstance(act, (Settle, Spend)):
        return act.account_id, act.run_id, act.step_id, CHARGE_KEY
    if isinstance(act, Hold):
        return act.account_id, act.run_id, act.step_id, HOLD_KEY
    if isinstance(act, Extend):
        return act.account_id, act.run_id, act.step_id, f"{HOLD_KEY}:{act.serial}"
    return act.account_id, "", "", act.request_key


class Book:
    """A working set of the ledger.

    Args:
        accounts: The accounts that exist; only those matter that have no balance yet.

    Attributes:
        balances: The balances.
        holds: The open reservations.
        entries: The entries that can be written once only.
        added: The entries that were added, in order.
        changed: The balances that changed.
        opened: The reservations that were made or extended.
        audits: What tells of the acts of administrators.
    """

    def __init__(self, accounts: Container[str] = ()) -> None:
        self._accounts = accounts
        self.balances: dict[BalanceKey, Balance] = {}
        self.holds: dict[HoldKey, OpenHold] = {}
        self.entries: dict[EntryKey, Entry] = {}
        self.added: list[Entry] = []
        self.changed: set[BalanceKey] = set()
        self.opened: set[HoldKey] = set()
        self.audits: list[AuditRecord] = []

    def do(self, act: Act) -> Outcome:
        """Does an act, as far as the rules let it."""
        match act:
            case Hold():
                return self._hold(act)
            case Settle():
                return self._settle(act)
            case Spend():
                return self._spend(act)
            case Extend():
                return self._extend(act)
            case Post():
                return self._post(act)
            case _:
                return self._renew(act)

    def begin(self) -> None:
        """Begins to note what is added and changed from now on."""
        for noted in (self.added, self.changed, self.opened, self.audits):
            noted.clear()

    def forget(self, account_id: str) -> None:
        """Drops all that an account has."""
        self.balances = {key: value for key, value in self.balances.items() if value.account_id != account_id}
        self.holds = {key: value for key, value in self.holds.items() if value.account_id != account_id}
        self.entries = {key: value for key, value in self.entries.items() if value.account_id != account_id}

    def _hold(self, act: Hold) -> Outcome:
        known = self.entries.get((act.account_id, act.run_id, act.step_id, HOLD_KEY))
        if known is not None:
            hold = self.holds.get((act.run_id, act.step_id))
            return Outcome(
                Verdict.KNOWN,
                self._balance(act.account_id, known.currency),
                known.amount_micros if hold is None else hold.amount_micros,
                known,
            )
        balance = self._balance(act.account_id, act.currency)
        amount = act.amount_micros
        if balance.available_micros < amount:
            return Outcome(Verdict.SHORT, balance)
        about, step = act[:2], act[2:4]
        self._write(Entry(act.entry_id, *about, HOLD, amount, *step, HOLD_KEY, act.time, ""))
        self._open(OpenHold(*step, *about, amount, act.owner_id, act.durable, act.time))
        return Outcome(Verdict.DONE, self._change(balance, available=-amount, held=amount), amount)

    def _extend(self, act: Extend) -> Outcome:
        hold = self._find(act)
        balance = self._balance(act.account_id, act.currency)
        if hold is None:
            return Outcome(Verdict.MISSING, balance)
        key = f"{HOLD_KEY}:{act.serial}"
        if (act.account_id, act.run_id, act.step_id, key) in self.entries:
            return Outcome(Verdict.KNOWN, balance, hold.amount_micros)
        amount = act.amount_micros
        if balance.available_micros < amount:
            return Outcome(Verdict.SHORT, balance, hold.amount_micros)
        amount = max(amount, -hold.amount_micros)
        kind = HOLD if amount > 0 else RELEASE
        self._write(Entry(act.entry_id, *act[:2], kind, abs(amount), *act[2:4], key, act.time, ""))
        held = hold.amount_micros + amount
        self._open(hold._replace(amount_micros=held))
        return Outcome(Verdict.DONE, self._change(balance, available=-amount, held=amount), held)

    def _settle(self, act: Settle) -> Outcome:
        hold = self._find(act)
        balance = self._balance(act.account_id, act.currency)
        if hold is None:
            known = self.entries.get((act.account_id, act.run_id, act.step_id, CHARGE_KEY))
            return Outcome(Verdict.KNOWN, balance, 0 if known is None else known.amount_micros)
        charge = min(act.charge_micros, hold.amount_micros)
        rest = hold.amount_micros - charge
        about, key = act[:2], act[2:4]
        if charge:
            self._write(Entry(act.charge_id, *about, CHARGE, charge, *key, CHARGE_KEY, act.time, act.note))
        if rest:
            self._write(Entry(act.release_id, *about, RELEASE, rest, *key, RELEASE_KEY, act.time, act.note))
        del self.holds[key]
        self.opened.discard(key)
        quota = -min(charge, balance.quota_micros)
        changed = self._change(balance, available=rest, held=-hold.amount_micros, quota=quota)
        return Outcome(Verdict.DONE, changed, charge)

    def _spend(self, act: Spend) -> Outcome:
        balance = self._balance(act.account_id, act.currency)
        known = self.entries.get((act.account_id, act.run_id, act.step_id, CHARGE_KEY))
        if known is not None:
            return Outcome(Verdict.KNOWN, balance, known.amount_micros)
        advance = self.holds.get((act.advance_id, ""))
        about = act[:2]
        if advance is None or advance[2:4] != about:
            return Outcome(Verdict.MISSING, balance)
        held = advance.amount_micros
        charge = min(act.charge_micros, held)
        if not charge:
            return Outcome(Verdict.DONE, balance)
        self._write(Entry(act.charge_id, *about, CHARGE, charge, *act[2:4], CHARGE_KEY, act.time, act.note))
        self._open(advance._replace(amount_micros=held - charge))
        quota = -min(charge, balance.quota_micros)
        return Outcome(Verdict.DONE, self._change(balance, available=0, held=-charge, quota=quota), charge)

    def _post(self, act: Post) -> Outcome:
        balance = self._balance(act.account_id, act.currency)
        known = self.entries.get((act.account_id, "", "", act.request_key))
        if known is not None:
            return Outcome(Verdict.KNOWN, self._balance(act.account_id, known.currency), known.amount_micros, known)
        if not self._exists(balance):
            return Outcome(Verdict.MISSING, balance)
        amount = act.amount_micros
        if balance.available_micros + amount < 0:
            return Outcome(Verdict.SHORT, balance)
        entry = Entry(act.entry_id, *act[:2], act.kind, amount, "", "", act.request_key, act.time, act.note)
        self._write(entry)
        if act.audit is not None:
            self.audits.append(act.audit)
        total = balance.available_micros + balance.held_micros + amount
        quota = min(0, total - balance.quota_micros)  # the quota is a part of the balance, however that shrinks
        return Outcome(Verdict.DONE, self._change(balance, available=amount, quota=quota), amount, entry)

    def _renew(self, act: Renew) -> Outcome:
        balance = self._balance(act.account_id, act.currency)
        if (act.account_id, "", "", act.request_key) in self.entries:
            return Outcome(Verdict.KNOWN, balance)
        if not self._exists(balance):
            return Outcome(Verdict.MISSING, balance)
        about = act[:2]
        lapsed = min(max(0, balance.quota_micros - act.rollover_micros), balance.available_micros)
        if lapsed:
            key = f"{act.request_key}:lapsed"
            self._write(Entry(act.adjust_id, *about, ADJUST, -lapsed, "", "", key, act.time, act.note))
        monthly = act.monthly_micros
        self._write(Entry(act.grant_id, *about, GRANT, monthly, "", "", act.request_key, act.time, act.note))
        added = monthly - lapsed
        return Outcome(Verdict.DONE, self._change(balance, available=added, quota=added), added)

    def _find(self, act: Extend | Settle) -> OpenHold | None:
        """Returns the reservation that an act is about; only one of its own account."""
        hold = self.holds.get((act.run_id, act.step_id))
        if hold is None or (hold.account_id, hold.currency) != (act.account_id, act.currency):
            return None
        return hold

    def _exists(self, balance: Balance) -> bool:
        return balance[:2] in self.balances or balance.account_id in self._accounts

    def _balance(self, account_id: str, currency: str) -> Balance:
        return self.balances.get((account_id, currency)) or Balance(account_id, currency)

    def _change(self, balance: Balance, *, available: int, held: int = 0, quota: int = 0) -> Balance:
        key = balance[:2]
        changed = Balance(
            *key,
            balance.available_micros + available,
            balance.held_micros + held,
            balance.quota_micros + quota,
        )
        self.balances[key] = changed
        self.changed.add(key)
        return changed

    def _open(self, hold: OpenHold) -> None:
        key = hold[:2]
        self.holds[key] = hold
        self.opened.add(key)

    def _write(self, entry: Entry) -> None:
        self.added.append(entry)
        self.entries[entry.account_id, entry.run_id, entry.step_id, entry.request_key] = entry
