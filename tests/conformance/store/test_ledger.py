from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from dragoman_server.ids import new_id
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
    Post,
    Renew,
    Settle,
    Spend,
    Verdict,
)

if TYPE_CHECKING:
    from dragoman_server.store.base import Store

ACCOUNT = "default"
_keys = itertools.count()


def now() -> int:
    return time.time_ns() // 1000


def a_grant(amount: int, key: str = "", kind: int = GRANT, currency: str = "credits") -> Post:
    return Post(ACCOUNT, currency, kind, amount, key or f"k{next(_keys)}", "a note", new_id("txn"), now())


def a_hold(amount: int, run_id: str = "", currency: str = "credits", owner_id: str = "own_1", **more: Any) -> Hold:
    run_id = run_id or new_id("run")
    return Hold(ACCOUNT, currency, run_id, "step_1", amount, owner_id, more.get("durable", False), new_id("txn"), now())


def an_extension(hold: Hold, serial: int, amount: int) -> Extend:
    return Extend(*hold[:4], serial, amount, new_id("txn"), now())


def a_settlement(hold: Hold, charge: int) -> Settle:
    return Settle(*hold[:4], charge, "completed", new_id("txn"), new_id("txn"), now())


def an_advance(amount: int, owner_id: str = "own_1") -> Hold:
    return a_hold(amount, new_id("adv"), owner_id=owner_id)._replace(step_id="")


def a_spend(advance: Hold, charge: int, run_id: str = "") -> Spend:
    run_id = run_id or new_id("run")
    return Spend(*advance[:2], run_id, "step_1", charge, "completed", advance.run_id, new_id("txn"), now())


async def balance_of(store: Store, currency: str = "credits") -> tuple[int, int, int]:
    found = {balance.currency: balance for balance in await store.ledger.balances(ACCOUNT)}
    return found.get(currency, Balance(ACCOUNT, currency))[2:]


async def all_entries(store: Store) -> list[Entry]:
    return (await store.ledger.entries(ACCOUNT, limit=100_000))[::-1]


async def check_sums(store: Store) -> None:
    """Every balance is what its entries say, and nobody ever had less than nothing."""
    sums: dict[str, list[int]] = {}
    for entry in await all_entries(store):
        available, held = sums.setdefault(entry.currency, [0, 0])
        amount = entry.amount_micros
        available += {GRANT: amount, ADJUST: amount, HOLD: -amount, CHARGE: 0, RELEASE: amount}[entry.kind]
        held += {GRANT: 0, ADJUST: 0, HOLD: amount, CHARGE: -amount, RELEASE: -amount}[entry.kind]
        sums[entry.currency] = [available, held]
    balances = {balance.currency: [*balance[2:4]] for balance in await store.ledger.balances(ACCOUNT)}
    assert {currency: sums.get(currency, [0, 0]) for currency in balances} == balances
    assert all(available >= 0 and held >= 0 for available, held in balances.values())


async def test_a_grant_is_there_to_be_spent(store: Store) -> None:
    post = a_grant(500)
    outcome = await store.ledger.submit(post)
    assert outcome.verdict is Verdict.DONE
    assert outcome.balance == Balance(ACCOUNT, "credits", 500)
    assert outcome.entry == Entry(
        post.entry_id, ACCOUNT, "credits", GRANT, 500, "", "", post.request_key, post.time, "a note"
    )
    assert await all_entries(store) == [outcome.entry]
    assert await balance_of(store) == (500, 0, 0)


async def test_a_grant_of_one_name_counts_once(store: Store) -> None:
    first = await store.ledger.submit(a_grant(500, "grant:a"))
    again = await store.ledger.submit(a_grant(900, "grant:a", currency="spark"))
    assert (again.verdict, again.entry) == (Verdict.KNOWN, first.entry)
    assert again.balance == first.balance
    assert await balance_of(store) == (500, 0, 0)
    assert (await store.ledger.submit(a_grant(1, "grant:b"))).balance.available_micros == 501
    await check_sums(store)


async def test_an_account_that_does_not_exist_gets_nothing(store: Store) -> None:
    outcome = await store.ledger.submit(a_grant(500)._replace(account_id="nobody"))
    assert (outcome.verdict, outcome.entry) == (Verdict.MISSING, None)
    assert await store.ledger.balances("nobody") == []
    assert (await store.ledger.submit(a_hold(1)._replace(account_id="nobody"))).verdict is Verdict.SHORT


