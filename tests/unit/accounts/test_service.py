from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts import sweeps
from dragoman_server.accounts.keys import LAST_TIME, operator
from dragoman_server.accounts.service import Accounts
from dragoman_server.caller import Caller
from dragoman_server.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from dragoman_server.ids import new_id
from dragoman_server.settings import AuditSettings
from dragoman_server.store.identity.records import AuditRecord
from dragoman_server.store.memory import MemoryStore

NOW = 1_790_000_000


@pytest.fixture
def accounts() -> Accounts:
    return Accounts(MemoryStore(), clock=lambda: NOW)


async def test_a_key_is_what_was_asked_for(accounts: Accounts) -> None:
    expire_time = (NOW + 60) * 1_000_000
    key, secret = await accounts.keys.create(operator(), "CI 🔑", KeyRole.KEY_ROLE_ADMIN, expire_time)
    assert key.id.startswith("key_")
    assert (key.account_id, key.name, key.role) == ("default", "CI 🔑", KeyRole.KEY_ROLE_ADMIN)
    assert (key.create_time, key.expire_time, key.revoke_time) == (NOW * 1_000_000, expire_time, None)
    assert secret.startswith(key.prefix)
    assert await accounts.keys.get(operator(), key.id) == key


async def test_an_unspecified_role_is_member(accounts: Accounts) -> None:
    key, _ = await accounts.keys.create(operator(), "x")
    assert key.role == KeyRole.KEY_ROLE_MEMBER


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "  "}),
        ("name", {"name": "n" * 129}),
        ("name", {"name": "two\nlines"}),
        ("name", {"name": "nul\0"}),
        ("role", {"name": "x", "role": 99}),
        ("role", {"name": "x", "role": -1}),
        ("expire_time", {"name": "x", "expire_time": NOW * 1_000_000}),
        ("expire_time", {"name": "x", "expire_time": 0}),
        ("expire_time", {"name": "x", "expire_time": LAST_TIME + 1}),
    ],
)
async def test_what_is_out_of_bounds_is_named(accounts: Accounts, field: str, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await accounts.keys.create(operator(), **arguments)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert await accounts.keys.page(operator()) == ([], "")


async def test_the_longest_name_and_time_are_taken(accounts: Accounts) -> None:
    key, _ = await accounts.keys.create(operator(), "n" * 128, expire_time=LAST_TIME)
    assert await accounts.keys.get(operator(), key.id) == key


async def test_a_member_manages_nothing_but_sees_its_own_key(accounts: Accounts) -> None:
    key, secret = await accounts.keys.create(operator(), "member")
    other, _ = await accounts.keys.create(operator(), "other")
    member = await accounts.authenticate(secret)
    assert await accounts.keys.get(member, key.id) == key
    for attempt in (
        accounts.keys.create(member, "x"),
        accounts.keys.page(member),
        accounts.keys.revoke(member, other.id),
        accounts.keys.revoke(member, key.id),
        accounts.keys.get(member, other.id),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert (await accounts.keys.get(operator(), other.id)).revoke_time is None


async def test_a_foreign_key_does_not_exist(accounts: Accounts) -> None:
    key, secret = await accounts.keys.create(operator(), "mine")
    stranger = Caller("other", new_id("key"), KeyRole.KEY_ROLE_ADMIN)
    for attempt in (accounts.keys.get(stranger, key.id), accounts.keys.revoke(stranger, key.id)):
        with pytest.raises(NotFound):
            await attempt
    assert await accounts.keys.page(stranger) == ([], "")
    assert await accounts.authenticate(secret)


@given(st.text(max_size=80))
async def test_an_unknown_key_is_not_found_whatever_its_id(key_id: str) -> None:
    accounts = Accounts(MemoryStore())
    for attempt in (accounts.keys.get(operator(), key_id), accounts.keys.revoke(operator(), key_id)):
        with pytest.raises(NotFound):
            await attempt


async def test_revoking_is_repeatable(accounts: Accounts) -> None:
    key, _ = await accounts.keys.create(operator(), "x")
    once = await accounts.keys.revoke(operator(), key.id)
    assert once.revoke_time == NOW * 1_000_000
    assert await accounts.keys.revoke(operator(), key.id) == once


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 6, 7])
async def test_pages_hold_every_key_once_oldest_first(accounts: Accounts, page_size: int) -> None:
    made = [(await accounts.keys.create(operator(), f"key {number}"))[0] for number in range(6)]
    await accounts.keys.revoke(operator(), made[2].id)
    pages = []
    token = ""
    while True:
        keys, token = await accounts.keys.page(operator(), page_size, token)
        pages.append([key.id for key in keys])
        if not token:
            break
    assert [key_id for page in pages for key_id in page] == sorted(key.id for key in made)
    assert [len(page) for page in pages[:-1]] == [page_size] * (len(pages) - 1)
    assert pages[-1]  # the last page is not an empty one


