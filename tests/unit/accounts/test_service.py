from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyRole
from dragoman_server.accounts.service import LAST_TIME, Accounts, operator
from dragoman_server.caller import Caller
from dragoman_server.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from dragoman_server.ids import new_id
from dragoman_server.store.memory import MemoryKeys

NOW = 1_790_000_000


@pytest.fixture
def accounts() -> Accounts:
    return Accounts(MemoryKeys(), clock=lambda: NOW)


async def test_a_key_is_what_was_asked_for(accounts: Accounts) -> None:
    expire_time = (NOW + 60) * 1_000_000
    key, secret = await accounts.create_key(operator(), "CI 🔑", KeyRole.KEY_ROLE_ADMIN, expire_time)
    assert key.id.startswith("key_")
    assert (key.account_id, key.name, key.role) == ("default", "CI 🔑", KeyRole.KEY_ROLE_ADMIN)
    assert (key.create_time, key.expire_time, key.revoke_time) == (NOW * 1_000_000, expire_time, None)
    assert secret.startswith(key.prefix)
    assert await accounts.get_key(operator(), key.id) == key


async def test_an_unspecified_role_is_member(accounts: Accounts) -> None:
    key, _ = await accounts.create_key(operator(), "x")
    assert key.role == KeyRole.KEY_ROLE_MEMBER


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "  "}),
        ("name", {"name": "n" * 129}),
        ("name", {"name": "two\nlines"}),
        ("name", {"name": "nul\0"}),
        ("role", {"name": "x", "role": 3}),
        ("role", {"name": "x", "role": -1}),
        ("expire_time", {"name": "x", "expire_time": NOW * 1_000_000}),
        ("expire_time", {"name": "x", "expire_time": 0}),
        ("expire_time", {"name": "x", "expire_time": LAST_TIME + 1}),
    ],
)
async def test_what_is_out_of_bounds_is_named(accounts: Accounts, field: str, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await accounts.create_key(operator(), **arguments)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert await accounts.list_keys(operator()) == ([], "")


async def test_the_longest_name_and_time_are_taken(accounts: Accounts) -> None:
    key, _ = await accounts.create_key(operator(), "n" * 128, expire_time=LAST_TIME)
    assert await accounts.get_key(operator(), key.id) == key


async def test_a_member_manages_nothing_but_sees_its_own_key(accounts: Accounts) -> None:
    key, secret = await accounts.create_key(operator(), "member")
    other, _ = await accounts.create_key(operator(), "other")
    member = await accounts.authenticate(secret)
    assert await accounts.get_key(member, key.id) == key
    for attempt in (
        accounts.create_key(member, "x"),
        accounts.list_keys(member),
        accounts.revoke_key(member, other.id),
        accounts.revoke_key(member, key.id),
        accounts.get_key(member, other.id),
    ):
        with pytest.raises(Forbidden):
            await attempt
    assert (await accounts.get_key(operator(), other.id)).revoke_time is None


async def test_a_foreign_key_does_not_exist(accounts: Accounts) -> None:
    key, secret = await accounts.create_key(operator(), "mine")
    stranger = Caller("other", new_id("key"), KeyRole.KEY_ROLE_ADMIN)
    for attempt in (accounts.get_key(stranger, key.id), accounts.revoke_key(stranger, key.id)):
        with pytest.raises(NotFound):
            await attempt
    assert await accounts.list_keys(stranger) == ([], "")
    assert await accounts.authenticate(secret)


@given(st.text(max_size=80))
async def test_an_unknown_key_is_not_found_whatever_its_id(key_id: str) -> None:
    accounts = Accounts(MemoryKeys())
    for attempt in (accounts.get_key(operator(), key_id), accounts.revoke_key(operator(), key_id)):
        with pytest.raises(NotFound):
            await attempt


async def test_revoking_is_repeatable(accounts: Accounts) -> None:
    key, _ = await accounts.create_key(operator(), "x")
    once = await accounts.revoke_key(operator(), key.id)
    assert once.revoke_time == NOW * 1_000_000
    assert await accounts.revoke_key(operator(), key.id) == once


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 6, 7])
async def test_pages_hold_every_key_once_oldest_first(accounts: Accounts, page_size: int) -> None:
    made = [(await accounts.create_key(operator(), f"key {number}"))[0] for number in range(6)]
    await accounts.revoke_key(operator(), made[2].id)
    pages = []
    token = ""
    while True:
        keys, token = await accounts.list_keys(operator(), page_size, token)
        pages.append([key.id for key in keys])
        if not token:
            break
    assert [key_id for page in pages for key_id in page] == sorted(key.id for key in made)
    assert [len(page) for page in pages[:-1]] == [page_size] * (len(pages) - 1)
    assert pages[-1]  # the last page is not an empty one


