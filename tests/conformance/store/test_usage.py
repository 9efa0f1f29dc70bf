from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragoman.v1.run_pb2 import Run
from dragoman_server.ids import new_id
from dragoman_server.store.base import Store
from dragoman_server.store.identity.records import AccountRecord, AuditRecord
from dragoman_server.store.usage.records import COUNTS, DIMENSIONS, HOUR, UsageQuery, UsageRecord, UsageSum

NOON = 1_790_000_000_000_000 // (24 * HOUR) * 24 * HOUR + 12 * HOUR
ALL = UsageQuery("default")


def a_record(**changes: Any) -> UsageRecord:
    record = UsageRecord(
        run_id=new_id("run"),
        account_id="default",
        user_id="user_a",
        key_id="key_a",
        create_time=NOON + 5,
        operation="chat",
        model="m",
        provider="p",
        state=Run.STATE_COMPLETED,
        failure_reason="",
        input_tokens=100,
        cached_tokens=40,
        output_tokens=20,
        reasoning_tokens=7,
        estimated=True,
        currency="credits",
        charged_micros=5_000_000,
        duration_ms=900,
        first_content_ms=90,
    )
    return record._replace(**changes)


async def make_account(store: Store, account_id: str) -> None:
    audit = AuditRecord(new_id("aud"), account_id, NOON, "operator", "account.create", account_id)
    await store.identity.accounts.add(AccountRecord(account_id, NOON), audit)


async def sums(
    store: Store, query: UsageQuery = ALL, interval: int | None = HOUR, dimensions: tuple[str, ...] = ()
) -> list[UsageSum]:
    return await store.usage.sums(query, interval=interval, dimensions=dimensions, limit=10_000)


async def test_a_record_comes_back_as_it_was_kept(store: Store) -> None:
    record = a_record(
        model="Ünï 🔑 'quoted' \"%s\"", input_tokens=2**62, state=Run.STATE_FAILED, failure_reason="INTERNAL"
    )
    assert await store.usage.add([record]) == 1
    assert await store.usage.page(ALL, limit=10) == [record]


async def test_a_run_counts_once_however_often_it_is_added(store: Store) -> None:
    first, second = a_record(), a_record()
    assert await store.usage.add([first]) == 1
    assert await store.usage.add([first, second, second]) == 1
    assert await store.usage.add([first, second]) == 0
    assert len(await store.usage.page(ALL, limit=10)) == 2
    assert [total.runs for total in await sums(store)] == [2]


async def test_records_of_accounts_that_are_gone_are_left_out(store: Store) -> None:
    kept = a_record()
    assert await store.usage.add([a_record(account_id="nobody"), kept]) == 1
    assert await store.usage.add([a_record(account_id="nobody")]) == 0
    assert await store.usage.page(ALL, limit=10) == [kept]
    assert await store.usage.page(UsageQuery("nobody"), limit=10) == []