async def test_a_correction_never_takes_what_is_reserved(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    hold = a_hold(200)
    await store.ledger.submit(hold)
    short = await store.ledger.submit(a_grant(-301, kind=ADJUST))
    assert (short.verdict, short.balance) == (Verdict.SHORT, Balance(ACCOUNT, "credits", 300, 200))
    assert (await store.ledger.submit(a_grant(-300, kind=ADJUST))).balance.available_micros == 0
    assert (await store.ledger.submit(a_grant(-1, kind=ADJUST, currency="spark"))).verdict is Verdict.SHORT
    assert (await store.ledger.submit(a_settlement(hold, 200))).amount_micros == 200
    assert await balance_of(store) == (0, 0, 0)
    await check_sums(store)


async def test_what_is_reserved_is_charged_and_the_rest_given_back(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    hold = a_hold(200)
    held = await store.ledger.submit(hold)
    assert (held.verdict, held.amount_micros) == (Verdict.DONE, 200)
    assert held.balance == Balance(ACCOUNT, "credits", 300, 200)
    settled = await store.ledger.submit(a_settlement(hold, 150))
    assert (settled.verdict, settled.amount_micros) == (Verdict.DONE, 150)
    assert settled.balance == Balance(ACCOUNT, "credits", 350)
    entries = await all_entries(store)
    assert [(entry.kind, entry.amount_micros) for entry in entries] == [
        (GRANT, 500), (HOLD, 200), (CHARGE, 150), (RELEASE, 50),
    ]  # fmt: skip
    assert {(entry.run_id, entry.step_id) for entry in entries[1:]} == {(hold.run_id, "step_1")}
    assert [entry.note for entry in entries] == ["a note", "", "completed", "completed"]
    assert await store.ledger.orphans("own_2", 0) == []


@pytest.mark.parametrize(("charge", "kinds"), [(0, [RELEASE]), (200, [CHARGE]), (10**9, [CHARGE])])
async def test_a_charge_is_at_most_what_is_reserved(store: Store, charge: int, kinds: list[int]) -> None:
    await store.ledger.submit(a_grant(500))
    hold = a_hold(200)
    await store.ledger.submit(hold)
    assert (await store.ledger.submit(a_settlement(hold, charge))).amount_micros == min(charge, 200)
    assert [entry.kind for entry in (await all_entries(store))[2:]] == kinds
    await check_sums(store)


async def test_everything_done_again_changes_nothing(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    hold = a_hold(300)
    extension = an_extension(hold, 1, 100)
    assert (await store.ledger.submit(hold)).verdict is Verdict.DONE
    assert (await store.ledger.submit(extension)).amount_micros == 400
    acts: list[Act] = [hold, hold._replace(entry_id=new_id("txn"), amount_micros=1), extension]
    for act in acts:
        again = await store.ledger.submit(act)
        assert (again.verdict, again.amount_micros) == (Verdict.KNOWN, 400)
        assert again.balance == Balance(ACCOUNT, "credits", 100, 400)
    assert (await store.ledger.submit(a_settlement(hold, 350))).verdict is Verdict.DONE
    for charge in (350, 10):
        again = await store.ledger.submit(a_settlement(hold, charge))
        assert (again.verdict, again.amount_micros) == (Verdict.KNOWN, 350)
    assert (await store.ledger.submit(hold)).verdict is Verdict.KNOWN
    assert (await store.ledger.submit(an_extension(hold, 2, 1))).verdict is Verdict.MISSING
    assert await balance_of(store) == (150, 0, 0)
    await check_sums(store)


async def test_what_comes_together_is_done_in_its_order(store: Store) -> None:
    hold = a_hold(300)
    acts: list[Act] = [
        a_grant(500),
        hold,
        an_extension(hold, 1, 100),
        hold,
        a_settlement(hold, 350),
        a_settlement(hold, 1),
    ]
    outcomes = await asyncio.gather(*[store.ledger.submit(act) for act in acts])
    assert [(outcome.verdict, outcome.amount_micros) for outcome in outcomes] == [
        (Verdict.DONE, 500), (Verdict.DONE, 300), (Verdict.DONE, 400), (Verdict.KNOWN, 400), (Verdict.DONE, 350),
        (Verdict.KNOWN, 350),
    ]  # fmt: skip
    assert await balance_of(store) == (150, 0, 0)
    await check_sums(store)


async def test_one_that_is_short_does_not_fail_its_neighbours(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    amounts = [60, 70, 30, 50, 10, 5]
    outcomes = await asyncio.gather(*[store.ledger.submit(a_hold(amount)) for amount in amounts])
    expected = [Verdict.DONE, Verdict.SHORT, Verdict.DONE, Verdict.SHORT, Verdict.DONE, Verdict.SHORT]
    assert [outcome.verdict for outcome in outcomes] == expected
    assert await balance_of(store) == (0, 100, 0)
    await check_sums(store)


async def test_an_extension_needs_its_hold_and_the_balance(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    hold = a_hold(60)
    assert (await store.ledger.submit(an_extension(hold, 1, 10))).verdict is Verdict.MISSING
    await store.ledger.submit(hold)
    short = await store.ledger.submit(an_extension(hold, 1, 41))
    assert (short.verdict, short.amount_micros) == (Verdict.SHORT, 60)
    assert (await store.ledger.submit(an_extension(hold, 2, 40))).amount_micros == 100
    await check_sums(store)


async def test_a_part_of_a_reservation_is_given_back(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    hold = a_hold(60)
    await store.ledger.submit(hold)
    less = an_extension(hold, 1, -20)
    for verdict in (Verdict.DONE, Verdict.KNOWN):
        outcome = await store.ledger.submit(less)
        assert (outcome.verdict, outcome.amount_micros) == (verdict, 40)
    assert (await store.ledger.submit(an_extension(hold, 2, -50))).amount_micros == 0  # no more than there is
    assert await balance_of(store) == (100, 0, 0)
    assert [(entry.kind, entry.amount_micros) for entry in await all_entries(store)][1:] == [
        (HOLD, 60), (RELEASE, 20), (RELEASE, 40),
    ]  # fmt: skip
    await store.ledger.submit(a_settlement(hold, 10))
    assert await balance_of(store) == (100, 0, 0)
    await check_sums(store)


async def test_an_advance_is_charged_for_work(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    advance = an_advance(100)
    await store.ledger.submit(advance)
    spends = [a_spend(advance, charge) for charge in (20, 0, 30)]
    outcomes = await asyncio.gather(*[store.ledger.submit(spend) for spend in spends])
    assert [(outcome.verdict, outcome.amount_micros) for outcome in outcomes] == [
        (Verdict.DONE, 20), (Verdict.DONE, 0), (Verdict.DONE, 30),
    ]  # fmt: skip
    assert await balance_of(store) == (400, 50, 0)
    for spend, charged in zip(spends, ([20], [], [30]), strict=True):
        found = await store.ledger.entries(ACCOUNT, limit=9, run_id=spend.run_id)
        assert [(entry.kind, entry.amount_micros, entry.note) for entry in found] == [
            (CHARGE, charge, "completed") for charge in charged
        ]
    await check_sums(store)
    await store.ledger.submit(a_settlement(advance, 0))
    assert await balance_of(store) == (450, 0, 0)
    await check_sums(store)


async def test_charges_that_come_together_with_other_acts_are_done_in_their_order(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    advance, hold = an_advance(300), a_hold(50)
    acts: list[Act] = [
        advance,
        a_spend(advance, 100),
        an_extension(advance, 1, 50),
        a_spend(advance, 200),
        hold,
        a_spend(advance, 20),
        a_settlement(hold, 10),
        a_settlement(advance, 0),
        a_spend(advance, 5),
    ]
    outcomes = await asyncio.gather(*[store.ledger.submit(act) for act in acts])
    assert [outcome.amount_micros for outcome in outcomes] == [300, 100, 250, 200, 50, 20, 10, 0, 0]
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE] * 8 + [Verdict.MISSING]
    for _ in range(2):
        assert await balance_of(store) == (170, 0, 0)
        assert await store.ledger.orphans("own_2", 0) == []
        await check_sums(store)
        await asyncio.gather(*[store.ledger.submit(act) for act in acts])


async def test_an_advance_never_pays_more_than_it_has(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    advance = an_advance(70)
    await store.ledger.submit(advance)
    acts: list[Act] = [a_spend(advance, charge) for charge in (40, 99, 1)]
    acts += [an_extension(advance, 1, 10), a_spend(advance, 3)]
    outcomes = await asyncio.gather(*[store.ledger.submit(act) for act in acts])
    assert [(outcome.verdict, outcome.amount_micros) for outcome in outcomes] == [
        (Verdict.DONE, 40), (Verdict.DONE, 30), (Verdict.DONE, 0), (Verdict.DONE, 10), (Verdict.DONE, 3),
    ]  # fmt: skip
    assert await balance_of(store) == (20, 7, 0)
    await store.ledger.submit(a_settlement(advance, 0))
    assert await balance_of(store) == (27, 0, 0)
    assert await store.ledger.orphans("own_2", 0) == []
    await check_sums(store)


async def test_what_is_spent_again_counts_once(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    advance = an_advance(100)
    await store.ledger.submit(advance)
    spends = [a_spend(advance, 20), a_spend(advance, 30)]
    for verdict in (Verdict.DONE, Verdict.KNOWN):
        outcomes = await asyncio.gather(*[store.ledger.submit(spend) for spend in spends])
        assert [(outcome.verdict, outcome.amount_micros) for outcome in outcomes] == [(verdict, 20), (verdict, 30)]
    both = await asyncio.gather(*[store.ledger.submit(a_spend(advance, 7, "run_x")) for _ in range(2)])
    assert [(outcome.verdict, outcome.amount_micros) for outcome in both] == [(Verdict.DONE, 7), (Verdict.KNOWN, 7)]
    await store.ledger.submit(a_settlement(advance, 0))
    outcomes = await asyncio.gather(*[store.ledger.submit(spend) for spend in [*spends, a_spend(advance, 20)]])
    assert [(outcome.verdict, outcome.amount_micros) for outcome in outcomes] == [
        (Verdict.KNOWN, 20), (Verdict.KNOWN, 30), (Verdict.MISSING, 0),
    ]  # fmt: skip
    assert await balance_of(store) == (443, 0, 0)
    await check_sums(store)


async def test_what_an_advance_pays_is_taken_from_the_quota_first(store: Store) -> None:
    month = Renew(ACCOUNT, "credits", 50, 0, "plan:pro:1", "", new_id("txn"), new_id("txn"), now())
    advance = an_advance(120)
    acts: list[Act] = [month, a_grant(100), advance]
    for act in acts:
        await store.ledger.submit(act)
    await asyncio.gather(*[store.ledger.submit(a_spend(advance, 20)) for _ in range(2)])
    assert await balance_of(store) == (30, 80, 10)
    await store.ledger.submit(a_spend(advance, 20))
    assert await balance_of(store) == (30, 60, 0)
    await check_sums(store)


async def test_an_advance_is_spent_by_its_own_account_only(store: Store) -> None:
    await store.ledger.submit(a_grant(500))
    advance = an_advance(100)
    await store.ledger.submit(advance)
    spend = a_spend(advance, 10)
    for foreign in (
        spend._replace(account_id="other"),
        spend._replace(currency="spark"),
        spend._replace(advance_id="a"),
    ):
        outcome = await store.ledger.submit(foreign)
        assert (outcome.verdict, outcome.amount_micros) == (Verdict.MISSING, 0)
    assert await balance_of(store) == (400, 100, 0)


async def test_a_hold_is_settled_by_its_own_account_only(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    hold = a_hold(60)
    await store.ledger.submit(hold)
    foreign = a_settlement(hold, 60)._replace(account_id="other")
    outcome = await store.ledger.submit(foreign)
    assert (outcome.verdict, outcome.amount_micros) == (Verdict.KNOWN, 0)
    assert (await store.ledger.submit(a_settlement(hold, 60)._replace(currency="spark"))).amount_micros == 0
    assert await balance_of(store) == (40, 60, 0)


async def test_currencies_are_apart(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    await store.ledger.submit(a_grant(7, currency="spark"))
    assert (await store.ledger.submit(a_hold(8, currency="spark"))).verdict is Verdict.SHORT
    assert (await store.ledger.submit(a_hold(7, currency="spark"))).verdict is Verdict.DONE
    assert [balance.currency for balance in await store.ledger.balances(ACCOUNT)] == ["credits", "spark"]
    assert await balance_of(store) == (100, 0, 0)
    await check_sums(store)


async def test_entries_are_listed_newest_first_and_filtered(store: Store) -> None:
    await store.ledger.submit(a_grant(100))
    hold = a_hold(10)
    for act in (a_grant(50, currency="spark"), hold, a_settlement(hold, 4), a_grant(1)):
        await store.ledger.submit(act)
    everything = await store.ledger.entries(ACCOUNT, limit=100)
    assert [entry.id for entry in everything] == sorted((entry.id for entry in everything), reverse=True)
    assert await store.ledger.entries(ACCOUNT, limit=2) == everything[:2]
    assert await store.ledger.entries(ACCOUNT, limit=2, before_id=everything[1].id) == everything[2:4]
    assert len(await store.ledger.entries(ACCOUNT, limit=9, run_id=hold.run_id)) == 3
    assert [entry.amount_micros for entry in await store.ledger.entries(ACCOUNT, limit=9, currency="spark")] == [50]
    assert await store.ledger.entries("other", limit=9) == []


async def test_only_reservations_of_processes_that_are_gone_are_orphans(store: Store, request: Any) -> None:
    await store.ledger.submit(a_grant(100))
    mine, theirs, kept = (a_hold(1, owner_id="own_me"), a_hold(2, owner_id="own_dead"), a_hold(3, durable=True))
    for act in (mine, theirs, kept):
        await store.ledger.submit(act)
    await store.ledger.beat("own_me")
    await store.ledger.beat("own_me")
    if "memory" not in request.node.name:  # nobody else lives in this process
        await store.ledger.beat("own_dead")
        assert await store.ledger.orphans("own_me", 60) == []
        await asyncio.sleep(0.01)
        silent = [] if "sqlite" in request.node.name else [theirs.run_id]  # on one machine, a lock says more
        assert [hold.run_id for hold in await store.ledger.orphans("own_me", 0.001)] == silent
        await store.ledger.beat("own_dead")  # it was only slow
        assert await store.ledger.orphans("own_me", 60) == []
        await store.ledger.leave("own_dead")
    orphans = await store.ledger.orphans("own_me", 60)
    assert [(hold.run_id, hold.amount_micros) for hold in orphans] == [(theirs.run_id, 2)]


async def test_a_month_of_a_plan_begins_once_and_keeps_what_rolls_over(store: Store) -> None:
    def renew(month: int, monthly: int = 100, rollover: int = 30) -> Renew:
        key = f"plan:pro:2026-{month:02}-01"
        return Renew(ACCOUNT, "credits", monthly, rollover, key, "plan pro", new_id("txn"), new_id("txn"), now())

    assert (await store.ledger.submit(renew(1)._replace(account_id="nobody"))).verdict is Verdict.MISSING
    first = await store.ledger.submit(renew(1))
    assert (first.verdict, first.balance) == (Verdict.DONE, Balance(ACCOUNT, "credits", 100, 0, 100))
    assert (await store.ledger.submit(renew(1))).verdict is Verdict.KNOWN
    await store.ledger.submit(a_grant(1000))
    hold = a_hold(60)
    await store.ledger.submit(hold)
    await store.ledger.submit(a_settlement(hold, 25))
    assert await balance_of(store) == (1075, 0, 75)  # the quota goes first
    assert (await store.ledger.submit(renew(2))).balance == Balance(ACCOUNT, "credits", 1130, 0, 130)  # 45 lapsed
    hold = a_hold(1130)
    await store.ledger.submit(hold)
    assert (await store.ledger.submit(renew(3))).balance == Balance(ACCOUNT, "credits", 100, 1130, 230)  # all reserved
    await store.ledger.submit(a_settlement(hold, 1130))
    assert await balance_of(store) == (100, 0, 0)
    assert (await store.ledger.submit(renew(4))).balance == Balance(ACCOUNT, "credits", 200, 0, 100)
    await check_sums(store)


async def test_a_correction_downwards_shrinks_the_quota_with_the_balance(store: Store) -> None:
    month = Renew(ACCOUNT, "credits", 100, 0, "plan:pro:1", "", new_id("txn"), new_id("txn"), now())
    await store.ledger.submit(month)
    assert (await store.ledger.submit(a_grant(-40, kind=ADJUST))).balance == Balance(ACCOUNT, "credits", 60, 0, 60)
    await store.ledger.submit(a_grant(15))
    assert (await store.ledger.submit(a_grant(-10, kind=ADJUST))).balance == Balance(ACCOUNT, "credits", 65, 0, 60)


async def test_64_at_once_never_overdraw(store: Store) -> None:
    await store.ledger.submit(a_grant(1_000))

    async def spend(number: int) -> int:
        spent = 0
        for turn in range(10):
            hold = a_hold(20 + number % 7)
            if (await store.ledger.submit(hold)).verdict is Verdict.DONE:
                charge = (number + turn) % 30
                spent += (await store.ledger.submit(a_settlement(hold, charge))).amount_micros
        return spent

    spent = sum(await asyncio.gather(*[spend(number) for number in range(64)]))
    available, held, _ = await balance_of(store)
    assert (available, held) == (1_000 - spent, 0)
    assert 0 <= available < 27 + 64
    await check_sums(store)