async def test_page_sizes_have_a_default_and_a_bound(accounts: Accounts) -> None:
    for number in range(1002):
        await accounts.create_key(operator(), f"key {number}")
    for asked, got in ((0, 50), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        keys, token = await accounts.list_keys(operator(), asked)
        assert len(keys) == got
        assert token
    with pytest.raises(InvalidRequest) as refused:
        await accounts.list_keys(operator(), -1)
    assert refused.value.field == "page_size"
    with pytest.raises(InvalidRequest):
        await accounts.list_keys(operator(), 0, "nonsense")


async def test_the_first_start_makes_one_admin_key(accounts: Accounts) -> None:
    secret = await accounts.bootstrap()
    assert secret is not None
    (key,), _ = await accounts.list_keys(operator())
    assert (key.name, key.role) == ("first key", KeyRole.KEY_ROLE_ADMIN)
    assert (await accounts.authenticate(secret)).key_id == key.id
    assert await accounts.bootstrap() is None
    await accounts.revoke_key(operator(), key.id)
    assert await accounts.bootstrap() is None
    assert len((await accounts.list_keys(operator()))[0]) == 1


async def test_a_chosen_key_is_made_once_and_a_changed_one_is_added(accounts: Accounts) -> None:
    first, second = "automation-key-1", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"
    for secret in (first, first, second, first, None):
        assert await accounts.bootstrap(secret) is None
    keys, _ = await accounts.list_keys(operator())
    assert [(key.name, key.role) for key in keys] == [("bootstrap key", KeyRole.KEY_ROLE_ADMIN)] * 2
    assert {(await accounts.authenticate(secret)).key_id for secret in (first, second)} == {key.id for key in keys}
    assert {key.prefix for key in keys} == {"auto", second[:7]}


async def test_a_revoked_chosen_key_stays_revoked_and_the_start_says_so(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    await accounts.bootstrap("automation-key-1")
    (key,), _ = await accounts.list_keys(operator())
    await accounts.revoke_key(operator(), key.id)
    with caplog.at_level(logging.WARNING):
        await accounts.bootstrap("automation-key-1")
    assert [(record.levelname, vars(record)["facts"]) for record in caplog.records] == [("WARNING", {"key_id": key.id})]
    with pytest.raises(Unauthenticated) as refused:
        await accounts.authenticate("automation-key-1")
    assert refused.value.reason is Reason.API_KEY_REVOKED


@pytest.mark.parametrize(
    "secret", ["", "fifteen-letters", "with a space in it", "line\nline-line-line", "ключ" * 8, "k" * 513]
)
async def test_an_unfit_chosen_key_is_refused_without_repeating_it(accounts: Accounts, secret: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await accounts.bootstrap(secret)
    assert refused.value.field == "DRAGOMAN_BOOTSTRAP_KEY"
    assert not secret or secret not in refused.value.message
    assert await accounts.list_keys(operator()) == ([], "")


async def test_the_log_tells_who_did_what_and_no_secret(accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        first = await accounts.bootstrap()
        assert first is not None
        admin = await accounts.authenticate(first)
        key, secret = await accounts.create_key(admin, "mine")
        await accounts.revoke_key(admin, key.id)
    records = [(record.getMessage(), vars(record)["facts"]) for record in caplog.records]
    assert [message for message, _ in records] == ["key made", "key made", "key revoked"]
    assert records[2][1] == {"key_id": key.id, "by": admin.key_id}
    text = repr([vars(record) for record in caplog.records])
    for hidden in (first, secret, first[4:], secret[4:], key.secret_hash.hex(), repr(key.secret_hash)):
        assert hidden not in text