async def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    records = [a_record(create_time=NOON + i // 2) for i in range(10)]
    await store.usage.add(records[5:])
    await store.usage.add(records[:5])
    newest_first = sorted(records, key=lambda r: (r.create_time, r.run_id), reverse=True)
    seen: list[UsageRecord] = []
    before = None
    while page := await store.usage.page(ALL, limit=3, before=before):
        seen += page
        before = (page[-1].create_time, page[-1].run_id)
    assert seen == newest_first


@pytest.mark.parametrize("name", DIMENSIONS)
async def test_what_is_asked_for_is_all_that_comes(store: Store, name: str) -> None:
    wanted, other, nobody = (a_record(**{name: value}) for value in ("wanted", "other", ""))
    await store.usage.add([wanted, other, nobody])
    for value, found in (("wanted", wanted), ("", nobody)):
        named: dict[str, Any] = {name: value}
        query = replace(ALL, **named)
        assert await store.usage.page(query, limit=10) == [found]
        (total,) = await sums(store, query, dimensions=(name,))
        assert getattr(total, name) == value
        assert total.runs == 1


async def test_times_are_from_and_until(store: Store) -> None:
    first, second = a_record(create_time=NOON), a_record(create_time=NOON + HOUR)
    await store.usage.add([first, second])
    assert await store.usage.page(UsageQuery("default", NOON, NOON + HOUR), limit=9) == [first]
    assert await store.usage.page(UsageQuery("default", NOON + 1), limit=9) == [second]
    assert [total.start_time for total in await sums(store, UsageQuery("default", NOON, NOON + HOUR))] == [NOON]
    assert [total.start_time for total in await sums(store, UsageQuery("default", NOON + HOUR))] == [NOON + HOUR]


async def test_accounts_do_not_see_each_other(store: Store) -> None:
    await make_account(store, "other")
    mine, theirs = a_record(), a_record(account_id="other")
    await store.usage.add([mine, theirs])
    assert await store.usage.page(ALL, limit=9) == [mine]
    assert await store.usage.page(UsageQuery("other"), limit=9) == [theirs]
    assert [total.runs for total in await sums(store, UsageQuery("other"))] == [1]


async def test_sums_are_by_interval_and_dimension_and_currency(store: Store) -> None:
    await store.usage.add(
        [
            a_record(create_time=NOON),
            a_record(create_time=NOON + HOUR, model="n", state=Run.STATE_FAILED, currency="", charged_micros=0),
            a_record(create_time=NOON + HOUR, currency="spark"),
            a_record(create_time=NOON + 24 * HOUR),
        ]
    )
    by_day = await sums(store, interval=24 * HOUR, dimensions=("model",))
    midnight = NOON - 12 * HOUR
    assert [(s.start_time, s.model, s.currency, s.runs, s.failed_runs, s.charged_micros) for s in by_day] == [
        (midnight, "m", "credits", 1, 0, 5_000_000),
        (midnight, "m", "spark", 1, 0, 5_000_000),
        (midnight, "n", "", 1, 1, 0),
        (midnight + 24 * HOUR, "m", "credits", 1, 0, 5_000_000),
    ]
    assert {s.user_id for s in by_day} == {""}
    everything = await sums(store, UsageQuery("default", NOON), interval=None)
    assert [(s.start_time, s.currency, s.runs) for s in everything] == [
        (NOON, "", 1),
        (NOON, "credits", 2),
        (NOON, "spark", 1),
    ]
    assert len(await store.usage.sums(ALL, interval=HOUR, dimensions=(), limit=2)) == 2


async def test_what_is_too_old_goes_a_little_at_a_time(store: Store) -> None:
    await store.usage.add([a_record(create_time=NOON + i * HOUR) for i in range(5)])
    assert await store.usage.purge(NOON + 3 * HOUR, None, limit=2) == 2
    assert await store.usage.purge(NOON + 3 * HOUR, None, limit=2) == 1
    assert await store.usage.purge(NOON + 3 * HOUR, None, limit=2) == 0
    assert len(await store.usage.page(ALL, limit=9)) == 2
    assert len(await sums(store)) == 5
    assert await store.usage.purge(None, NOON + HOUR, limit=9) == 1
    assert [s.start_time for s in await sums(store)] == [NOON + i * HOUR for i in range(1, 5)]


async def test_many_at_once_add_up(store: Store) -> None:
    async def add(key: int) -> None:
        await store.usage.add([a_record(key_id=f"key_{key + i}") for i in range(10)])

    await asyncio.gather(*(add(i) for i in range(10)))
    assert sum(total.runs for total in await sums(store, dimensions=("key_id",))) == 100


async def test_with_an_account_goes_what_it_used(store: Store) -> None:
    await make_account(store, "other")
    await store.usage.add([a_record(), a_record(account_id="other")])
    audit = AuditRecord(new_id("aud"), "other", NOON, "operator", "account.delete", "other")
    assert await store.identity.accounts.erase("other", audit)
    assert await store.usage.page(UsageQuery("other"), limit=9) == []
    assert await sums(store, UsageQuery("other")) == []
    assert len(await store.usage.page(ALL, limit=9)) == 1


RECORDS = st.lists(
    st.builds(
        a_record,
        user_id=st.sampled_from(("", "user_a")),
        key_id=st.sampled_from(("key_a", "key_b")),
        model=st.sampled_from(("m", "n")),
        currency=st.sampled_from(("", "credits", "spark")),
        create_time=st.integers(NOON, NOON + 3 * HOUR),
        state=st.sampled_from((Run.STATE_COMPLETED, Run.STATE_FAILED, Run.STATE_CANCELLED)),
        input_tokens=st.integers(0, 10**9),
        charged_micros=st.integers(0, 10**12),
        run_id=st.integers(0, 12).map("run_{}".format),
    ),
    max_size=12,
)


@given(
    batches=st.lists(RECORDS, max_size=4),
    dimensions=st.lists(st.sampled_from(DIMENSIONS), unique=True).map(tuple),
    interval=st.sampled_from((HOUR, 24 * HOUR, None)),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_sums_equal_the_records(
    store: Store, batches: list[list[UsageRecord]], dimensions: tuple[str, ...], interval: int | None
) -> None:
    account = new_id("acc")
    await make_account(store, account)
    for batch in batches:
        await store.usage.add([r._replace(account_id=account, run_id=account + r.run_id) for r in batch])
    query = UsageQuery(account, NOON)
    records = await store.usage.page(query, limit=1000)
    expected: dict[tuple[Any, ...], list[int]] = {}
    for r in records:
        start = NOON if interval is None else r.create_time - r.create_time % interval
        total = expected.setdefault((start, *(getattr(r, d) for d in dimensions), r.currency), [0] * len(COUNTS))
        failed = int(r.state == Run.STATE_FAILED)
        counts = (1, failed, r.input_tokens, r.cached_tokens, r.output_tokens, r.charged_micros, r.duration_ms)
        for i, count in enumerate(counts):
            total[i] += count
    found = await sums(store, query, interval, dimensions)
    assert [
        ((s.start_time, *(getattr(s, d) for d in dimensions), s.currency), [getattr(s, c) for c in COUNTS])
        for s in found
    ] == sorted(expected.items())
