from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman.v1.event_pb2 import CancelReason
from dragoman.v1.failure_pb2 import Failure
from dragoman.v1.run_pb2 import Run
from dragoman.v1.usage_pb2 import Charge, InputTokenDetails, Usage
from dragoman_server.caller import Caller
from dragoman_server.credits import hold as hold_module
from dragoman_server.credits.service import Credits, Hold, amount_text, rule_of
from dragoman_server.errors import (
    Forbidden,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from dragoman_server.settings import CreditPriceSettings
from dragoman_server.store.ledger.memory import MemoryLedger
from dragoman_server.store.ledger.records import CHARGE, Act, Outcome, Settle, Told
from dragoman_server.store.ledger.writer import as_future
from dragoman_server.store.memory import MemoryStore
from tests.support.credits import OPERATOR, a_caller, available, check_sums, credits_with, held

_runs = iter(range(10**9))


async def hold(credits: Credits, **fields: Any) -> Hold:
    found = await maybe_hold(credits, **fields)
    assert found is not None
    return found


async def maybe_hold(credits: Credits, **fields: Any) -> Hold | None:
    work: dict[str, Any] = {
        "run_id": f"run_{next(_runs)}", "step_id": "step_1", "operation": "chat", "model": "m", "token_type": "",
        "input_tokens": 10, "output_tokens": 50, **fields,
    }  # fmt: skip
    return await credits.hold(work.pop("caller", a_caller()), **work)


def usage(read: int, written: int, **fields: Any) -> Usage:
    return Usage(input_tokens=read, output_tokens=written, **fields)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_the_most_that_work_can_cost_is_reserved(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000)
    taken = await hold(credits)
    assert (taken.currency, taken.output_tokens, taken.lowered) == ("credits", 50, False)
    assert (await available(store), await held(store)) == (1000 - 210, 210)
    both = await hold(credits, choices=2)
    assert (await held(store), both.output_tokens) == (210 + 310, 50)


async def test_without_a_limit_the_configured_one_counts(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000, max_output_tokens=100)
    assert (await hold(credits, output_tokens=0)).output_tokens == 100
    assert await held(store) == 310


async def test_where_output_is_free_it_is_not_limited(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000, prices=(CreditPriceSettings(request_micros=5),))
    taken = await hold(credits, output_tokens=0)
    assert (taken.output_tokens, await held(store)) == (0, 5)
    assert taken.covers(10**9)
    assert await taken.extend(10**9)
    assert taken.output_tokens == 0


async def test_what_costs_nothing_is_not_reserved(store: MemoryStore) -> None:
    assert await maybe_hold(await credits_with(store, 0, enabled=False)) is None
    credits = await credits_with(store, 0)
    assert await maybe_hold(credits, operation="embeddings") is None
    by_token = CreditPriceSettings(operation="embeddings", input_micros_per_million=1)
    credits = await credits_with(store, 0, prices=(by_token,))
    assert await maybe_hold(credits, operation="embeddings", input_tokens=0) is None


async def test_a_short_balance_refuses_and_says_by_how_much(store: MemoryStore) -> None:
    credits = await credits_with(store, 209)
    with pytest.raises(InsufficientCredits, match=r"needs 0\.00021 credits, and 0\.000209 are available") as refused:
        await hold(credits)
    assert refused.value.metadata == {"currency": "credits", "needed_micros": "210", "available_micros": "209"}
    assert refused.value.reason is Reason.INSUFFICIENT_CREDITS
    assert (await available(store), await held(store)) == (209, 0)
    await hold(credits, output_tokens=49)


async def test_an_amount_beyond_all_numbers_is_refused(store: MemoryStore) -> None:
    credits = await credits_with(store, 209)
    with pytest.raises(InsufficientCredits):
        await hold(credits, output_tokens=2**31 - 1, choices=128, input_tokens=2**62)


@pytest.mark.parametrize(("balance", "tokens"), [(210, 50), (209, 49), (113, 1), (10**9, 50)])
async def test_a_short_balance_lowers_the_limit(store: MemoryStore, balance: int, tokens: int) -> None:
    credits = await credits_with(store, balance, when_short="lower")
    taken = await hold(credits)
    assert (taken.output_tokens, taken.lowered) == (tokens, tokens < 50)
    charge = await taken.settle(usage(10, tokens), "completed")
    assert charge.amount_micros == 110 + 2 * tokens
    assert charge.lowered_output_tokens == (tokens if tokens < 50 else 0)


async def test_a_limit_is_lowered_for_each_choice(store: MemoryStore) -> None:
    credits = await credits_with(store, 110 + 2 * 3 * 7 + 1, when_short="lower")
    assert (await hold(credits, choices=3)).output_tokens == 7


async def test_not_even_one_token_is_refused(store: MemoryStore) -> None:
    credits = await credits_with(store, 111, when_short="lower")
    with pytest.raises(InsufficientCredits):
        await hold(credits)
    assert await available(store) == 111


async def test_lowering_many_at_once_never_overdraws(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000, when_short="lower")
    taken = await asyncio.gather(*[hold(credits) for _ in range(20)], return_exceptions=True)
    assert sum(isinstance(one, Hold) for one in taken) >= 5
    await check_sums(store)


SOLD = (
    CreditPriceSettings(model="native", currency="sogni", request_micros=10),
    CreditPriceSettings(model="native", currency="spark", request_micros=20),
    CreditPriceSettings(model="vendor", currency="spark", request_micros=30),
)


async def credits_of_two(store: MemoryStore, sogni: int, spark: int) -> Credits:
    credits = await credits_with(
        store, 0, currencies=("spark", "sogni"), auto=("sogni", "spark"), prices=SOLD, max_output_tokens=1
    )
    for currency, amount in (("sogni", sogni), ("spark", spark)):
        if amount:
            await credits.grant(OPERATOR, "default", amount, currency=currency)
    return credits


@pytest.mark.parametrize(
    ("token_type", "model", "sogni", "spark", "paid"),
    [
        ("", "native", 100, 100, "sogni"),
        ("auto", "native", 100, 100, "sogni"),
        ("auto", "native", 5, 100, "spark"),  # not enough of the first
        ("auto", "vendor", 100, 100, "spark"),  # not sold for the first
        ("spark", "native", 100, 100, "spark"),
        ("sogni", "native", 100, 100, "sogni"),
    ],
)
async def test_the_token_type_chooses_the_currency(
    store: MemoryStore, token_type: str, model: str, sogni: int, spark: int, paid: str
) -> None:
    credits = await credits_of_two(store, sogni, spark)
    taken = await hold(credits, token_type=token_type, model=model)
    assert taken.currency == paid
    assert (await taken.settle(usage(1, 1), "completed")).currency == paid


async def test_a_named_currency_alone_pays(store: MemoryStore) -> None:
    credits = await credits_of_two(store, 5, 100)
    with pytest.raises(InsufficientCredits) as refused:
        await hold(credits, token_type="sogni", model="native")
    assert refused.value.metadata["currency"] == "sogni"
    with pytest.raises(InvalidRequest, match="paid for with spark") as wrong:
        await hold(credits, token_type="sogni", model="vendor")
    assert wrong.value.field == "spec.chat.token_type"
    assert await maybe_hold(credits, token_type="sogni", model="free") is None


async def test_a_currency_without_a_price_is_no_way_around_it(store: MemoryStore) -> None:
    credits = await credits_of_two(store, 5, 100)
    with pytest.raises(InvalidRequest, match="paid for with"):
        await hold(credits, token_type="credits", model="native")


async def test_an_unknown_token_type_names_the_known_ones(store: MemoryStore) -> None:
    credits = await credits_of_two(store, 5, 100)
    with pytest.raises(InvalidRequest, match="there are: credits, spark, sogni, auto") as wrong:
        await hold(credits, token_type="dollars")
    assert wrong.value.field == "spec.chat.token_type"


# How work is settled: each rule of docs/credits.md.


@pytest.mark.parametrize(
    ("rule", "consumed", "charged", "note"),
    [
        ("completed", usage(10, 20), 150, "completed"),
        ("completed", usage(8, 0), 108, "completed"),  # an answer without a word was asked for, and paid
        ("completed", usage(10, 20, estimated=True), 150, "completed, estimated"),  # usage missing
        ("completed", usage(10, 20, input_details=InputTokenDetails(cached_tokens=10)), 150, "completed"),
        ("completed", usage(1000, 1000), 210, "completed"),  # never more than what was reserved
        ("refused", None, 0, "refused"),  # before the start
        ("failed", None, 0, "failed"),  # upstream error before anything was said
        ("failed", usage(10, 20), 0, "failed"),  # upstream error in the middle
        ("tool_failed", usage(10, 20), 0, "tool_failed"),
        ("disconnected", None, 0, "disconnected"),  # client gone before the first token
        ("disconnected", usage(10, 0), 0, "disconnected"),  # the same, and the provider had counted the prompt
        ("disconnected", usage(10, 5, estimated=True), 120, "disconnected, estimated"),  # client gone mid-stream
        ("cancelled", usage(10, 0), 0, "cancelled"),
        ("cancelled", usage(10, 5), 120, "cancelled"),
        ("deadline", usage(10, 5), 120, "deadline"),
        ("shutdown", usage(10, 5), 0, "shutdown"),
        ("orphaned", usage(10, 5), 0, "orphaned"),
    ],
)
async def test_how_work_is_settled(
    store: MemoryStore, rule: str, consumed: Usage | None, charged: int, note: str
) -> None:
    credits = await credits_with(store, 1000)
    taken = await hold(credits)
    charge = await taken.settle(consumed, rule)
    assert charge == Charge(currency="credits", amount_micros=charged, available_micros=1000 - charged)
    entries = [entry for entry in await store.ledger.entries("default", limit=9) if entry.run_id]
    assert {entry.note for entry in entries} == {"", note}
    assert sum(entry.amount_micros for entry in entries if entry.kind == CHARGE) == charged
    assert (await available(store), await held(store)) == (1000 - charged, 0)
    await check_sums(store)


@pytest.mark.parametrize(
    ("rule", "consumed", "charged"),
    [("failed", usage(10, 20), 150), ("failed", usage(10, 0), 0), ("failed", None, 0),
     ("tool_failed", usage(10, 1), 112), ("shutdown", usage(10, 20), 0)],
)  # fmt: skip
async def test_failures_can_be_charged(store: MemoryStore, rule: str, consumed: Usage | None, charged: int) -> None:
    credits = await credits_with(store, 1000, charge_failed=True)
    assert (await (await hold(credits)).settle(consumed, rule)).amount_micros == charged


async def test_a_rule_that_does_not_exist_settles_nothing(store: MemoryStore) -> None:
    taken = await hold(await credits_with(store, 1000))
    with pytest.raises(ValueError, match="no_such_rule"):
        taken.settle(None, "no_such_rule")
    assert await held(store) == 210


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (Run(state=Run.STATE_COMPLETED), "completed"),
        (Run(state=Run.STATE_FAILED, failure=Failure(reason="PROVIDER_FAILED")), "failed"),
        (Run(state=Run.STATE_FAILED, failure=Failure(reason="DEADLINE_EXCEEDED")), "deadline"),
        (Run(state=Run.STATE_CANCELLED, cancel_reason=CancelReason.CANCEL_REASON_REQUESTED), "cancelled"),
        (Run(state=Run.STATE_CANCELLED, cancel_reason=CancelReason.CANCEL_REASON_DISCONNECTED), "disconnected"),
        (Run(state=Run.STATE_CANCELLED, cancel_reason=CancelReason.CANCEL_REASON_SHUTDOWN), "shutdown"),
    ],
)
def test_a_record_tells_its_rule(record: Run, rule: str) -> None:
    assert rule_of(record) == rule