async def test_page_sizes_have_a_default_and_a_bound(accounts: Accounts) -> None:
    for number in range(1002):
        await accounts.keys.create(operator(), f"key {number}")
    for asked, got in ((0, 50), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        keys, token = await accounts.keys.page(operator(), asked)
        assert len(keys) == got
        assert token
    with pytest.raises(InvalidRequest) as refused:
        await accounts.keys.page(operator(), -1)
    assert refused.value.field == "page_size"
    with pytest.raises(InvalidRequest):
        await accounts.keys.page(operator(), 0, "nonsense")


async def test_the_first_start_makes_one_admin_key(accounts: Accounts) -> None:
    secret = await accounts.keys.bootstrap()
    assert secret is not None
    (key,), _ = await accounts.keys.page(operator())
    assert (key.name, key.role) == ("first key", KeyRole.KEY_ROLE_OPERATOR)
    assert (await accounts.authenticate(secret)).key_id == key.id
    assert await accounts.keys.bootstrap() is None
    await accounts.keys.revoke(operator(), key.id)
    assert await accounts.keys.bootstrap() is None
    assert len((await accounts.keys.page(operator()))[0]) == 1


async def test_a_chosen_key_is_made_once_and_a_changed_one_is_added(accounts: Accounts) -> None:
    first, second = "automation-key-1", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"
    for secret in (first, first, second, first, None):
        assert await accounts.keys.bootstrap(secret) is None
    keys, _ = await accounts.keys.page(operator())
    assert [(key.name, key.role) for key in keys] == [("bootstrap key", KeyRole.KEY_ROLE_OPERATOR)] * 2
    assert {(await accounts.authenticate(secret)).key_id for secret in (first, second)} == {key.id for key in keys}
    assert {key.prefix for key in keys} == {"auto", second[:7]}


async def test_a_revoked_chosen_key_stays_revoked_and_the_start_says_so(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    await accounts.keys.bootstrap("automation-key-1")
    (key,), _ = await accounts.keys.page(operator())
    await accounts.keys.revoke(operator(), key.id)
    with caplog.at_level(logging.WARNING):
        await accounts.keys.bootstrap("automation-key-1")
    assert [(record.levelname, vars(record)["facts"]) for record in caplog.records] == [("WARNING", {"key_id": key.id})]
    with pytest.raises(Unauthenticated) as refused:
        await accounts.authenticate("automation-key-1")
    assert refused.value.reason is Reason.API_KEY_REVOKED


@pytest.mark.parametrize(
    "secret", ["", "fifteen-letters", "with a space in it", "line\nline-line-line", "ключ" * 8, "k" * 513]
)
async def test_an_unfit_chosen_key_is_refused_without_repeating_it(accounts: Accounts, secret: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await accounts.keys.bootstrap(secret)
    assert refused.value.field == "DRAGOMAN_BOOTSTRAP_KEY"
    assert not secret or secret not in refused.value.message
    assert await accounts.keys.page(operator()) == ([], "")


async def test_the_log_tells_who_did_what_and_no_secret(accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        first = await accounts.keys.bootstrap()
        assert first is not None
        admin = await accounts.authenticate(first)
        key, secret = await accounts.keys.create(admin, "mine")
        await accounts.keys.revoke(admin, key.id)
    records = [(record.getMessage(), vars(record)["facts"]) for record in caplog.records]
    assert [message for message, _ in records] == ["key made", "key made", "key revoked"]
    assert records[2][1] == {"key_id": key.id, "by": admin.key_id}
    text = repr([vars(record) for record in caplog.records])
    for hidden in (first, secret, first[4:], secret[4:], key.secret_hash.hex(), repr(key.secret_hash)):
        assert hidden not in text


def test_what_checks_tokens_is_imported_where_it_is_needed_and_never_on_the_loop() -> None:
    program = """
import asyncio, sys, threading
from pydantic import SecretStr
from dragoman_server.accounts.service import Accounts
from dragoman_server.settings import AuthSettings, JwtSettings
from dragoman_server.store.memory import MemoryStore

class Witness:
    def find_spec(self, name, path=None, target=None):
        if name == "jwt":
            print(threading.current_thread() is threading.main_thread())

async def main():
    await Accounts(MemoryStore()).open()
    print("jwt" in sys.modules)
    jwt = JwtSettings(issuer="https://issuer.test", audience="a", hs256_secret=SecretStr("x" * 32))
    await Accounts(MemoryStore(), AuthSettings(jwt=jwt)).open()
    print("jwt" in sys.modules)

sys.meta_path.insert(0, Witness())
asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize(("days", "ages_left"), [(0, [0, 1, 2, 3, 4000]), (2, [0, 1, 2]), (10**12, [0, 1, 2, 3, 4000])])
async def test_audit_entries_are_kept_as_long_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, days: int, ages_left: list[int]
) -> None:
    store, sweeps_done = MemoryStore(), 0
    again = asyncio.Event()
    ages = {f"aud_{age}": age for age in (0, 1, 2, 3, 4000)}
    for entry_id, age in ages.items():
        time = int((NOW - age * 24 * 3600) * 1_000_000)
        await store.identity.audit.add(AuditRecord(entry_id, "gone", time, "operator", "account.delete", "gone"))

    async def erase_late(since: int) -> None:
        nonlocal sweeps_done
        sweeps_done += 1
        if sweeps_done == 2:
            again.set()

    monkeypatch.setattr(sweeps, "FIRST_AFTER", 0)
    monkeypatch.setattr(sweeps, "EVERY", 0)
    monkeypatch.setattr(sweeps, "_AT_ONCE", 1)
    monkeypatch.setattr(store.identity.users, "erase_late", erase_late)
    accounts = Accounts(store, clock=lambda: NOW, audit=AuditSettings(retention_days=days))
    accounts.start()
    await asyncio.wait_for(again.wait(), 10)
    await accounts.stop()
    left = await store.identity.audit.page("gone", limit=9)
    assert sorted(ages[entry.id] for entry in left) == ages_left


async def test_erased_users_are_swept_and_a_failed_sweep_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked, done = MemoryStore(), [], asyncio.Event()

    async def erase_late(since: int) -> None:
        asked.append(since)
        if len(asked) < 3:
            raise Unavailable("not now") if len(asked) == 1 else RuntimeError("a fault")
        done.set()

    monkeypatch.setattr(sweeps, "FIRST_AFTER", 0)
    monkeypatch.setattr(sweeps, "EVERY", 0)
    monkeypatch.setattr(store.identity.users, "erase_late", erase_late)
    accounts = Accounts(store, clock=lambda: NOW)
    accounts.start()
    await asyncio.wait_for(done.wait(), 10)
    await accounts.stop()
    assert asked[:3] == [(NOW - 24 * 3600) * 1_000_000] * 3
    count = len(asked)
    await asyncio.sleep(0)
    assert len(asked) == count
