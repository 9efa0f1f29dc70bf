from __future__ import annotations

import pytest

from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.caller import Caller
from dragoman_server.errors import Forbidden, InvalidRequest, NotFound
from dragoman_server.store.memory import MemoryStore
from dragoman_server.store.usage.records import HOUR, UsageRecord
from dragoman_server.usage import service
from dragoman_server.usage.service import DAY, Usage, UsageFilter

NOW = 1_790_000_000
ADMIN = Caller("default", "key_admin", KeyRole.KEY_ROLE_ADMIN)
OPERATOR = Caller("elsewhere", "", KeyRole.KEY_ROLE_OPERATOR)


def a_record(run: str, user: str, key: str, *, age: int = 0, model: str = "m") -> UsageRecord:
    time = NOW * 1_000_000 - age
    return UsageRecord(run, "default", user, key, time, "chat", model, "p", 2, "", 1, 0, 1, 0, False, "", 0, 1, 1)


@pytest.fixture
async def usage() -> Usage:
    store = MemoryStore().usage
    await store.add(
        [
            a_record("run_1", "user_a", "key_a"),
            a_record("run_2", "user_a", ""),
            a_record("run_3", "user_b", "key_b"),
            a_record("run_4", "", "key_c"),
            a_record("run_5", "", "key_d"),
        ]
    )
    return Usage(store, lambda: NOW)


async def runs(usage: Usage, caller: Caller, **which: str) -> set[str]:
    records, _ = await usage.records(caller, UsageFilter(**which))  # type: ignore[arg-type]  # no times
    sums = await usage.summarize(caller, UsageFilter(**which), interval=DAY)  # type: ignore[arg-type]
    assert sum(total.runs for total in sums) == len(records)
    return {record.run_id for record in records}


async def test_administrators_see_all_of_their_account(usage: Usage) -> None:
    assert len(await runs(usage, ADMIN)) == 5
    assert await runs(usage, ADMIN, user_id="user_a") == {"run_1", "run_2"}
    assert await runs(usage, ADMIN, account_id="default", key_id="key_c") == {"run_4"}
    with pytest.raises(NotFound):
        await runs(usage, ADMIN, account_id="elsewhere")


async def test_operators_see_every_account(usage: Usage) -> None:
    assert await runs(usage, OPERATOR) == set()
    assert len(await runs(usage, OPERATOR, account_id="default")) == 5


async def test_users_see_what_they_did_whatever_the_credential(usage: Usage) -> None:
    for caller in (Caller("default", "key_a", user_id="user_a"), Caller("default", "", user_id="user_a")):
        assert await runs(usage, caller) == {"run_1", "run_2"}
        assert await runs(usage, caller, key_id="key_a") == {"run_1"}
        assert await runs(usage, caller, key_id="key_b") == set()
        with pytest.raises(NotFound):
            await runs(usage, caller, user_id="user_b")


async def test_a_key_that_is_nobodys_shows_what_it_did(usage: Usage) -> None:
    caller = Caller("default", "key_c")
    assert await runs(usage, caller) == {"run_4"}
    for which in ({"key_id": "key_d"}, {"user_id": "user_a"}, {"account_id": "elsewhere"}):
        with pytest.raises(NotFound):
            await runs(usage, caller, **which)


async def test_who_is_neither_sees_nothing(usage: Usage) -> None:
    with pytest.raises(Forbidden):
        await runs(usage, Caller("default", ""))


async def test_sums_go_thirty_days_back_and_begin_with_an_hour(usage: Usage) -> None:
    store = MemoryStore().usage
    ages = (0, HOUR, 29 * DAY, 31 * DAY)
    await store.add([a_record(f"run_{age}", "", "k", age=age) for age in ages])
    usage = Usage(store, lambda: NOW)
    sums = await usage.summarize(ADMIN, UsageFilter(), interval=HOUR)
    assert [total.start_time % HOUR for total in sums] == [0, 0, 0]
    hour = NOW * 1_000_000 // HOUR * HOUR
    middle = UsageFilter(start_time=hour - HOUR + 1, end_time=hour + 1)
    assert [total.start_time for total in await usage.summarize(ADMIN, middle, interval=HOUR)] == [hour - HOUR]
    (everything,) = await usage.summarize(ADMIN, UsageFilter(start_time=0), interval=None)
    assert (everything.start_time, everything.runs) == (0, 4)


async def test_more_sums_than_anybody_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_SUMS", 3)
    store = MemoryStore().usage
    usage = Usage(store, lambda: NOW)
    await store.add([a_record(f"run_{i}", "", "k", model=f"m{i}") for i in range(3)])
    assert len(await usage.summarize(ADMIN, UsageFilter(), interval=DAY, dimensions=["model"])) == 3
    await store.add([a_record("run_3", "", "k", model="m3")])
    with pytest.raises(InvalidRequest):
        await usage.summarize(ADMIN, UsageFilter(), interval=DAY, dimensions=["model"])


async def test_a_token_is_good_for_its_account_only(usage: Usage) -> None:
    _, token = await usage.records(ADMIN, UsageFilter(), page_size=2)
    rest, end = await usage.records(ADMIN, UsageFilter(), page_size=9, page_token=token)
    assert (len(rest), end) == (3, "")
    with pytest.raises(InvalidRequest):
        await usage.records(OPERATOR, UsageFilter(), page_token=token)
