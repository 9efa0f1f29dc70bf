"""Whatever comes in whatever order: nobody is overdrawn, twice counts once, and balances are what their entries say."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from dragoman_server.ids import new_id
from dragoman_server.store.database import open_store, sqlite_url
from dragoman_server.store.ledger.records import ADJUST, GRANT, Extend, Hold, Post, Renew, Settle, Spend, Verdict
from tests.support.credits import available, check_sums, held

if TYPE_CHECKING:
    from dragoman_server.store.ledger.records import Act, Outcome

AMOUNTS = st.integers(1, 60)
ME = "own_me"


class LedgerMachine(RuleBasedStateMachine):
    """A ledger, and what it should say."""

    url = "memory:"
    holds = Bundle("holds")
    advances = Bundle("advances")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="ledger-")
        url = sqlite_url(Path(self.folder.name) / "x.db") if self.url == "sqlite" else self.url
        self.store = open_store(url)
        self.runner.run(self.store.migrate())
        self.numbers = itertools.count(1)
        self.available = 0
        self.quota = 0
        self.held: dict[str, int] = {}
        self.charged: dict[str, int] = {}
        self.extended: set[tuple[str, int]] = set()
        self.owners: dict[str, str] = {}
        self.months: set[str] = set()
        self.ahead: dict[str, int] = {}
        self.spent: dict[str, int] = {}

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def do(self, *acts: Act) -> list[Outcome]:
        async def together() -> list[Outcome]:
            return list(await asyncio.gather(*[self.store.ledger.submit(act) for act in acts]))

        return self.runner.run(together())

    def a_hold(self, run_id: str, amount: int, owner_id: str) -> Hold:
        return Hold("default", "credits", run_id, "step_1", amount, owner_id, False, new_id("txn"), next(self.numbers))

    def a_settlement(self, run_id: str, charge: int) -> Settle:
        ids = new_id("txn"), new_id("txn")
        return Settle("default", "credits", run_id, "step_1", charge, "completed", *ids, next(self.numbers))

    def expect_hold(self, run_id: str, amount: int, owner_id: str, outcome: Outcome) -> None:
        fits = amount <= self.available
        assert outcome.verdict is (Verdict.DONE if fits else Verdict.SHORT)
        if fits:
            self.available -= amount
            self.held[run_id] = amount
            self.owners[run_id] = owner_id

    def expect_settled(self, run_id: str, charge: int, outcome: Outcome) -> None:
        if run_id in self.held:
            amount = self.held.pop(run_id)
            self.charged[run_id] = min(charge, amount)
            self.available += amount - self.charged[run_id]
            self.quota -= min(self.quota, self.charged[run_id])
            assert outcome.verdict is Verdict.DONE
        else:
            assert outcome.verdict is Verdict.KNOWN
        assert outcome.amount_micros == self.charged.get(run_id, 0)

    @initialize(amount=AMOUNTS)
    def begin(self, amount: int) -> None:
        self.grant(amount * 5)

    @rule(amount=AMOUNTS)
    def grant(self, amount: int) -> None:
        post = Post("default", "credits", GRANT, amount, new_id("key"), "", new_id("txn"), next(self.numbers))
        first, again = self.do(post, post)
        assert (first.verdict, again.verdict) == (Verdict.DONE, Verdict.KNOWN)
        self.available += amount

    @rule(amount=AMOUNTS)
    def take_away(self, amount: int) -> None:
        post = Post("default", "credits", ADJUST, -amount, new_id("key"), "", new_id("txn"), next(self.numbers))
        (outcome,) = self.do(post)
        assert outcome.verdict is (Verdict.DONE if amount <= self.available else Verdict.SHORT)
        if amount <= self.available:
            self.available -= amount
            self.quota = min(self.quota, self.available + sum(self.held.values()) + sum(self.ahead.values()))

    @rule(month=st.sampled_from(["1", "2", "3", "4"]), monthly=AMOUNTS, rollover=AMOUNTS)
    def renew(self, month: str, monthly: int, rollover: int) -> None:
        ids = new_id("txn"), new_id("txn")
        act = Renew("default", "credits", monthly, rollover, f"plan:{month}", "", *ids, next(self.numbers))
        (outcome,) = self.do(act)
        assert outcome.verdict is (Verdict.KNOWN if month in self.months else Verdict.DONE)
        if month not in self.months:
            self.months.add(month)
            lapsed = min(max(0, self.quota - rollover), self.available)
            self.available += monthly - lapsed
            self.quota += monthly - lapsed

    @rule(target=holds, amounts=st.lists(AMOUNTS, min_size=1, max_size=5), owner_id=st.sampled_from([ME, "own_other"]))
    def hold_together(self, amounts: list[int], owner_id: str):  # type: ignore[no-untyped-def]  # hypothesis' own type
        runs = [new_id("run") for _ in amounts]
        acts = [self.a_hold(run_id, amount, owner_id) for run_id, amount in zip(runs, amounts, strict=True)]
        for act, outcome in zip(acts, self.do(*acts), strict=True):
            self.expect_hold(act.run_id, act.amount_micros, owner_id, outcome)
        return multiple(*runs)

    @rule(run_id=holds, amount=AMOUNTS)
    def hold_again(self, run_id: str, amount: int) -> None:
        (outcome,) = self.do(self.a_hold(run_id, amount, ME))
        if run_id in self.owners:
            assert outcome.verdict is Verdict.KNOWN
        else:  # it was refused before, and is tried anew
            self.expect_hold(run_id, amount, ME, outcome)

    @rule(run_id=holds, amount=AMOUNTS, serial=st.integers(1, 3))
    def extend(self, run_id: str, amount: int, serial: int) -> None:
        act = Extend("default", "credits", run_id, "step_1", serial, amount, new_id("txn"), next(self.numbers))
        (outcome,) = self.do(act)
        if run_id not in self.held:
            assert outcome.verdict is Verdict.MISSING
        elif (run_id, serial) in self.extended:
            assert outcome.verdict is Verdict.KNOWN
        elif amount > self.available:
            assert outcome.verdict is Verdict.SHORT
        else:
            assert outcome.verdict is Verdict.DONE
            self.extended.add((run_id, serial))
            self.available -= amount
            self.held[run_id] += amount

    @rule(run_ids=st.lists(holds, min_size=1, max_size=4), charge=st.integers(0, 100))
    def settle_together(self, run_ids: list[str], charge: int) -> None:
        outcomes = self.do(*[self.a_settlement(run_id, charge) for run_id in run_ids])
        for run_id, outcome in zip(run_ids, outcomes, strict=True):
            self.expect_settled(run_id, charge, outcome)

    @rule(target=holds, amount=AMOUNTS, charge=st.integers(0, 100))
    def hold_and_settle_at_once(self, amount: int, charge: int) -> str:
        run_id = new_id("run")
        held, settled = self.do(self.a_hold(run_id, amount, ME), self.a_settlement(run_id, charge))
        self.expect_hold(run_id, amount, ME, held)
        self.expect_settled(run_id, charge, settled)
        return run_id

    @rule(target=advances, amount=AMOUNTS)
    def reserve_ahead(self, amount: int) -> str:
        advance_id = new_id("adv")
        (outcome,) = self.do(self.a_hold(advance_id, amount * 3, ME)._replace(step_id=""))
        assert outcome.verdict is (Verdict.DONE if amount * 3 <= self.available else Verdict.SHORT)
        if amount * 3 <= self.available:
            self.available -= amount * 3
            self.ahead[advance_id] = amount * 3
        return advance_id

    @rule(advance_id=advances, charges=st.lists(st.integers(0, 70), min_size=1, max_size=5))
    def spend_together(self, advance_id: str, charges: list[int]) -> None:
        acts = [
            Spend(
                "default", "credits", new_id("run"), "step_1", charge, "", advance_id, new_id("txn"), next(self.numbers)
            )
            for charge in charges
        ]  # fmt: skip
        for act, outcome in zip([*acts, acts[0]], self.do(*acts) + self.do(acts[0]), strict=True):
            left = self.ahead.get(advance_id, 0)
            if act.run_id in self.spent:
                assert outcome.verdict is Verdict.KNOWN
            elif advance_id not in self.ahead:
                assert outcome.verdict is Verdict.MISSING
            else:
                assert outcome.verdict is Verdict.DONE
                charge = min(act.charge_micros, left)
                if charge:
                    self.spent[act.run_id] = charge
                    self.ahead[advance_id] -= charge
                    self.quota -= min(self.quota, charge)
            assert outcome.amount_micros == self.spent.get(act.run_id, 0)

    @rule(advance_id=advances, part=st.integers(1, 200), serial=st.integers(1, 3))
    def give_back(self, advance_id: str, part: int, serial: int) -> None:
        act = Extend("default", "credits", advance_id, "", serial, -part, new_id("txn"), next(self.numbers))
        (outcome,) = self.do(act)
        if advance_id not in self.ahead:
            assert outcome.verdict is Verdict.MISSING
        elif (advance_id, serial) in self.extended:
            assert outcome.verdict is Verdict.KNOWN
        else:
            assert outcome.verdict is Verdict.DONE
            self.extended.add((advance_id, serial))
            part = min(part, self.ahead[advance_id])
            self.ahead[advance_id] -= part
            self.available += part

    @rule(advance_id=advances)
    def end_advance(self, advance_id: str) -> None:
        (outcome,) = self.do(self.a_settlement(advance_id, 0)._replace(step_id=""))
        assert outcome.verdict is (Verdict.DONE if advance_id in self.ahead else Verdict.KNOWN)
        self.available += self.ahead.pop(advance_id, 0)

    @rule()
    def crash_of_the_other_and_sweep(self) -> None:
        async def sweep() -> None:
            await self.store.ledger.beat(ME)
            await self.store.ledger.leave("own_other")
            for hold in await self.store.ledger.orphans(ME, 60):
                assert hold.owner_id == "own_other"
                act = self.a_settlement(hold.run_id, 0)
                self.expect_settled(hold.run_id, 0, await self.store.ledger.submit(act))

        self.runner.run(sweep())
        assert "own_other" not in {self.owners[run_id] for run_id in self.held}

    @invariant()
    def balances_are_right(self) -> None:
        async def check() -> None:
            assert await available(self.store) == self.available
            assert await held(self.store) == sum(self.held.values()) + sum(self.ahead.values())
            assert sum(balance.quota_micros for balance in await self.store.ledger.balances("default")) == self.quota
            await check_sums(self.store)

        self.runner.run(check())


@pytest.mark.parametrize(("kind", "examples"), [("memory:", 150), ("sqlite", 15), ("postgres", 10)])
def test_whatever_happens(kind: str, examples: int, request: pytest.FixtureRequest) -> None:
    if kind == "postgres":
        kind = request.getfixturevalue("postgres_url")

    class Machine(LedgerMachine):
        url = kind

        def teardown(self) -> None:
            if kind.startswith("postgresql"):
                self.runner.run(empty(kind))
            super().teardown()

    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks),
    )


async def empty(url: str) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("TRUNCATE balances, holds, ledger_entries, owners")