async def test_only_the_first_settlement_counts(store: MemoryStore) -> None:
    taken = await hold(await credits_with(store, 1000))
    first = taken.settle(usage(10, 20), "completed")
    second, third = taken.settle(usage(10, 50), "completed"), taken.settle(None, "failed")
    assert await second == await third == await first
    assert (await first).amount_micros == 150
    assert not await taken.extend(1000)


async def test_the_same_step_is_reserved_once(store: MemoryStore) -> None:
    credits = await credits_with(store, 300)
    first = await hold(credits, run_id="run_x")
    again = await hold(credits, run_id="run_x", output_tokens=60)
    assert await held(store) == 210
    assert again.covers(50)
    assert not again.covers(51)
    assert (await again.settle(usage(10, 20), "completed")).amount_micros == 150
    assert (await first.settle(None, "failed")).amount_micros == 150  # as it was settled
    await hold(credits, run_id="run_x", step_id="step_2", output_tokens=10)
    await check_sums(store)


async def test_a_reservation_grows_with_its_answer(store: MemoryStore) -> None:
    taken = await hold(await credits_with(store, 300), choices=2, output_tokens=20)
    assert await held(store) == 190
    assert taken.covers(20)
    assert not taken.covers(21)
    assert await taken.extend(25)
    assert (taken.output_tokens, await held(store)) == (25, 210)
    assert taken.covers(25)
    assert await taken.extend(10)  # it does already
    assert (taken.output_tokens, await held(store)) == (25, 210)
    assert not await taken.extend(50)
    assert (taken.output_tokens, await held(store)) == (25, 210)
    assert await taken.extend(40)
    charge = await taken.settle(usage(10, 80), "completed")
    assert (charge.amount_micros, charge.available_micros) == (270, 30)
    await check_sums(store)


