"""Callers with a balance, for tests of what costs credits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.caller import DEFAULT_ACCOUNT, Caller
from dragoman_server.credits.service import Credits
from dragoman_server.settings import CreditPriceSettings, CreditSettings
from dragoman_server.store.ledger.records import ADJUST, CHARGE, GRANT, HOLD, RELEASE

if TYPE_CHECKING:
    from dragoman_server.store.base import Store

OPERATOR = Caller(DEFAULT_ACCOUNT, "", role=KeyRole.KEY_ROLE_OPERATOR)

PRICE = CreditPriceSettings(request_micros=100, input_micros_per_million=1_000_000, output_micros_per_million=2_000_000)
"""100 for a request, 1 for each token read, 2 for each token written."""


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_caller(account_id: str = DEFAULT_ACCOUNT, plan: str = "") -> Caller:
    return Caller(account_id, "key_1", plan=plan)


def credit_settings(**fields: object) -> CreditSettings:
    return CreditSettings(**{"enabled": True, "prices": (PRICE,), **fields})  # type: ignore[arg-type]  # checked by it


async def credits_with(store: Store, balance: int, clock: Clock | None = None, **fields: object) -> Credits:
    """Returns credits whose default account has something to spend."""
    credits = Credits(store.ledger, credit_settings(**fields), clock=clock or Clock())
    if balance:
        await credits.grant(OPERATOR, DEFAULT_ACCOUNT, balance)
    return credits


async def available(store: Store, currency: str = "credits", account_id: str = DEFAULT_ACCOUNT) -> int:
    return sum(b.available_micros for b in await store.ledger.balances(account_id) if b.currency == currency)


async def held(store: Store, currency: str = "credits", account_id: str = DEFAULT_ACCOUNT) -> int:
    return sum(b.held_micros for b in await store.ledger.balances(account_id) if b.currency == currency)


async def check_sums(store: Store, account_id: str = DEFAULT_ACCOUNT) -> None:
    """Every balance is what its entries say, and nobody has less than nothing."""
    sums: dict[str, tuple[int, int]] = {}
    for entry in await store.ledger.entries(account_id, limit=1_000_000):
        available, held = sums.get(entry.currency, (0, 0))
        amount = entry.amount_micros
        available += {GRANT: amount, ADJUST: amount, HOLD: -amount, CHARGE: 0, RELEASE: amount}[entry.kind]
        held += {GRANT: 0, ADJUST: 0, HOLD: amount, CHARGE: -amount, RELEASE: -amount}[entry.kind]
        sums[entry.currency] = available, held
    balances = {balance.currency: balance for balance in await store.ledger.balances(account_id)}
    assert sums.keys() <= balances.keys()
    for currency, balance in balances.items():
        assert sums.get(currency, (0, 0)) == (balance.available_micros, balance.held_micros)
        assert balance.available_micros >= 0
        assert balance.held_micros >= 0
        assert 0 <= balance.quota_micros <= balance.available_micros + balance.held_micros