async def test_a_cost_for_which_databases_have_no_room_is_what_was_reserved(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000)
    ledger = SlowLedger(store.ledger)
    taken = await hold(credits)
    taken._ledger = ledger
    charging = taken.settle(usage(2**62, 2**62), "completed")
    ((act, _),) = ledger._waiting
    assert isinstance(act, Settle)
    assert act.charge_micros < 2**63
    ledger.catch_up()
    assert (await charging).amount_micros == 210


async def test_a_caller_who_leaves_while_credits_are_reserved_gets_them_back(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000)
    ledger = SlowLedger(store.ledger)
    credits._ledger = credits._advances._ledger = ledger
    waiting = asyncio.create_task(maybe_hold(credits))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    ledger.catch_up()
    assert (await available(store), await held(store)) == (1000, 0)
    assert len(await store.ledger.entries("default", limit=9)) == 3
    await check_sums(store)


class SlowLedger:
    """A ledger whose acts wait, and which may fail first."""

    def __init__(self, ledger: MemoryLedger, failures: int = 0) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Act, Told]] = []
        self.failures = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def submit(self, act: Act) -> asyncio.Future[Outcome]:
        return as_future(self.send, act)

    def send(self, act: Act, then: Told) -> None:
        if self.failures and isinstance(act, Settle):
            self.failures -= 1
            then(Unavailable("the database does not answer", reason=Reason.STORE_UNAVAILABLE))
        else:
            self._waiting.append((act, then))

    def catch_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        for act, then in waiting:
            self._ledger.send(act, then)


async def test_a_charge_that_cannot_be_written_is_tried_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_module, "FIRST_PAUSE", 0.001)
    taken = await hold(await credits_with(store, 1000))
    ledger = SlowLedger(store.ledger, failures=2)
    taken._ledger = ledger
    charging = taken.settle(usage(10, 20), "completed")
    while not ledger._waiting:
        await asyncio.sleep(0.001)
    assert not charging.done()
    ledger.catch_up()
    assert (await charging).amount_micros == 150


async def test_a_run_does_not_wait_for_ever_for_its_charge(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_module, "FIRST_PAUSE", 0.001)
    taken = await hold(await credits_with(store, 1000))
    ledger = SlowLedger(store.ledger, failures=hold_module.PATIENCE + 1)
    taken._ledger = ledger
    with pytest.raises(Unavailable):
        await taken.settle(usage(10, 20), "completed")
    assert await held(store) == 210
    while not ledger._waiting:
        await asyncio.sleep(0.001)
    ledger.catch_up()
    assert await available(store) == 850
    await check_sums(store)


async def test_what_dead_processes_reserved_is_released_at_the_start(store: MemoryStore) -> None:
    dead = await credits_with(store, 1000)
    await hold(dead)
    kept = await hold(dead, durable=True)
    credits = await credits_with(store, 0)
    await credits.start()
    mine = await hold(credits)
    await credits._release_orphans()
    assert await held(store) == 420
    await mine.settle(None, "failed")
    await kept.settle(None, "failed")
    await credits.stop()
    assert (await available(store), await held(store)) == (1000, 0)
    notes = {entry.note for entry in await store.ledger.entries("default", limit=99)}
    assert notes == {"", "orphaned", "failed"}


# Balances.


async def test_a_new_account_is_welcomed_once(store: MemoryStore) -> None:
    credits = await credits_with(store, 0, welcome_micros=77)
    await asyncio.gather(*[credits.welcome("default") for _ in range(3)])
    assert await available(store) == 77
    await credits.welcome("nobody")
    await (await credits_with(store, 0, enabled=False, welcome_micros=5)).welcome("default")
    assert await available(store) == 77


async def test_only_operators_change_balances_and_look_at_others(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000)
    for role in (KeyRole.KEY_ROLE_MEMBER, KeyRole.KEY_ROLE_ADMIN):
        caller = Caller("other", "key_2", role=role)
        for change in (credits.grant, credits.adjust):
            for amount in (-1, 0, 1):
                with pytest.raises(Forbidden):
                    await change(caller, "other", amount)
        with pytest.raises(NotFound):
            await credits.balances(caller, "default")
        with pytest.raises(NotFound):
            await credits.entries(caller, account_id="default")
        assert (await credits.balances(caller))[0] == []
    assert [balance.available_micros for balance in (await credits.balances(OPERATOR, "default"))[0]] == [1000]


async def test_grants_and_corrections_are_checked(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000)
    for amount in (0, -5, 10**15 + 1):
        with pytest.raises(InvalidRequest, match="amount_micros"):
            await credits.grant(OPERATOR, "default", amount)
    for amount in (0, 10**16, -(10**16)):
        with pytest.raises(InvalidRequest, match="amount_micros"):
            await credits.adjust(OPERATOR, "default", amount)
    with pytest.raises(InvalidRequest, match="there are: credits"):
        await credits.grant(OPERATOR, "default", 5, currency="gold")
    with pytest.raises(InvalidRequest, match="note"):
        await credits.grant(OPERATOR, "default", 5, note="x" * 501)
    with pytest.raises(InvalidRequest, match="request_id"):
        await credits.grant(OPERATOR, "default", 5, request_id="a\nb")
    with pytest.raises(NotFound):
        await credits.grant(OPERATOR, "nobody", 5)
    with pytest.raises(InsufficientCredits):
        await credits.adjust(OPERATOR, "default", -1001)
    entry, balance = await credits.adjust(OPERATOR, "default", -1000, note="all of it")
    assert (entry.amount_micros, entry.note, balance.available_micros) == (-1000, "all of it", 0)
    await check_sums(store)


async def test_a_request_id_makes_a_grant_repeatable(store: MemoryStore) -> None:
    credits = await credits_with(store, 0)
    first, _ = await credits.grant(OPERATOR, "default", 5, request_id="one")
    again, balance = await credits.grant(OPERATOR, "default", 5, request_id="one")
    assert (again, balance.available_micros) == (first, 5)
    with pytest.raises(IdempotencyConflict):
        await credits.grant(OPERATOR, "default", 6, request_id="one")
    await credits.adjust(OPERATOR, "default", 7, request_id="one")  # a name of its own
    await credits.grant(OPERATOR, "default", 5)
    await credits.grant(OPERATOR, "default", 5)
    assert await available(store) == 22


async def test_what_operators_do_is_told_in_the_audit_log(store: MemoryStore) -> None:
    credits = await credits_with(store, 0)
    entry, _ = await credits.grant(OPERATOR, "default", 5, note="why", request_id="one")
    await credits.grant(OPERATOR, "default", 5, note="why", request_id="one")
    with pytest.raises(InsufficientCredits):
        await credits.adjust(Caller("default", "key_9", role=KeyRole.KEY_ROLE_OPERATOR), "default", -6)
    await credits.adjust(Caller("default", "key_9", role=KeyRole.KEY_ROLE_OPERATOR), "default", -5)
    told = await store.identity.audit.page("default", limit=10)
    assert [(audit.actor, audit.action) for audit in told] == [
        ("key_9", "credits.adjust"),
        ("operator", "credits.grant"),
    ]
    assert told[1].target == entry.id
    assert told[1].details == '{"currency": "credits", "amount_micros": 5, "note": "why"}'


async def test_entries_come_in_pages(store: MemoryStore) -> None:
    credits = await credits_with(store, 1000)
    await (await hold(credits, run_id="run_a")).settle(usage(1, 1), "completed")
    everything, token = await credits.entries(OPERATOR)
    assert (len(everything), token) == (4, "")
    found, token = [], ""
    while True:
        page, token = await credits.entries(OPERATOR, 3, token)
        found += page
        if not token:
            break
    assert found == everything
    assert len((await credits.entries(OPERATOR, run_id="run_a"))[0]) == 3
    _, token = await credits.entries(OPERATOR, 1)
    with pytest.raises(InvalidRequest):
        await credits.entries(OPERATOR, 1, token, run_id="run_a")


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0"), (1, "0.000001"), (1_500_000, "1.5"), (-2_000_000, "-2"), (-1, "-0.000001"), (10**15, "1000000000")],
)
def test_amounts_are_told_as_people_write_them(micros: int, text: str) -> None:
    assert amount_text(micros) == text
